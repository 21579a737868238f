"""SQL over a workspace: a DuckDB file of views, made anew from the manifests.

The file holds no data. It is replaced in one rename, any DuckDB client can open it, and
every view and column in it says what it means.
"""

import logging

import duckdb

from storage.comparison_views import COMPARISON_COLUMNS, COMPARISON_TABLES
from storage.database import identifier, let_read, literal, parquet_source, reason
from storage.errors import RunFailure
from storage.location import Location, Workspace, is_name
from storage.manifest import Dataset, committed, load
from storage.meanings import column_comment, in_order, view_comment
from storage.probe_views import PROBE_COLUMNS, PROBE_TABLES
from storage.scan import columns_of, corpus_query

_LOG = logging.getLogger(__name__)

# Columns of the views while there is nothing to show, so that a query is answered with no rows.
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
    """Write `catalog.duckdb` anew: corpus_<name>, shards, runs, metrics, predictions, probes and comparisons.

    Raises `RunFailure` where it can't be written, as on a full disk.
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
        # Older DuckDB clients read this storage version too.
        connection.execute(f"ATTACH {literal(str(path))} AS catalog (STORAGE_VERSION 'v1.0.0')")
        for name, parts in views.items():
            # One part's damage leaves the others as they are.
            if not _created(connection, name, parts):
                _created(connection, name, [part for part in parts if _created(connection, name, [part])])
        connection.execute("DETACH catalog")


def _created(connection: duckdb.DuckDBPyConnection, view: str, parts: list[str]) -> bool:
    """Create a view of some parts, in place of what it was, if they can be read; a warning says why they can't."""
    try:
        _create_view(connection, view, " UNION ALL BY NAME ".join(parts))
    except duckdb.Error as error:
        _LOG.warning("a part of view %s is left out of SQL: %s", view, reason(error))
        return False
    return True


def view_name(corpus: str) -> str:
    """Name of a corpus's view; a '-' in the name becomes '_', so that SQL needs no quotes."""
    return f"corpus_{corpus.replace('-', '_')}"


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """A view with its columns by name and in their order, each with its comment, as the view has one."""
    columns = in_order(name, columns_of(connection, query))
    view = f"catalog.{identifier(name)}"
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {', '.join(map(identifier, columns))} FROM ({query})")
    connection.execute(f"COMMENT ON VIEW {view} IS {literal(view_comment(name))}")
    for column in columns:
        if comment := column_comment(name, column):
            connection.execute(f"COMMENT ON COLUMN {view}.{identifier(column)} IS {literal(comment)}")


def _empty(columns: dict[str, str]) -> str:
    return f"SELECT {', '.join(f'NULL::{kind} AS {identifier(name)}' for name, kind in columns.items())} WHERE false"


def _corpora(workspace: Workspace) -> list[Dataset]:
    folder, found = workspace.root / "corpora", []
    for name in folder.children():
        try:
            if committed(folder / name):
                found.append(load(folder / name, f"corpus {name!r}"))
        except Exception as error:
            # Whatever its damage is, it hides no other corpus.
            _LOG.warning("corpus %s is left out of SQL: %s", name, reason(error))
    return found


def _corpus_views(connection: duckdb.DuckDBPyConnection, corpora: list[Dataset]) -> dict[str, list[str]]:
    views: dict[str, list[str]] = {}
    for corpus in corpora:
        name = corpus.location.name
        view = view_name(name) if view_name(name) not in views else f"corpus_{name}"
        try:
            views[view] = [corpus_query(connection, corpus, corpus.shards)]
        except Exception as error:
            _LOG.warning("corpus %s is left out of SQL: %s", name, reason(error))
    return views


def _shards_view(corpora: list[Dataset]) -> dict[str, list[str]]:
    tables = [
        f"SELECT {literal(corpus.location.name)} AS corpus, *, regexp_extract(path, '/family=([^/]+)/', 1) AS family, "
        "try_cast(regexp_extract(path, '/width=([^/]+)/', 1) AS BIGINT) AS width "
        f"FROM {parquet_source([str(corpus.list_place)], options=', hive_partitioning = false')}"
        for corpus in corpora
    ]
    return {"shards": [_empty(_COLUMNS["shards"]), *tables]}


def _run_views(workspace: Workspace) -> dict[str, list[str]]:
    folder = workspace.root / "runs"
    # SQL would take a folder such as '[n]otebook' for a pattern.
    names = [name for name in folder.children() if is_name(name) and (folder / name / "run.json").exists()]
    # Runs of earlier versions lack some columns of the metrics.
    metrics, predictions = ([_empty(_COLUMNS[view])] for view in ("metrics", "predictions"))
    probes = {view: [_empty(_COLUMNS[view])] for view in PROBE_TABLES}
    runs = [_empty(_COLUMNS["runs"])]
    for name in names:
        run = folder / name
        if parts := _parquet_files(run / "metrics"):
            source = parquet_source(parts, options=", hive_partitioning = false, union_by_name = true")
            metrics.append(f"SELECT * FROM {source}")
        if answers := _parquet_files(run / "predictions"):
            source = parquet_source(answers, options=", hive_partitioning = false, union_by_name = true")
            predictions.append(f"SELECT {literal(name)} AS run, * FROM {source}")
        found = _parquet_files(run / "probes")
        for view, table in PROBE_TABLES.items():
            if own := [path for path in found if path.rpartition("/")[2].startswith(f"{table}.")]:
                source = parquet_source(own, options=", hive_partitioning = false, union_by_name = true")
                probes[view].append(f"SELECT {literal(name)} AS run, * FROM {source}")
        runs.append(
            f"SELECT name AS run, corpus, tokenizer, training::JSON AS training "
            f"FROM read_json({literal(str(run / 'run.json'))}, hive_partitioning = false)"
        )
    return {"metrics": metrics, "predictions": predictions, "runs": runs, **probes}


def _comparison_views(workspace: Workspace) -> dict[str, list[str]]:
    folder = workspace.root / "comparisons"
    views = {view: [_empty(_COLUMNS[view])] for view in COMPARISON_TABLES}
    for name in folder.children():
        found = _parquet_files(folder / name)
        for view, table in COMPARISON_TABLES.items():
            if own := [path for path in found if path.endswith(f"/{table}")]:
                source = parquet_source(own, options=", hive_partitioning = false")
                views[view].append(f"SELECT {literal(name)} AS comparison, * FROM {source}")
    return views


def _parquet_files(folder: Location) -> list[str]:
    return [str(folder / name) for name in folder.children() if name.endswith(".parquet")]
