"""SQL that reads the shards of a corpus as one table, also for several families."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import duckdb

from storage.datasets.manifest import Dataset, ShardRecord
from storage.errors import RunFailure
from storage.sql.database import identifier, literal, parquet_source

# Folders of a shard's path that become columns; fixed types prevent type inference from the values.
PARTITIONS = {"split": "VARCHAR", "family": "VARCHAR", "width": "BIGINT"}


def corpus_query(connection: duckdb.DuckDBPyConnection, corpus: Dataset, shards: Sequence[ShardRecord]) -> str:
    """SQL with one scan per family, combined by column name because families have different columns.

    Raises `RunFailure` if there is no shard.
    """
    scans: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for shard in shards:
        values = partition_of(shard.path)
        scan = values.get("family", ""), tuple(values)
        scans.setdefault(scan, []).append(str(corpus.location / shard.path))
    if not scans:
        raise RunFailure("it has no shard")
    parts = [part.get("family") for part in corpus.manifest.spec.get("mixture", ())]
    return " UNION ALL BY NAME ".join(
        _scan(connection, keys, paths, mixed=parts.count(family) > 1) for (family, keys), paths in scans.items()
    )


def partition_of(path: str) -> dict[str, str]:
    """Columns from a shard's folders, such as split in `data/split=train/grid-000000.parquet`."""
    pairs = (folder.partition("=") for folder in PurePosixPath(path).parts[:-1])
    return {key: value for key, equals, value in pairs if equals and key in PARTITIONS}


def columns_of(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """Column names of a query, in order."""
    return [row[0] for row in connection.execute(f"DESCRIBE {query}").fetchall()]


def _scan(connection: duckdb.DuckDBPyConnection, partitions: tuple[str, ...], paths: list[str], mixed: bool) -> str:
    """SQL for the files of one family; explicit columns prevent that folders above the corpus become columns."""
    first = parquet_source(paths[:1], options=", hive_partitioning = false")
    inside, by_name = columns_of(connection, f"SELECT * FROM {first}"), ""
    if mixed and "a" in inside:
        # Parts of one family can have different numbers of operand columns. Only then is every footer read, because
        # this is slow.
        by_name = ", union_by_name = true"
        every = parquet_source(paths, options=f", hive_partitioning = false{by_name}")
        inside = columns_of(connection, f"SELECT * FROM {every}")
    columns = dict.fromkeys([*inside, *partitions])
    types = ", ".join(f"{literal(key)}: {PARTITIONS[key]}" for key in partitions)
    hive = f", hive_partitioning = true, hive_types = {{{types}}}" if partitions else ", hive_partitioning = false"
    return f"SELECT {', '.join(map(identifier, columns))} FROM {parquet_source(paths, options=hive + by_name)}"
