"""SQL over a workspace: a DuckDB file of views, made anew from the manifests, and one safe way to ask it.

The file holds no data. It is replaced in one rename, and any DuckDB client can open it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from storage.database import literal, parquet_source
from storage.errors import RunFailure, UserError
from storage.location import Location, Workspace
from storage.manifest import Dataset, committed, load

_LOG = logging.getLogger(__name__)

# Columns of the views while there is nothing to show, so that a query is answered with no rows.
_COLUMNS = {
    "shards": {"corpus": "VARCHAR", "path": "VARCHAR", "split": "VARCHAR", "rows": "BIGINT", "bytes": "BIGINT"},
    "runs": {"run": "VARCHAR", "corpus": "VARCHAR", "tokenizer": "VARCHAR", "training": "JSON"},
    "metrics": {"run": "VARCHAR", "step": "BIGINT", "loss": "DOUBLE"},
    "predictions": {"run": "VARCHAR", "problem": "VARCHAR", "answer": "VARCHAR", "prediction": "VARCHAR"},
}


def refresh_catalog(workspace: Workspace) -> Location:
    """Write `catalog.duckdb` anew: corpus_<name>, shards, runs, metrics and predictions."""
    views = {
        **{name: _empty(columns) for name, columns in _COLUMNS.items()},
        **_corpus_views(workspace),
        **_run_views(workspace),
    }
    with workspace.catalog.staged() as path, duckdb.connect() as connection:
        # Older DuckDB clients read this storage version too.
        connection.execute(f"ATTACH {literal(str(path))} AS catalog (STORAGE_VERSION 'v1.0.0')")
        for name, query in views.items():
            try:
                connection.execute(f'CREATE VIEW catalog."{name}" AS {query}')
            except duckdb.Error as error:
                _LOG.warning("view %s is left out of SQL: %s", name, " ".join(str(error).split()))
        connection.execute("DETACH catalog")
    return workspace.catalog


@contextmanager
def open_catalog(workspace: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to a fresh catalog that reads nothing outside the workspace and installs nothing."""
    place = refresh_catalog(workspace)
    limits = {"memory_limit": "1GB", "temp_directory": str(workspace.root / ".spill")}
    with duckdb.connect(str(place), read_only=True, config=limits) as connection:
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        connection.execute(f"SET allowed_directories = [{literal(str(workspace.root))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def select(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    """The relation of exactly one SELECT; raises `UserError` for anything else and for SQL that fails."""
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UserError("SQL must be exactly one SELECT: nothing here can be changed by SQL")
        return connection.sql(query)
    except duckdb.Error as error:
        raise UserError(f"SQL: {' '.join(str(error).split())}") from error


def view_name(corpus: str) -> str:
    """Name of a corpus's view; a '-' in the name becomes '_', so that SQL needs no quotes."""
    return f"corpus_{corpus.replace('-', '_')}"


def _empty(columns: dict[str, str]) -> str:
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in columns.items())} WHERE false"


def _corpora(workspace: Workspace) -> list[Dataset]:
    folder, found = workspace.root / "corpora", []
    for name in folder.children():
        try:
            if committed(folder / name):
                found.append(load(folder / name, f"corpus {name!r}"))
        except (UserError, RunFailure) as error:
            _LOG.warning("corpus %s is left out of SQL: %s", name, error)
    return found


def _corpus_views(workspace: Workspace) -> dict[str, str]:
    views, shards = {}, []
    for corpus in _corpora(workspace):
        name = corpus.location.name
        paths = [str(corpus.location / shard.path) for shard in corpus.shards]
        view = view_name(name) if view_name(name) not in views else f"corpus_{name}"
        views[view] = f"SELECT * FROM {parquet_source(paths, options=', hive_partitioning = true')}"
        table = parquet_source([str(corpus.location / "shards.parquet")])
        shards.append(f"SELECT {literal(name)} AS corpus, * FROM {table}")
    if shards:
        views["shards"] = " UNION ALL ".join(shards)
    return views


def _run_views(workspace: Workspace) -> dict[str, str]:
    folder = workspace.root / "runs"
    names = [name for name in folder.children() if (folder / name / "run.json").exists()]
    metrics, predictions, runs = [], [], []
    for name in names:
        run = folder / name
        metrics += [str(run / "metrics" / part) for part in (run / "metrics").children() if part.endswith(".parquet")]
        answers = [str(run / "predictions" / part) for part in (run / "predictions").children()]
        if answers:
            predictions.append(f"SELECT {literal(name)} AS run, * FROM {parquet_source(answers)}")
        runs.append(
            f"SELECT name AS run, corpus, tokenizer, training::JSON AS training "
            f"FROM read_json({literal(str(run / 'run.json'))})"
        )
    views = {}
    if metrics:
        views["metrics"] = f"SELECT * FROM {parquet_source(metrics)}"
    if predictions:
        views["predictions"] = " UNION ALL BY NAME ".join(predictions)
    if runs:
        views["runs"] = " UNION ALL BY NAME ".join(runs)
    return views
