"""The rows of a dataset that match a SQL predicate, counted once in blocks for fast access to any slice.

A block is a run of rows of one shard. From the counts, a reader computes which blocks contain the requested rows, and
reads only these.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.datasets.manifest import Dataset, ShardRecord, hash_of
from storage.errors import UserError
from storage.places.place import Location
from storage.sql.database import (
    closing,
    connect,
    identifier,
    interruptible,
    literal,
    parquet_source,
    parse_sql,
    reason,
)
from storage.sql.memory import bounded_memory
from storage.sql.scan import PARTITIONS, partition_of

BLOCK_ROWS = 1 << 16
_TIME = re.compile("DATE|TIME|INTERVAL", re.IGNORECASE)
MOST_GATHERED = 1 << 22


@dataclass(frozen=True)
class KeptRows:
    """The rows of one shard that match a predicate."""

    source: str
    """SQL for the shard as a table."""
    predicate: str
    counts: NDArray[np.int64]
    """Matching rows of each block, [blocks]."""

    @property
    def rows(self) -> int:
        """Number of matching rows."""
        return int(self.counts.sum())

    def query(self, columns: str, first: int, rows: int) -> str:
        """SQL for `columns` of the matching rows [first, first + rows), in the order of the shard."""
        ends = np.cumsum(self.counts)
        begin, end = (int(np.searchsorted(ends, row, side="right")) for row in (first, first + rows - 1))
        skipped = first - (int(ends[begin - 1]) if begin else 0)
        return (
            f"SELECT {columns} FROM {self.source} WHERE file_row_number >= {begin * BLOCK_ROWS} "
            f"AND file_row_number < {(end + 1) * BLOCK_ROWS} AND ({self.predicate}\n) LIMIT {rows} OFFSET {skipped}"
        )


def kept_rows(dataset: Dataset, shards: Sequence[ShardRecord], predicate: str, folder: Location) -> dict[str, KeptRows]:
    """The rows of each shard, by its path, that match `predicate`; one scan counts them, cached below `folder`.

    Raises `UserError` if `predicate` is not a predicate over the dataset's columns.
    """
    # Other families may have columns that these shards lack.
    columns = predicate_columns(dataset, dataset.shards)
    check_predicate(predicate, columns)
    sources = {shard.path: _source(dataset, shard, columns) for shard in shards}
    cache = folder / f"{hash_of([dataset.manifest.identity, predicate, list(sources)])[:16]}.parquet"
    counts = _cached_counts(cache, shards)
    if counts is None:
        counts = {shard.path: _block_counts(dataset, sources[shard.path], shard, predicate) for shard in shards}
        with cache.staged() as path:
            pq.write_table(pa.table({"path": list(counts), "rows": list(counts.values())}), path)
    return {path: KeptRows(sources[path], predicate, np.array(rows, np.int64)) for path, rows in counts.items()}


def gathered_rows(
    dataset: Dataset, shards: Sequence[ShardRecord], predicate: str, folder: Location, column: str
) -> tuple[Location, int]:
    """Writes `column` of the rows that match `predicate` to a Parquet file; returns its location and row count.

    It is for rare rows that are read repeatedly: one scan writes them below `folder`, and later calls reuse the file.
    The file contains at most the first 2²² of them. They are a random sample, because a corpus's row order is a keyed
    permutation. Raises `UserError` if `predicate` is not a predicate over the dataset's columns.
    """
    # Other families may have columns that these shards lack.
    columns = predicate_columns(dataset, dataset.shards)
    check_predicate(predicate, columns)
    sources = [_source(dataset, shard, columns) for shard in shards]
    cache = folder / f"{hash_of([dataset.manifest.identity, predicate, column, sources, MOST_GATHERED])[:16]}.parquet"
    if not cache.exists():
        union = " UNION ALL ".join(f"SELECT {column} FROM {source} WHERE ({predicate}\n)" for source in sources)
        table = _evaluated(dataset, predicate, f"{union} LIMIT {MOST_GATHERED}")
        with cache.staged() as path:
            pq.write_table(table, path)
    with cache.opened() as file:
        return cache, pq.ParquetFile(file).metadata.num_rows


def _cached_counts(cache: Location, shards: Sequence[ShardRecord]) -> dict[str, list[int]] | None:
    """The cached row counts per block of each shard; None if they are missing or invalid."""
    try:
        with cache.opened() as file:
            table = pq.ParquetFile(file).read()
        counts = dict(zip(table.column("path").to_pylist(), table.column("rows").to_pylist(), strict=True))
    except (pa.ArrowException, OSError, KeyError):
        return None
    blocks = {shard.path: -(-shard.rows // BLOCK_ROWS) for shard in shards}
    return counts if {path: len(rows) for path, rows in counts.items()} == blocks else None


def predicate_columns(dataset: Dataset, shards: Sequence[ShardRecord]) -> dict[str, str]:
    """Names and SQL types of all columns that a predicate can use; a shard without one of them has nulls there."""
    types: dict[str, str] = {}
    first_shards = {shard.stratum: shard for shard in reversed(shards)}
    with connect(dataset.location) as connection:
        for shard in first_shards.values():
            described = connection.execute(f"DESCRIBE SELECT * FROM {_source(dataset, shard, {})}").fetchall()
            types = {row[0]: row[1] for row in described} | types
    return types


def check_predicate(predicate: str, columns: dict[str, str]) -> None:
    """Raises `UserError` unless `predicate` is one deterministic, row-wise boolean condition over `columns`."""
    with closing(connect()) as connection, bounded_memory():
        connection.execute("SET enable_external_access = false")
        types = ", ".join(f"{identifier(name)} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE rows ({types})")
        # One row of nulls: constant expressions are evaluated, but no error depends on values.
        connection.execute("INSERT INTO rows DEFAULT VALUES")
        try:
            rows = connection.table("rows").filter(duckdb.SQLExpression(predicate))
            query = f"SELECT ({predicate}\n) FROM rows"
            kinds = [row[1] for row in connection.execute(f"DESCRIBE {query}").fetchall()]
            _refuse_changing(connection, predicate, query, columns)
            interruptible(connection, rows.fetchall)
        except duckdb.Error as error:
            known = ", ".join(columns)
            raise UserError(f"where {predicate!r} is not a valid condition over {known}: {reason(error)}") from error
        if kinds != ["BOOLEAN"]:
            raise UserError(
                f"where {predicate!r} has type {', '.join(kinds)}, but must be one BOOLEAN condition: compare it with "
                "a value"
            )


def _refuse_changing(
    connection: duckdb.DuckDBPyConnection, predicate: str, query: str, columns: dict[str, str]
) -> None:
    """Raises `UserError` if `predicate` depends on more than a row's columns; `query` selects it."""
    varying = _varying(connection)
    # A column reference that is not a column is a session value, such as current_timestamp.
    known_names = {name.lower() for name in columns}
    for node in parse_sql(connection, query):
        if node.get("class") == "SUBQUERY":
            raise UserError(f"where {predicate!r} contains a subquery: use only the columns of the row")
        called = node["function_name"].lower() if node.get("class") == "FUNCTION" else None
        if node.get("class") == "CAST" and _TIME.match(str(node["type_expr"].get("type_name"))):
            # A cast to a time type can read the clock ('now', 'today'), and problems have no times.
            called = f"{node['type_expr']['type_name']}, a time type,"
            varying.add(called)
        named = node["column_names"][-1].lower() if node.get("class") == "COLUMN_REF" else None
        if (called in varying) or (named and named not in known_names):
            raise UserError(
                f"where {predicate!r}: {called or named} is not a column, or can change between calls: leave it out"
            )


