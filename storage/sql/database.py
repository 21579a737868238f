"""DuckDB connections, set up in one place so that every process stays within its share of the machine."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import duckdb

from storage.errors import QueryAbandoned, RunFailure
from storage.places.place import Location

# How long a query may take to heed an interruption; inside one value, such as a text of gigabytes, it heeds none.
_HEED_SECONDS = 1.0

Value = TypeVar("Value")


def connect(
    below: Location | None = None, *, threads: int = 1, memory: str = "512MB", spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with bounded threads and memory; without `spill` nothing goes to disk.

    It reads files of this machine's disks, and those of an object store only if they lie `below`. Opened by the
    process that uses it, never before a fork.
    """
    connection = duckdb.connect(config={"threads": threads, "async_threads": 0, "memory_limit": memory})
    connection.execute("SET temp_directory = ?", [str(spill) if spill else ""])
    connection.execute("SET enable_progress_bar = false")
    if below:
        let_read(connection, below)
    return connection


def let_read(connection: duckdb.DuckDBPyConnection, below: Location) -> None:
    """Let a connection read what lies below a folder of an object store; a disk's it reads anyway.

    DuckDB's own way to object stores is an extension, which it would have to download, with credentials of its own.
    """
    if below.remote:
        from storage.places.files import object_files

        connection.register_filesystem(object_files(below))  # type: ignore[arg-type]


def reason(error: Exception) -> str:
    """What DuckDB, or Arrow on its behalf, complains of, in one line."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        # What failed is our way to an object store, and its last line says why.
        name, _, words = text.strip().splitlines()[-1].partition(": ")
        return words or name
    return " ".join(text.split("\n\n")[0].split())


@contextmanager
def closing(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection for the block, closed behind it unless a query was abandoned there."""
    try:
        yield connection
    finally:
        with suppress(duckdb.ResourceInUseException):
            connection.close()


def interruptible(connection: duckdb.DuckDBPyConnection, compute: Callable[[], Value]) -> Value:
    """What `compute` returns, or raises, when it asks this connection; Ctrl-C ends it within a second or so.

    It is done in a thread of its own: while DuckDB computes, this one hears signals. Raises `QueryAbandoned`
    where the query goes on all the same.
    """
    results, failures, ended = list[Value](), list[BaseException](), threading.Event()

    def work() -> None:
        """Keep what comes of it."""
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
    """Whether a query heeds that it is interrupted."""
    until = time.monotonic() + _HEED_SECONDS
    while time.monotonic() < until:
        # Again and again: one that has yet to begin forgets it.
        connection.interrupt()
        if ended.wait(_HEED_SECONDS / 20):
            return True
    return False


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted SQL name."""
    return '"' + name.replace('"', '""') + '"'


def parquet_source(paths: list[str], *, options: str = "") -> str:
    """SQL for a table of Parquet files; raises `RunFailure` where there is no file."""
    if not paths:
        raise RunFailure("there is no shard to read: the split is empty")
    return f"read_parquet([{', '.join(map(literal, paths))}]{options})"
