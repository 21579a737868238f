"""The share of the machine that this process may use, which is often less than all of it."""

import os
from pathlib import Path

# Ray namespace of an instance that this process started for itself; all its workers are on this machine.
PRIVATE = "numerate-private"

_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")


def cores(groups: Path = _GROUPS) -> int:
    """CPU cores granted by the container, batch system or `taskset`, rounded down; at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(usable, granted_cores(groups) or usable)))


def granted_cores(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> float | None:
    """CPU time that control groups grant this process, in cores; None if it is unlimited.

    `own` is the file that names the process's group. The limits of all parent groups apply.
    """
    grants = [grant for folder in _cpu_groups(groups, own) if (grant := _grant(folder)) is not None]
    return min(grants, default=None)


def _cpu_groups(groups: Path, own: Path) -> set[Path]:
    """Folders of the control groups (v1 and v2) that can limit this process's CPU time."""
    folders = {groups, groups / "cpu"}
    for line in _first(own).splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "-", "")
        if controllers == "" or "cpu" in controllers.split(","):
            top = groups / "cpu" if controllers else groups
            # In a container, the group can be the host's, whose folder is not mounted.
            below = top / path.strip("/")
            folders |= {below, *(folder for folder in below.parents if folder.is_relative_to(top))}
    return folders


def _grant(folder: Path) -> float | None:
    quota, *period = _first(folder / "cpu.max", folder / "cpu.cfs_quota_us").split()
    every = period[0] if period else _first(folder / "cpu.cfs_period_us")
    return int(quota) / int(every) if quota.isdigit() and every.isdigit() and int(every) else None


def granted_memory(groups: Path = _GROUPS) -> int | None:
    """Memory limit of the control group in bytes; None if it is unlimited."""
    limit = _first(groups / "memory.max", groups / "memory/memory.limit_in_bytes")
    # Control groups v1 express "no limit" by the largest number of whole pages.
    return int(limit) if limit.isdigit() and int(limit) < 1 << 60 else None


def free_memory(groups: Path = _GROUPS, machine: Path = _MEMORY) -> int:
    """Bytes that this process can still allocate on this machine and in its control group, without swap."""
    free = _numbers(_first(machine)).get("MemAvailable", 0) << 10
    if (limit := granted_memory(groups)) is not None:
        used = _numbers(_first(groups / "memory.stat", groups / "memory/memory.stat"))
        # The page cache of files can be given back; what is allocated or in shared memory cannot.
        allocated = used.get("anon", used.get("total_rss", 0)) + used.get("shmem", used.get("total_shmem", 0))
        free = min(free, limit - allocated)
    return max(0, free)


def _numbers(text: str) -> dict[str, int]:
    """Lines such as `MemAvailable:  123 kB` or `anon 123` as numbers by name, in the unit of the file."""
    words = (line.replace(":", " ").split() for line in text.splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def _first(*files: Path) -> str:
    """Content of the first readable file, stripped; 'max' if none is readable."""
    for file in files:
        try:
            return file.read_text().strip() or "max"
        except OSError:
            continue
    return "max"
