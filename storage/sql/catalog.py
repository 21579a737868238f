"""The SQL catalog of a workspace: a DuckDB file of views, rebuilt from the manifests.

The file contains no data. It is replaced by one rename, any DuckDB client can open it, and views and columns have
comments that describe them.
"""

import logging
from typing import NamedTuple

import duckdb

from storage.datasets.manifest import Dataset, committed, load
from storage.errors import RunFailure
from storage.places.place import Location
from storage.sql.comparison_views import COMPARISON_COLUMNS, COMPARISON_TABLES, comparison_query
from storage.sql.database import identifier, let_read, literal, parquet_source, reason
from storage.sql.meanings import column_comment, in_order, view_comment
from storage.sql.probe_views import PROBE_COLUMNS, PROBE_TABLES
from storage.sql.scan import columns_of, corpus_query
from storage.workspace import Workspace, is_name

_LOG = logging.getLogger(__name__)


class _Part(NamedTuple):
    """The query for one corpus, run or comparison in a view."""

    of: str
    query: str


# Columns of empty views, so that a query returns no rows instead of an error.
_COLUMNS = {
    "shards": {
        **dict.fromkeys(("corpus", "path", "split", "stratum", "family"), "VARCHAR"),
        **dict.fromkeys(("width", "rows", "bytes"), "BIGINT"),
        **dict.fromkeys(("sha256", "content"), "VARCHAR"),
    },
    "runs": {"run": "VARCHAR", "corpus": "VARCHAR", "tokenizer": "VARCHAR", "training": "JSON"},
    "metrics": {
        "run": "VARCHAR",
        "step": "BIGINT",
        "epoch": "DOUBLE",
        "problems": "BIGINT",
        "loss": "DOUBLE",
        **dict.fromkeys(("learning_rate", "seconds", "data_seconds", "problems_per_second"), "DOUBLE"),
        **dict.fromkeys(("share_of_peak", "validation_exact_match"), "DOUBLE"),
    },
    "predictions": {
        "run": "VARCHAR",
        "suite": "VARCHAR",
        "checkpoint": "VARCHAR",
        "corpus": "VARCHAR",
        "id": "BIGINT",
        **dict.fromkeys(("split", "family"), "VARCHAR"),
        "width": "BIGINT",
        **dict.fromkeys(("problem", "answer", "missing", "decoding", "prediction"), "VARCHAR"),
        "correct": "BOOLEAN",
        "confidence": "FLOAT",
        "canonical": "UBIGINT",
        "operators": "VARCHAR",
        **dict.fromkeys(("terms", "digits", "answer_digits", "carries", "depth"), "INTEGER"),
        "negative": "BOOLEAN",
        "kind": "VARCHAR",
    },
    **PROBE_COLUMNS,
    **COMPARISON_COLUMNS,
}


def refresh_catalog(workspace: Workspace) -> Location:
    """Rebuilds `catalog.duckdb`: corpus_<name>, shards, runs, metrics, predictions, probes and comparisons.

    Raises `RunFailure` if it cannot be written, for example on a full disk.
    """
    try:
        _write(workspace)
    except duckdb.IOException as error:
        raise RunFailure(
            f"{workspace.catalog} can't be written: free some space there and run the same command again "
            f"({reason(error)})"
        ) from error
    return workspace.catalog


def _write(workspace: Workspace) -> None:
    with workspace.catalog.staged() as path, duckdb.connect() as connection:
        let_read(connection, workspace.root)
        corpora = _corpora(workspace)
        views = {
            **{name: [_empty(columns)] for name, columns in _COLUMNS.items()},
            **_corpus_views(connection, corpora),
            **_shards_view(corpora),
            **_run_views(workspace),
            **_comparison_views(workspace),
        }
        # Older DuckDB clients can read this storage version.
        connection.execute(f"ATTACH {literal(str(path))} AS catalog (STORAGE_VERSION 'v1.0.0')")
        for name, parts in views.items():
            try:
                _create_view(connection, name, parts)
            except duckdb.Error:
                # A damaged part must not affect the other parts.
                if whole := [part for part in parts if _can_be_read(connection, name, part)]:
                    _create_view(connection, name, whole)
        connection.execute("DETACH catalog")


def _can_be_read(connection: duckdb.DuckDBPyConnection, view: str, part: _Part) -> bool:
    """Whether a view of this part alone can be created; otherwise logs a warning that names the part."""
    try:
        _create_view(connection, view, [part])
    except duckdb.Error as error:
        _LOG.warning("%s is left out of view %s in SQL: %s", part.of, view, reason(error))
        return False
    return True


