"""DuckDB connections, created in one place so that every process stays within its share of the machine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from storage.errors import QueryAbandoned, RunFailure
from storage.places.place import Location

# Seconds in which a query may react to an interrupt; within one value, such as a text of gigabytes, it does not react.
_HEED_SECONDS = 1.0

Value = TypeVar("Value")


def connect(
    below: Location | None = None, *, threads: int = 1, memory: str = "512MB", spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Opens an in-memory database with limited threads and memory; without `spill`, nothing is written to disk.

    It reads files on local disks, and files in an object store only if they are `below`. The process that uses the
    connection must open it, never a parent before a fork.
    """
    connection = duckdb.connect(config={"threads": threads, "async_threads": 0, "memory_limit": memory})
    connection.execute("SET temp_directory = ?", [str(spill) if spill else ""])
    connection.execute("SET enable_progress_bar = false")
    if below:
        let_read(connection, below)
    return connection


def let_read(connection: duckdb.DuckDBPyConnection, below: Location) -> None:
    """Lets a connection read files below a folder of an object store; local files are readable anyway.

    DuckDB's own object store support is an extension with separate credentials, which it would have to download.
    """
    if below.remote:
        from storage.places.files import object_files

        connection.register_filesystem(object_files(below))  # type: ignore[arg-type]


def reason(error: Exception) -> str:
    """The error message of DuckDB, or of Arrow on its behalf, in one line."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        # Our file system for the object store failed; the last line of the traceback contains the reason.
        name, _, words = text.strip().splitlines()[-1].partition(": ")
        return words or name
    return " ".join(text.split("\n\n")[0].split())


@contextmanager
def closing(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yields the connection and closes it afterwards, unless an abandoned query still uses it."""
    try:
        yield connection
    finally:
        with suppress(duckdb.ResourceInUseException):
            connection.close()


def interruptible(connection: duckdb.DuckDBPyConnection, compute: Callable[[], Value]) -> Value:
    """Returns or raises the result of `compute`, which queries this connection; Ctrl-C stops it within about a second.

    `compute` runs in a separate thread, because a thread in DuckDB does not handle signals. Raises `QueryAbandoned` if
    the query ignores the interrupt.
    """
    results, failures, ended = list[Value](), list[BaseException](), threading.Event()

    def work() -> None:
        try:
            results.append(compute())
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=work, daemon=True).start()
        ended.wait()
    except KeyboardInterrupt as interruption:
        kind = KeyboardInterrupt if _stopped(connection, ended) else QueryAbandoned
        raise kind("interrupted: the query was stopped") from interruption
    if failures:
        raise failures[0]
    return results[0]


def _stopped(connection: duckdb.DuckDBPyConnection, ended: threading.Event) -> bool:
    """Interrupts the query; returns whether it stopped."""
    until = time.monotonic() + _HEED_SECONDS
    while time.monotonic() < until:
        # Repeat the interrupt: a query that has not started yet discards it.
        connection.interrupt()
        if ended.wait(_HEED_SECONDS / 20):
            return True
    return False


def parse_sql(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[dict[str, Any]]:
    """Yields the result of parsing a query (`error`, `error_message`), followed by every node of its syntax tree."""
    [(text,)] = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    values = [json.loads(text)]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            yield value
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)


def literal(text: str) -> str:
    """Returns a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Returns a quoted SQL name."""
    return '"' + name.replace('"', '""') + '"'


def parquet_source(paths: list[str], *, options: str = "") -> str:
    """SQL for Parquet files as a table; raises `RunFailure` if `paths` is empty."""
    if not paths:
        raise RunFailure("there is no shard to read: the split is empty")
    return f"read_parquet([{', '.join(map(literal, paths))}]{options})"
