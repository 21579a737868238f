"""Keeps freed memory in the process, so that a training step does not ask the kernel for the same pages again.

A step frees and allocates some hundred buffers of megabytes. By default glibc maps large ones afresh each time, and the
kernel zeroes every page on its first use: 5,400 page faults a step at the default shape, a quarter of its processor
time (EXPERIMENTS.md).
"""

import ctypes
from functools import cache

# `man 3 mallopt`: numbers of the parameters, and values far above what any step needs.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER, _GROWTH = 2**31 - 1, 1 << 27


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to reuse freed memory; False where it isn't glibc, and nothing changes.

    The process keeps the most memory that it ever had, until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH))
    # Each is set, whatever the one before it answers.
    return sum(mallopt(parameter, value) for parameter, value in settings) == len(settings)