def view_name(corpus: str) -> str:
    """Name of a corpus's view; '-' becomes '_', so that SQL needs no quotes."""
    return f"corpus_{corpus.replace('-', '_')}"


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, parts: list[_Part]) -> None:
    """Creates a view of all parts by column name, with the documented column order and comments."""
    query = " UNION ALL BY NAME ".join(part.query for part in parts)
    columns = in_order(name, columns_of(connection, query))
    view = f"catalog.{identifier(name)}"
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {', '.join(map(identifier, columns))} FROM ({query})")
    connection.execute(f"COMMENT ON VIEW {view} IS {literal(view_comment(name))}")
    for column in columns:
        if comment := column_comment(name, column):
            connection.execute(f"COMMENT ON COLUMN {view}.{identifier(column)} IS {literal(comment)}")


def _empty(columns: dict[str, str]) -> _Part:
    nulls = ", ".join(f"NULL::{kind} AS {identifier(name)}" for name, kind in columns.items())
    return _Part("an empty table", f"SELECT {nulls} WHERE false")


def _corpora(workspace: Workspace) -> list[Dataset]:
    folder, found = workspace.root / "corpora", []
    for name in folder.children():
        try:
            if committed(folder / name):
                found.append(load(folder / name, f"corpus {name!r}"))
        except Exception as error:
            # A damaged corpus must not hide the others.
            _LOG.warning("corpus %s is left out of SQL: %s", name, reason(error))
    return found


def _corpus_views(connection: duckdb.DuckDBPyConnection, corpora: list[Dataset]) -> dict[str, list[_Part]]:
    views: dict[str, list[_Part]] = {}
    for corpus in corpora:
        name = corpus.location.name
        view = view_name(name) if view_name(name) not in views else f"corpus_{name}"
        try:
            views[view] = [_Part(f"corpus {name}", corpus_query(connection, corpus, corpus.shards))]
        except Exception as error:
            _LOG.warning("corpus %s is left out of SQL: %s", name, reason(error))
    return views


def _shards_view(corpora: list[Dataset]) -> dict[str, list[_Part]]:
    tables = [
        _Part(
            f"corpus {corpus.location.name}",
            f"SELECT {literal(corpus.location.name)} AS corpus, *, "
            "regexp_extract(path, '/family=([^/]+)/', 1) AS family, "
            "try_cast(regexp_extract(path, '/width=([^/]+)/', 1) AS BIGINT) AS width "
            f"FROM {parquet_source([str(corpus.list_place)], options=', hive_partitioning = false')}",
        )
        for corpus in corpora
    ]
    return {"shards": [_empty(_COLUMNS["shards"]), *tables]}


def _run_views(workspace: Workspace) -> dict[str, list[_Part]]:
    folder = workspace.root / "runs"
    # Only valid names: SQL would treat a folder such as '[n]otebook' as a glob pattern.
    names = [name for name in folder.children() if is_name(name) and (folder / name / "run.json").exists()]
    # Runs of earlier versions lack some columns of the metrics.
    metrics, predictions = ([_empty(_COLUMNS[view])] for view in ("metrics", "predictions"))
    probes = {view: [_empty(_COLUMNS[view])] for view in PROBE_TABLES}
    runs = [_empty(_COLUMNS["runs"])]
    for name in names:
        run, of = folder / name, f"run {name}"
        if parts := _parquet_files(run / "metrics"):
            source = parquet_source(parts, options=", hive_partitioning = false, union_by_name = true")
            metrics.append(_Part(of, f"SELECT * FROM {source}"))
        if answers := _parquet_files(run / "predictions"):
            source = parquet_source(answers, options=", hive_partitioning = false, union_by_name = true")
            predictions.append(_Part(of, f"SELECT {literal(name)} AS run, * FROM {source}"))
        found = _parquet_files(run / "probes")
        for view, table in PROBE_TABLES.items():
            if own := [path for path in found if path.rpartition("/")[2].startswith(f"{table}.")]:
                source = parquet_source(own, options=", hive_partitioning = false, union_by_name = true")
                probes[view].append(_Part(of, f"SELECT {literal(name)} AS run, * FROM {source}"))
        source = f"read_json({literal(str(run / 'run.json'))}, hive_partitioning = false)"
        runs.append(_Part(of, f"SELECT name AS run, corpus, tokenizer, training::JSON AS training FROM {source}"))
    return {"metrics": metrics, "predictions": predictions, "runs": runs, **probes}


def _comparison_views(workspace: Workspace) -> dict[str, list[_Part]]:
    folder = workspace.root / "comparisons"
    views = {view: [_empty(_COLUMNS[view])] for view in COMPARISON_TABLES}
    for name in folder.children():
        found = _parquet_files(folder / name)
        for view, table in COMPARISON_TABLES.items():
            if own := [path for path in found if path.endswith(f"/{table}")]:
                source = parquet_source(own, options=", hive_partitioning = false")
                query = f"SELECT {literal(name)} AS comparison, * FROM ({comparison_query(view, source)})"
                views[view].append(_Part(f"comparison {name}", query))
    return views


def _parquet_files(folder: Location) -> list[str]:
    return [str(folder / name) for name in folder.children() if name.endswith(".parquet")]
