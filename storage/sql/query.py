"""Runs read-only SQL on a workspace: a single SELECT that reads no file outside the workspace.

DuckDB protects files and settings: no external files, no extensions, a locked configuration. This is not sufficient.
COPY can write to an allowed folder, and since 2.0 a WITH clause can contain a COPY although the statement is still a
SELECT. The parsed statement is therefore checked too.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, islice
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import QueryAbandoned, RunFailure, UserError
from storage.machine import cores
from storage.places.disk import LocalLocation
from storage.sql.catalog import refresh_catalog
from storage.sql.database import closing, interruptible, let_read, literal, parse_sql, reason
from storage.sql.memory import MEMORY, too_large
from storage.workspace import Workspace

_SPILL = re.compile("[0-9a-f]{32}")

# Query nodes that only read; a WITH clause can contain others that write.
_READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}

# Table functions that only read. All others are refused; some of them run SQL from a text.
_TABLE_FUNCTIONS = re.compile(
    r"range|generate_series|unnest|repeat(_row)?|summary|histogram(_values)?|query_table|glob|sniff_csv"
    r"|json_(each|tree)|(read|parquet|duckdb|pragma|icu)_\w+|pg_timezone_names|test_\w+"
)


@contextmanager
def open_catalog(workspace: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to a new catalog; it reads no file outside the workspace and installs no extension."""
    catalog = refresh_catalog(workspace)
    with _spill_folder(workspace) as spill:
        limits = {"threads": cores(), "memory_limit": MEMORY, "temp_directory": str(spill)}
        with closing(duckdb.connect(str(catalog), read_only=True, config=limits)) as connection:
            connection.execute("SET autoinstall_known_extensions = false")
            connection.execute("SET autoload_known_extensions = false")
            # Otherwise DuckDB resolves table names to variables of this program.
            connection.execute("SET python_enable_replacements = false")
            let_read(connection, workspace.root)
            connection.execute(f"SET allowed_directories = [{literal(f'{workspace.root}/')}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection


def select(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    """Returns the relation of exactly one SELECT; raises `UserError` for other statements and invalid SQL."""
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1:
            raise UserError(f"SQL must be exactly one SELECT, this has {len(statements) or 'no'} statements")
        if statements[0].type == duckdb.StatementType.MULTI:
            raise UserError("SQL must be exactly one SELECT: PIVOT must list its values, as in ON column IN (1, 2)")
        if statements[0].type != duckdb.StatementType.SELECT:
            kind = statements[0].type.name
            raise UserError(f"SQL must be exactly one SELECT, not {kind}: SQL is read-only here")
        _refuse_effects(connection, query)
        text = _without_end(connection, query)
        # DuckDB already evaluates constant expressions here.
        return interruptible(connection, lambda: connection.sql(text))
    except duckdb.Error as error:
        raise sql_error(error) from error


def fetched(
    connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, most: int
) -> list[tuple[Any, ...]]:
    """Returns at most `most` rows; raises `UserError` or `RunFailure` if the query fails."""
    try:
        return interruptible(connection, relation.limit(most).fetchall)
    except duckdb.Error as error:
        raise sql_error(error) from error


def stream(
    connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, rows: int = 1 << 16
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Returns the schema and record batches of at most `rows` rows; raises `UserError` or `RunFailure` on failure.

    The first batch is computed here, so that most failures occur before any output is written.
    """
    try:
        reader = interruptible(connection, lambda: relation.to_arrow_reader(rows))
    except duckdb.Error as error:
        raise sql_error(error) from error
    batches = _batches(connection, reader)
    first = list(islice(batches, 1))
    return reader.schema, chain(first, batches)


def sql_error(error: Exception) -> UserError | RunFailure:
    """Converts DuckDB's error to one line, with its suggestions and without the marked excerpt of the query."""
    text = str(error)
    if text.startswith("Out of Memory Error"):
        return too_large()
    text = reason(error) if "Traceback" in text else " ".join(re.split(r"\n\s*LINE \d+:", text)[0].split())
    if text.startswith("Permission Error"):
        return UserError(f"SQL: {text} (SQL reads only files of the workspace, and follows no link out of it)")
    if re.match(r"(IO|Invalid|Invalid Input|Serialization) Error\b.*\.parquet", text):
        return RunFailure(f"SQL: {text} (a file of the workspace may be missing or damaged)")
    return UserError(f"SQL: {text}")


def _refuse_effects(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raises `UserError` if any part of a SELECT does more than read."""
    root, *nodes = parse_sql(connection, query)
    if root["error"]:
        raise UserError(f"SQL must be exactly one SELECT ({root['error_message']})")
    for node in nodes:
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _READING:
            word = kind.removesuffix("_NODE").removesuffix("_QUERY")
            raise UserError(f"SQL must be exactly one SELECT, this contains {word}: SQL is read-only here")
        if kind == "TABLE_FUNCTION":
            name = node["function"]["function_name"].lower()
            if not _TABLE_FUNCTIONS.fullmatch(name):
                raise UserError(f"SQL: table function {name} is not allowed here: it may do more than read")


def _without_end(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """The statement without its ';' and trailing comments, which DuckDB rejects in operations on a relation."""
    for end in re.finditer(";", query):
        before, after = query[: end.start()], query[end.start() :]
        if _statements(connection, after) == 0 and _statements(connection, before) == 1:
            return before
    return query


def _statements(connection: duckdb.DuckDBPyConnection, text: str) -> int | None:
    """Number of statements; None if the text is not valid SQL, for example if it ends inside a string."""
    try:
        return len(connection.extract_statements(text))
    except duckdb.Error:
        return None


def _batches(connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = interruptible(connection, reader.read_next_batch)
        except StopIteration:
            return
        # Arrow raises a DuckDB failure as its own error or as an OSError.
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise sql_error(error) from error
        yield batch


@contextmanager
def _spill_folder(workspace: Workspace) -> Iterator[LocalLocation]:
    """A temporary folder for this process, deleted afterwards; first deletes the folders of killed processes."""
    folder = workspace.on_disk / ".spill"
    own = folder / uuid.uuid4().hex
    with ExitStack() as stack:
        with folder.exclusive(f"{folder}", wait_seconds=10):
            for name in filter(_SPILL.fullmatch, folder.children()):
                # Another process may still use it.
                with suppress(UserError), (folder / name).exclusive(name):
                    (folder / name).remove()
            stack.enter_context(own.exclusive(f"{own}"))
        try:
            yield own
        except QueryAbandoned:
            # The query may still write there; the next process deletes the folder.
            raise
        except BaseException:
            own.remove()
            raise
        own.remove()
