"""What this process may use of the machine, which is often less than what the machine has."""

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """CPU cores that this process may run on; a container or a batch system may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def granted_cores(groups: Path = _GROUPS) -> float | None:
    """Cores' worth of time that a control group grants; None where it grants all of it."""
    quota, *period = _first(groups / "cpu.max", groups / "cpu/cpu.cfs_quota_us").split()
    every = period[0] if period else _first(groups / "cpu/cpu.cfs_period_us")
    return int(quota) / int(every) if quota.isdigit() and every.isdigit() and int(every) else None


def granted_memory(groups: Path = _GROUPS) -> int | None:
    """Bytes of memory that a control group grants; None where it grants all there is."""
    limit = _first(groups / "memory.max", groups / "memory/memory.limit_in_bytes")
    # The older kind says no limit by the largest number of whole pages.
    return int(limit) if limit.isdigit() and int(limit) < 1 << 60 else None


def _first(*files: Path) -> str:
    """The text of the first file that can be read, without its end; 'max' where none can."""
    for file in files:
        try:
            return file.read_text().strip() or "max"
        except OSError:
            continue
    return "max"
