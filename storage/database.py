"""DuckDB connections, set up in one place so that every process stays within its share of the machine."""

from pathlib import Path

import duckdb

from storage.errors import RunFailure


def connect(*, threads: int = 1, memory: str = "512MB", spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory database with bounded threads and memory; without `spill` nothing goes to disk.

    Opened by the process that uses it, never before a fork.
    """
    connection = duckdb.connect(config={"threads": threads, "async_threads": 0, "memory_limit": memory})
    connection.execute("SET temp_directory = ?", [str(spill) if spill else ""])
    connection.execute("SET enable_progress_bar = false")
    return connection


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
