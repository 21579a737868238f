"""Tags of flow runs: the workspace and machine that they belong to, and the process that runs them.

A process id is only valid on its machine and in its container, and is reused after a while.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil

from storage.datasets.manifest import hash_of
from storage.workspace import Workspace

_PROCESS = "process"
# Setting the clock changes the apparent start time of a process.
_CLOCK_SECONDS = 10
# Number of the first PID namespace of a machine, by the Linux kernel (PROC_PID_INIT_INO).
_NO_CONTAINER = str(0xEFFFFFFC)


def workspace_prefix(workspace: Workspace) -> str:
    """Prefix of the tags of a workspace's runs, up to an '@'."""
    return f"workspace-{workspace.root.name}-{hash_of(str(workspace.root))[:8]}"


def workspace_tag(workspace: Workspace) -> str:
    """Tag of this machine's runs in a workspace."""
    return f"{workspace_prefix(workspace)}@{socket.gethostname()}"


def belongs_to(workspace: Workspace, tags: Iterable[str]) -> bool:
    """Whether a run with these tags belongs to a workspace, on any machine."""
    return any(tag.startswith(f"{workspace_prefix(workspace)}@") for tag in tags)


def process_tag() -> str:
    """Tag that identifies this process as the one that works on a run."""
    return ":".join([_PROCESS, *_here(), str(os.getpid()), f"{psutil.Process().create_time():.0f}"])


def process_has_ended(tags: Iterable[str]) -> bool:
    """Whether the process of a run has certainly ended; False if this cannot be determined from here.

    After a reboot, all earlier processes of the machine have ended. Nothing is known about processes of other machines
    or of other PID namespaces. Containers on different machines can have the same name and the same image, so a reboot
    only counts outside containers.
    """
    for tag in tags:
        name, *parts = tag.split(":")
        if name != _PROCESS or len(parts) != 5 or not all(part.isdigit() for part in parts[3:]):
            continue
        machine, boot, namespace = _here()
        if parts[0] != machine:
            return False
        if parts[1] != boot:
            return parts[2] == namespace == _NO_CONTAINER
        return parts[2] == namespace and not _is_running(int(parts[3]), int(parts[4]))
    return False


def _here() -> tuple[str, str, str]:
    """Identifiers of this machine, its boot and its PID namespace, without colons."""
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


def _is_running(process: int, start: int) -> bool:
    try:
        return abs(psutil.Process(process).create_time() - start) <= _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
