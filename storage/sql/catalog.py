"""The SQL catalog of a workspace: a DuckDB file of views, rebuilt from the manifests.

The file contains no data. It is replaced by one rename, any DuckDB client can open it, and views and columns have
comments that describe them.
"""

import fnmatch
import logging
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import duckdb

from storage.datasets.manifest import Dataset, committed, load
from storage.errors import RunFailure
from storage.machine import cores
from storage.places.place import Location
from storage.sql.database import identifier, let_read, literal, parquet_source, reason
from storage.sql.scan import columns_of, corpus_query
from storage.sql.views import CORPUS_VIEW, VIEWS
from storage.workspace import Workspace, is_name

_LOG = logging.getLogger(__name__)


class _Part(NamedTuple):
    """The query for one corpus, run or comparison in a view."""

    of: str
    query: str


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
    with workspace.catalog.staged() as path, duckdb.connect(config={"threads": cores()}) as connection:
        let_read(connection, workspace.root)
        corpora = _corpora(workspace)
        views = _corpus_views(connection, corpora)
        for name, view in VIEWS.items():
            # The empty part has all columns, also those that an earlier version did not write.
            views[name] = [_empty(view.types)]
        for name, part in (*_shard_lists(corpora), *_results(workspace)):
            views[name].append(part)
        # Older DuckDB clients can read this storage version.
        connection.execute(f"ATTACH {literal(str(path))} AS catalog (STORAGE_VERSION 'v1.0.0')")
        for name, parts in views.items():
            try:
                _create_view(connection, name, parts)
            except duckdb.Error:
                # A damaged part must not affect the other parts.
                if readable := [part for part in parts if _is_readable(connection, name, part)]:
                    _create_view(connection, name, readable)
        connection.execute("DETACH catalog")


def _is_readable(connection: duckdb.DuckDBPyConnection, view: str, part: _Part) -> bool:
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
    view = VIEWS.get(name, CORPUS_VIEW)
    there = columns_of(connection, query)
    former = {name: old for name, old in view.former_names.items() if old in there}
    columns = view.in_order(column for column in there if column not in former.values())
    selected = ", ".join(
        f"coalesce({identifier(column)}, {identifier(former[column])}) AS {identifier(column)}"
        if column in former
        else identifier(column)
        for column in columns
    )
    target = f"catalog.{identifier(name)}"
    connection.execute(f"CREATE OR REPLACE VIEW {target} AS SELECT {selected} FROM ({query})")
    connection.execute(f"COMMENT ON VIEW {target} IS {literal(view.comment)}")
    for column in columns:
        if comment := view.column_comment(column):
            connection.execute(f"COMMENT ON COLUMN {target}.{identifier(column)} IS {literal(comment)}")


def _empty(types: dict[str, str]) -> _Part:
    nulls = ", ".join(f"NULL::{kind} AS {identifier(name)}" for name, kind in types.items())
    return _Part("an empty table", f"SELECT {nulls} WHERE false")


def _corpora(workspace: Workspace) -> list[Dataset]:
    folder, corpora = workspace.root / "corpora", []
    for name in folder.children():
        try:
            if committed(folder / name):
                corpora.append(load(folder / name, f"corpus {name!r}"))
        except Exception as error:
            # A damaged corpus must not hide the others.
            _LOG.warning("corpus %s is left out of SQL: %s", name, reason(error))
    return corpora


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


def _shard_lists(corpora: list[Dataset]) -> Iterator[tuple[str, _Part]]:
    """The list of shards of each corpus, with the name of the view."""
    for corpus in corpora:
        name = corpus.location.name
        query = (
            f"SELECT {literal(name)} AS corpus, *, regexp_extract(path, '/family=([^/]+)/', 1) AS family, "
            "try_cast(regexp_extract(path, '/width=([^/]+)/', 1) AS BIGINT) AS width "
            f"FROM {parquet_source([str(corpus.list_location)], options=', hive_partitioning = false')}"
        )
        yield "shards", _Part(f"corpus {name}", query)


def _results(workspace: Workspace) -> Iterator[tuple[str, _Part]]:
    """The parts of all runs and comparisons, with the names of their views."""
    for kind in ("run", "comparison"):
        root = workspace.root / f"{kind}s"
        # Only valid names: SQL would treat a folder such as '[n]otebook' as a glob pattern.
        for name in filter(is_name, root.children()):
            folder, of = root / name, f"{kind} {name}"
            if kind == "run":
                if not (folder / "run.json").exists():
                    continue
                source = f"read_json({literal(str(folder / 'run.json'))}, hive_partitioning = false)"
                query = f"SELECT name AS run, corpus, tokenizer, training::JSON AS training FROM {source}"
                yield "runs", _Part(of, query)
            for view, paths in _parquet_files(folder, f"{kind}s/*/"):
                # The files of a training contain the run.
                owner = "" if view in ("metrics", "validation_errors") else f"{literal(name)} AS {kind}, "
                source = parquet_source(paths, options=", hive_partitioning = false, union_by_name = true")
                yield view, _Part(of, f"SELECT {owner}* FROM {source}")


def _parquet_files(folder: Location, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Views with the paths of their files in the folder of one run or comparison; their patterns have this prefix."""
    names_in = cache(lambda parent: parent.children())
    for name, view in VIEWS.items():
        if view.files.startswith(prefix):
            *below, pattern = view.files.removeprefix(prefix).split("/")
            parent = folder / below[0] if below else folder
            if matching := fnmatch.filter(names_in(parent), pattern):
                yield name, [str(parent / file) for file in matching]
