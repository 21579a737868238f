"""What this process may use of the machine, which is often less than what the machine has."""

import os
from pathlib import Path

# Of a Ray that this process started for itself alone: all its processes are on this machine.
PRIVATE = "numerate-private"

_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores(groups: Path = _GROUPS) -> int:
    """CPU cores that this process may use: what a container, a batch system or `taskset` grants, rounded down, or 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(usable, granted_cores(groups) or usable)))


def granted_cores(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> float | None:
    """Cores' worth of time that control groups grant this process; None where they grant all of it.

    `own` names its group. A group has no more than any of those above it.
    """
    grants = [grant for folder in _cpu_groups(groups, own) if (grant := _grant(folder)) is not None]
    return min(grants, default=None)


def _cpu_groups(groups: Path, own: Path) -> set[Path]:
    """The folders of the groups that may bound the time of this process, of both versions of control groups."""
    folders = {groups, groups / "cpu"}
    for line in _first(own).splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "-", "")
        if controllers == "" or "cpu" in controllers.split(","):
            top = groups / "cpu" if controllers else groups
            # In a container the name may be the host's, of a folder that isn't mounted.
            below = top / path.strip("/")
            folders |= {below, *(folder for folder in below.parents if folder.is_relative_to(top))}
    return folders


def _grant(folder: Path) -> float | None:
    quota, *period = _first(folder / "cpu.max", folder / "cpu.cfs_quota_us").split()
    every = period[0] if period else _first(folder / "cpu.cfs_period_us")
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
