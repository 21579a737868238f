"""Checks of the machine for `numerate doctor`: Python, packages, disk, memory, cores, compiler, clock."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

from flows.common.progress import human
from flows.server.settings import configured_api, setting
from storage.errors import UserError
from storage.machine import cores, granted_cores, granted_memory
from storage.places.disk import cache_folder
from storage.workspace import Workspace

# Disk space of `numerate run` for the notebook's 100 million rows. Memory limits below are for Ray and two workers.
NOTEBOOK_BYTES = 2_400_000_000
_LEAST_DISK, _LEAST_MEMORY, _SMALL_MEMORY = 200_000_000, 2_000_000_000, 4_000_000_000
_OLDEST_PYTHON = (3, 11)
# Prefixes of the names of file systems that several machines can share.
_SHARED_KINDS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "fuse.")
_SKEW_SECONDS = 5.0
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


@dataclass(frozen=True)
class Finding:
    """Result of one check; `remedy` says what to do unless the level is ok."""

    level: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""


Check = Callable[[Workspace], Finding]
"""A check is named after its function: `check_port_4200` is shown as 'port 4200'."""


def check_python(workspace: Workspace) -> Finding:
    """Version of the Python interpreter."""
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("problem", text, "install Python 3.11 or later, and install Numerate with it")
    return Finding("ok", text)


def check_packages(workspace: Workspace) -> Finding:
    """Compare installed versions with the required ranges and with the tested versions."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        declared = [Requirement(text) for text in metadata.requires("numerate") or ()]
    except metadata.PackageNotFoundError:
        return Finding("warning", "Numerate is not installed as a package", "run: pip install -e .")
    required = {item.name: item for item in declared if not item.marker or item.marker.evaluate({"extra": ""})}
    installed = {name: _version(name) for name in required}
    unsupported = [
        name for name, item in required.items() if not item.specifier.contains(installed[name] or "0", prereleases=True)
    ]
    if unsupported:
        versions = ", ".join(f"{name} {installed[name] or 'is missing'}" for name in unsupported)
        # Prefect allows newer versions, with which its server fails.
        if "fastapi" in unsupported:
            versions += " (Prefect's server fails with newer versions of fastapi)"
        remedy = "run: pip install " + " ".join(f"'{name}{required[name].specifier}'" for name in unsupported)
        return Finding("problem", f"unsupported versions: {versions}", remedy)
    pins = _pins()
    tested = {name: pins.get(canonicalize_name(name), version) for name, version in installed.items()}
    # The part after '+' names the build, for example for CPUs.
    untested = [
        f"{name} {version} (tested: {tested[name]})"
        for name, version in installed.items()
        if version.partition("+")[0] != tested[name].partition("+")[0]
    ]
    if untested:
        remedy = "run: pip install -c constraints.txt -e .  if something fails, or to write identical Parquet files"
        return Finding("warning", f"untested versions: {', '.join(untested)}", remedy)
    return Finding("ok", f"{len(required)} in supported versions{', all as tested' if pins else ''}")


def check_workspace(workspace: Workspace) -> Finding:
    """Whether the workspace is writable."""
    root = workspace.root
    if root.exists():
        try:
            Workspace.create(str(root))
        except UserError as error:
            remedy = f"make {root} writable, or choose another --workspace"
            return Finding("problem", str(error), remedy)
        return Finding("ok", f"{root} is writable")
    if root.remote:
        return Finding("ok", f"{root} can be reached and is empty")
    parent = next(path for path in workspace.on_disk.path.parents if path.exists())
    if not os.access(parent, os.W_OK):
        return Finding("problem", f"{root} cannot be created in {parent}", "choose another --workspace")
    return Finding("ok", f"{root} does not exist yet, and can be created")


def check_disk(workspace: Workspace) -> Finding:
    """Free disk space at the workspace."""
    free = workspace.root.free_bytes()
    if free is None:
        return Finding("ok", f"{workspace.root} has no known limit")
    text = f"{human(free)}B free at {workspace.root}"
    if free < _LEAST_DISK:
        remedy = "free some disk space ('numerate clean' may help), or choose another --workspace"
        return Finding("problem", text, remedy)
    if free < NOTEBOOK_BYTES and not (workspace.corpus("notebook") / "manifest.json").exists():
        text += f", 'numerate run' needs {human(NOTEBOOK_BYTES)}B"
        return Finding("warning", text, "free some disk space, or start with 'numerate run quick', which needs little")
    return Finding("ok", text)


