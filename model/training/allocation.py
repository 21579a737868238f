"""Keeps freed memory in the process, so that a training step does not request the same pages from the kernel again.

A step frees and allocates about a hundred buffers of several megabytes. By default, glibc maps large buffers anew each
time, and the kernel zeroes every page on its first use. At the default shape this causes 5,400 page faults per step,
a quarter of the CPU time (EXPERIMENTS.md).
"""

import ctypes
from functools import cache

# Parameter numbers from `man 3 mallopt`, and values far above the needs of any step.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER, _GROWTH = 2**31 - 1, 1 << 27


@cache
def keep_freed_memory() -> bool:
    """Configure the C library to reuse freed memory; returns False, without effect, if it is not glibc.

    The process then holds its peak memory until it exits.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH))
    # The list inside `sum` has no short circuit: every parameter is set, even if an earlier call fails.
    return sum(mallopt(parameter, value) for parameter, value in settings) == len(settings)
