"""Settings of a process that uses torch, and common code of modules that run as plain processes."""

import ctypes
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import torch
from pydantic import ValidationError

from storage.ending import refused
from storage.errors import RunFailure, UserError
from storage.machine import cores
from storage.parameters import one_line

Stop = Callable[[], bool]

# Parameter numbers from `man 3 mallopt`, and values far above the needs of any step.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER, _GROWTH = 2**31 - 1, 1 << 27


def prepare_torch(threads: int = 0) -> None:
    """Set torch's threads, and keep freed memory in the process.

    0 uses at most the granted cores, because torch ignores the limits of a control group.
    """
    _keep_freed_memory()
    torch.set_num_threads(threads or min(torch.get_num_threads(), cores()))


@cache
def _keep_freed_memory() -> None:
    """Configure glibc to reuse freed memory; has no effect with another C library.

    A training step frees and allocates about a hundred buffers of several megabytes. By default, glibc maps large
    buffers anew each time, and the kernel zeroes every page on its first use. At the default shape this causes 5,400
    page faults per step, a quarter of the CPU time (EXPERIMENTS.md). The process then holds its peak memory until it
    exits.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH)):
            mallopt(parameter, value)


def run_plainly(work: Callable[[Stop], int], source: str) -> int:
    """Run `work` and return its exit code.

    `work` receives a function that returns True after SIGINT or SIGTERM. `UserError`, `RunFailure`, `OSError` and
    invalid parameters print a one-line error to standard error; `source` names the parameter file in it.
    """
    received_signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: received_signals.append(received))
    try:
        return work(lambda: bool(received_signals))
    except (UserError, RunFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ValidationError as error:
        print(f"error: {source}: {one_line(error)}", file=sys.stderr)
        return UserError.exit_code
    except OSError as error:
        return refused(error)
