"""A limit on the memory of this process while it runs SQL that a user wrote."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import UserError
from storage.machine import free_memory

MEMORY = "1GB"
"""DuckDB's own limit, which does not count single values, such as long lists."""
# Memory that the process may use beyond what it uses at the beginning: at most this, and this share of what is free.
_PROCESS_BYTES, _SHARE = 3 << 30, 0.8
# DuckDB needs about this much for any query.
_LEAST_BYTES = 512 << 20


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Limits this process to a few gigabytes more than it uses now, for the block; raises `UserError` beyond that.

    The limit is lower where less memory is free on the machine or in the control group. It covers all threads and new
    child processes, so the process should do nothing else meanwhile. A system without Linux's /proc has no limit.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    has = int(statm.read_text().split()[5]) * resource.getpagesize()
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    more = min(_PROCESS_BYTES, max(_LEAST_BYTES, int(_SHARE * free_memory())))
    bounds = [has + more, *(limit for limit in (before, most) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), most))
    try:
        yield
    except MemoryError:
        raise too_large() from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def too_large() -> UserError:
    """The error of a query that needs too much memory."""
    return UserError(
        f"SQL: the query needs more than {MEMORY} of memory, or more memory or disk than is free: add a filter, an "
        "aggregate or a LIMIT"
    )
