"""A copy of Prefect's empty tables, with which new records start: Prefect needs seconds to create them."""

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

from storage.places.disk import cache_folder

RECORDS = "prefect.db"


def begin_records(home: Path) -> bool:
    """Give a home without records a copy of the empty tables, if there is one; returns whether it had no records."""
    is_new = not (home / RECORDS).exists()
    if is_new:
        _copy(_empty_tables(), home / RECORDS)
    return is_new


def keep_empty_tables(home: Path) -> None:
    """Keep a copy of a new server's records, before its first flow run, unless there is one."""
    if not _empty_tables().exists():
        _copy(home / RECORDS, _empty_tables())


def _empty_tables() -> Path:
    """The empty tables of this version of Prefect, in the cache of this user."""
    return cache_folder() / f"prefect-{version('prefect')}.db"


def _copy(source: Path, target: Path) -> None:
    """Copy an intact database, which may be in use, unless `target` exists.

    `target` is complete and private to its owner from its first moment. The copy saves time only: errors are ignored.
    """
    # Prefect's settings may name another database than the one in its home.
    if not source.exists():
        return
    with suppress(OSError, sqlite3.Error):
        handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        os.close(handle)
        try:
            with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(partial)) as other:
                one.backup(other)
                intact = other.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            # Another process may have created the target meanwhile, and perhaps uses it.
            if intact:
                os.link(partial, target)
        finally:
            os.unlink(partial)
