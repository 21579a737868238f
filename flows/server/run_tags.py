"""The tags by which flow runs are known: whose work in which workspace they are, and which process they are.

Numbers of processes say nothing on another machine or in another container, and are given again after a while.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil

from storage.datasets.manifest import hash_of
from storage.workspace import Workspace

_PROCESS = "process"
# A clock that is set moves the time at which a process seems to have started.
_CLOCK_SECONDS = 10


def workspace_mark(workspace: Workspace) -> str:
    """The name of a workspace that begins the tags of its runs, up to an '@'."""
    return f"workspace-{workspace.root.name}-{hash_of(str(workspace.root))[:8]}"


def mark_of(workspace: Workspace) -> str:
    """The tag of runs that are this machine's work in a workspace."""
    return f"{workspace_mark(workspace)}@{socket.gethostname()}"


def is_of(workspace: Workspace, tags: Iterable[str]) -> bool:
    """Whether a run with these tags works in a workspace, on whatever machine."""
    return any(tag.startswith(f"{workspace_mark(workspace)}@") for tag in tags)


def process_mark() -> str:
    """The tag by which this process is known as the one that works on a run."""
    return ":".join([_PROCESS, *_here(), str(os.getpid()), f"{psutil.Process().create_time():.0f}"])


def is_gone(tags: Iterable[str]) -> bool:
    """Whether the process that worked on a run is certainly there no more; False where that can't be told from here.

    A machine that was started again since has none of its processes left; of those of another machine or in another
    namespace of processes nothing is known here.
    """
    for tag in tags:
        name, *parts = tag.split(":")
        if name != _PROCESS or len(parts) != 5 or not all(part.isdigit() for part in parts[3:]):
            continue
        machine, boot, namespace = _here()
        if parts[0] != machine:
            return False
        if parts[1] != boot:
            return True
        return parts[2] == namespace and not _runs(int(parts[3]), int(parts[4]))
    return False


def _here() -> tuple[str, str, str]:
    """This machine, its present uptime, and the namespace of process numbers, each as a word without colons."""
    machine = hash_of(socket.gethostname() + _text("/etc/machine-id"))[:8]
    boot = _text("/proc/sys/kernel/random/boot_id") or f"{psutil.boot_time():.0f}"
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = "0"
    return machine, hash_of(boot)[:8], namespace


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _runs(process: int, began: int) -> bool:
    try:
        return abs(psutil.Process(process).create_time() - began) <= _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
