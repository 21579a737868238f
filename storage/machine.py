"""What this process may use of the machine, which is often less than what the machine has."""

import os


def cores() -> int:
    """CPU cores that this process may run on; a container or a batch system may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
