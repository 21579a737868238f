"""A copy of Prefect's empty tables, with which new records start: Prefect needs seconds to create them."""

import os
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from storage.places.disk import cache_folder

RECORDS = "prefect.db"


def begin_records(home: Path) -> bool:
    """Give a home without records a copy of the empty tables; returns whether it did."""
    return _empty_tables().exists() and _copied(_empty_tables(), home / RECORDS)


def keep_empty_tables(home: Path) -> None:
    """Keep a copy of a new server's records, before its first flow run, unless there is one."""
    # Prefect's settings may name another database.
    if (home / RECORDS).exists():
        _copied(home / RECORDS, _empty_tables())


def forget_empty_tables(home: Path) -> None:
    """Delete the empty tables and the records that began with them, because no server starts with these."""
    for path in (_empty_tables(), *home.glob(f"{RECORDS}*")):
        path.unlink(missing_ok=True)


def _empty_tables() -> Path:
    """The empty tables of this version of Prefect, in the cache of this user."""
    return cache_folder() / f"prefect-{version('prefect')}.db"


def _copied(source: Path, target: Path) -> bool:
    """Copy a database that may be in use, unless `target` exists; returns whether `target` is new.

    `target` is complete and private to its owner from its first moment. The copy saves time only: errors are ignored.
    """
    if target.exists():
        return False
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.touch(mode=0o600)
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(partial)) as other:
            one.backup(other)
        # Another process may have created the target meanwhile, and perhaps uses it.
        os.link(partial, target)
    except (OSError, sqlite3.Error):
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True