def check_records(workspace: Workspace) -> Finding:
    """Whether Prefect's records are on a disk of this machine, which SQLite needs."""
    import psutil

    if api := configured_api():
        return Finding("ok", f"Prefect's records are those of {api}")
    named = setting("PREFECT_HOME")
    folder = (Path(named).expanduser() if named else cache_folder()).resolve()
    mounted = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    # Of several file systems at one place, the last one hides the others.
    kind = max(enumerate(mounted), key=lambda pair: (len(pair[1].mountpoint), pair[0]))[1].fstype if mounted else ""
    text = f"Prefect's records are in {folder}"
    if kind.startswith(_SHARED_KINDS):
        remedy = "set PREFECT_HOME to a folder on a disk of this machine"
        return Finding("warning", f"{text}, on a shared file system ({kind}), where SQLite can lose data", remedy)
    return Finding("ok", text)


def check_memory(workspace: Workspace) -> Finding:
    """Total, granted and available memory."""
    import psutil

    memory, granted = psutil.virtual_memory(), granted_memory()
    total = min(memory.total, granted or memory.total)
    free = min(memory.available, total)
    text = f"{human(total)}B{' (limit of the control group)' if total < memory.total else ''}, {human(free)}B available"
    if total < _LEAST_MEMORY:
        return Finding("problem", text, f"use a machine or a container with {human(_SMALL_MEMORY)}B or more")
    if free < _LEAST_MEMORY:
        return Finding("warning", text, "end other programs that use memory before 'numerate run'")
    return Finding("ok", text)


def check_cores(workspace: Workspace) -> Finding:
    """Number of usable cores, and the CPU time that a control group grants."""
    usable, granted, total = cores(), granted_cores(), os.cpu_count() or 1
    text = f"{usable} usable" + (f" of {total}" if usable < total else "")
    text += f", CPU time limited to {granted:g} cores by the control group" if granted else ""
    if usable < 2:
        return Finding("warning", text, "use two or more cores: one core reaches half the speed that the README states")
    return Finding("ok", text)


def check_compiler(workspace: Workspace) -> Finding:
    """Whether there is a C++ compiler, which is needed to compile layers on a GPU."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", "c++")
    if path := next(filter(None, map(shutil.which, names)), None):
        return Finding("ok", path)
    if has_nvidia():
        return Finding("warning", "none: layers cannot be compiled for the GPU", "install g++")
    return Finding("ok", "none; only training on a GPU needs one")


def check_clock(workspace: Workspace) -> Finding:
    """The system clock, and its offset from the disk's clock; file times show whether a file is still being written."""
    now = datetime.now(UTC)
    text, remedy = f"{now:%Y-%m-%d %H:%M:%S} UTC", "set the clock, for example: timedatectl set-ntp true"
    if now.year < 2026:
        return Finding("problem", f"{text}, which is in the past", remedy)
    if workspace.root.exists() and workspace.root.can_be_written():
        probe = workspace.root / ".clock"
        probe.write(f"{now}".encode())
        skew = probe.changed() - time.time()
        probe.remove()
        if abs(skew) > _SKEW_SECONDS:
            return Finding("warning", f"{text}, the clock of the workspace's disk differs by {skew:+.0f} s", remedy)
    return Finding("ok", text)


def has_nvidia() -> bool:
    """Whether an NVIDIA driver is present."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _pins() -> dict[str, str]:
    """Tested versions by canonical name; empty if Numerate is installed without its repository."""
    from packaging.utils import canonicalize_name

    try:
        lines = [line.partition("==") for line in _CONSTRAINTS.read_text().splitlines()]
    except OSError:
        return {}
    return {canonicalize_name(name): version for name, equals, version in lines if equals}


MACHINE_CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_workspace,
    check_disk,
    check_records,
    check_memory,
    check_cores,
    check_compiler,
    check_clock,
)