def _varying(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Functions whose value can change between calls, and functions that only operate on times.

    DuckDB marks `current_localtimestamp`, and `age` with one argument, as consistent, although they are not. A macro
    such as `ago` has no such mark: it varies if its definition uses a function that varies.
    """
    functions = connection.execute(
        "SELECT function_name, stability, parameter_types, return_type, macro_definition FROM duckdb_functions()"
    ).fetchall()
    varying = {name for name, stability, *_ in functions if stability not in ("CONSISTENT", None)}
    of_times, others = set[str](), set[str]()
    for name, _, parameters, returned, _ in functions:
        kinds = [kind for kind in (*(parameters or ()), returned) if kind]
        (of_times if any(map(_TIME.match, kinds)) else others).add(name)
    varying |= of_times - others
    macros = [(name, set(re.findall(r"\w+", text.lower()))) for name, *_, text in functions if text]
    while more := {name for name, words in macros if words & varying} - varying:
        varying |= more
    return varying


def sql_types(schema: pa.Schema) -> dict[str, str]:
    """Names and SQL types of the columns of an Arrow schema."""
    with closing(connect()) as connection:
        relation = connection.from_arrow(schema.empty_table())
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _block_counts(dataset: Dataset, source: str, shard: ShardRecord, predicate: str) -> list[int]:
    """Matching rows of each block of a shard."""
    query = (
        f"SELECT file_row_number // {BLOCK_ROWS} AS block, count(*) AS rows FROM {source} "
        f"WHERE ({predicate}\n) GROUP BY ALL"
    )
    table = _evaluated(dataset, predicate, query)
    counts = np.zeros(-(-shard.rows // BLOCK_ROWS), np.int64)
    counts[table["block"].to_numpy()] = table["rows"].to_numpy()
    return counts.tolist()


def _evaluated(dataset: Dataset, predicate: str, query: str) -> pa.Table:
    """The result of a query with `predicate`; raises `UserError` if the predicate fails for a row."""
    try:
        with closing(connect(dataset.location, threads=2)) as connection, bounded_memory():
            return interruptible(connection, lambda: connection.sql(query).to_arrow_table())
    except duckdb.Error as error:
        raise UserError(f"where {predicate!r} can't be evaluated: {reason(error)}") from error


def _source(dataset: Dataset, shard: ShardRecord, columns: dict[str, str]) -> str:
    """SQL for one shard as a table with `file_row_number`, and with nulls for those of `columns` that it lacks."""
    location = dataset.checked(shard)
    folders = partition_of(shard.path)
    with location.opened() as file:
        missing = set(columns) - set(pq.read_schema(file).names) - set(folders) - {"file_row_number"}
    more = [f"{literal(value)}::{PARTITIONS[name]} AS {identifier(name)}" for name, value in folders.items()]
    more += [f"NULL::{columns[name]} AS {identifier(name)}" for name in sorted(missing)]
    source = parquet_source([str(location)], options=", file_row_number = true, hive_partitioning = false")
    return f"(SELECT {', '.join(['*', *more])} FROM {source})"
