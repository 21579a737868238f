"""Checks of the machine for `numerate doctor`: Python, packages, disk, memory, cores, compiler, clock."""

import os
import platform
import shutil
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from flows.common.progress import human
from flows.diagnostics.findings import Check, Finding
from storage.errors import UserError
from storage.machine import cores, granted_cores, granted_memory
from storage.workspace import Workspace

# Disk space of `numerate run` for the notebook's 100 million rows. Memory limits below are for Ray and two workers.
NOTEBOOK_BYTES = 2_400_000_000
_LEAST_DISK, _LEAST_MEMORY, _SMALL_MEMORY = 200_000_000, 2_000_000_000, 4_000_000_000
_OLDEST_PYTHON = (3, 11)
_SKEW_SECONDS = 5.0
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def check_python(workspace: Workspace) -> Finding:
    """Version of the Python interpreter."""
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("python", "problem", text, "install Python 3.11 or later, and Numerate in an environment of it")
    return Finding("python", "ok", text)


def check_packages(workspace: Workspace) -> Finding:
    """Compare installed versions with the required ranges and with the tested versions."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in metadata.requires("numerate") or ()]
    except metadata.PackageNotFoundError:
        return Finding("packages", "warning", "Numerate isn't installed as a package", "run: pip install -e .")
    asked = [one for one in asked if not one.marker or one.marker.evaluate({"extra": ""})]
    installed = {one.name: _version(one.name) for one in asked}
    wrong = [one for one in asked if not one.specifier.contains(installed[one.name] or "0", prereleases=True)]
    if wrong:
        named = ", ".join(f"{one.name} {installed[one.name] or 'is missing'}" for one in wrong)
        # Prefect allows newer versions, with which its server fails.
        trap = " (Prefect's server dies on a newer fastapi)" if any(one.name == "fastapi" for one in wrong) else ""
        needed = " ".join(f"'{one.name}{one.specifier}'" for one in wrong)
        return Finding("packages", "problem", f"{named}: out of range{trap}", f"run: pip install {needed}")
    pinned = _pins()
    other = [
        f"{name} {version} (tested: {pinned[_plain(name)]})"
        for name, version in installed.items()
        if _differs(name, version, pinned)
    ]
    if other:
        remedy = "run: pip install -c constraints.txt -e .  if something fails, or to get the same bytes of Parquet"
        return Finding("packages", "warning", f"not the versions that are tested: {', '.join(other)}", remedy)
    return Finding("packages", "ok", f"{len(asked)} in range{', all as tested' if pinned else ''}")


def check_workspace(workspace: Workspace) -> Finding:
    """Whether the workspace is writable."""
    root = workspace.root
    if root.exists():
        try:
            Workspace.create(str(root))
        except UserError as error:
            remedy = f"make {root} writable, or take another --workspace"
            return Finding("workspace", "problem", str(error), remedy)
        return Finding("workspace", "ok", f"{root} can be written")
    if root.remote:
        return Finding("workspace", "ok", f"{root} answers, and holds nothing yet")
    above = next(path for path in workspace.on_disk.path.parents if path.exists())
    if not os.access(above, os.W_OK):
        return Finding("workspace", "problem", f"{root} can't be made in {above}", "name another with --workspace")
    return Finding("workspace", "ok", f"{root} is not there yet, and can be made")


def check_disk(workspace: Workspace) -> Finding:
    """Free disk space at the workspace."""
    free = workspace.root.free_bytes()
    if free is None:
        return Finding("disk", "ok", f"{workspace.root} has no bound that is known")
    text = f"{human(free)}B free at {workspace.root}"
    if free < _LEAST_DISK:
        return Finding("disk", "problem", text, "free some space, 'numerate clean' may, or take another --workspace")
    if free < NOTEBOOK_BYTES and not (workspace.corpus("notebook") / "manifest.json").exists():
        text += f", 'numerate run' needs {human(NOTEBOOK_BYTES)}B"
        return Finding(
            "disk", "warning", text, "free some space, or begin with 'numerate run quick', which needs little"
        )
    return Finding("disk", "ok", text)


def check_memory(workspace: Workspace) -> Finding:
    """Total, granted and available memory."""
    import psutil

    memory, granted = psutil.virtual_memory(), granted_memory()
    total = min(memory.total, granted or memory.total)
    free = min(memory.available, total)
    text = f"{human(total)}B{' granted by a control group' if total < memory.total else ''}, {human(free)}B available"
    if total < _LEAST_MEMORY:
        return Finding("memory", "problem", text, f"take a machine or a container with {human(_SMALL_MEMORY)}B or more")
    if free < _LEAST_MEMORY:
        return Finding("memory", "warning", text, "end what else takes memory before 'numerate run'")
    return Finding("memory", "ok", text)


def check_cores(workspace: Workspace) -> Finding:
    """Number of usable cores, and the CPU time that a control group grants."""
    usable, granted, there = cores(), granted_cores(), os.cpu_count() or 1
    text = f"{usable} usable" + (f" of {there}" if usable < there else "")
    text += f", a control group grants the time of {granted:g}" if granted else ""
    if usable < 2:
        return Finding(
            "cores", "warning", text, "it works, at half the speed that the README names: give it two or more"
        )
    return Finding("cores", "ok", text)


def check_compiler(workspace: Workspace) -> Finding:
    """Whether there is a C++ compiler, which is needed to compile layers on a GPU."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", "c++")
    if path := next(filter(None, map(shutil.which, names)), None):
        return Finding("compiler", "ok", path)
    if has_nvidia():
        return Finding("compiler", "warning", "none: layers can't be compiled for the GPU", "install g++")
    return Finding("compiler", "ok", "none, which only training on a GPU would use")


def check_clock(workspace: Workspace) -> Finding:
    """The system clock, and its offset from the disk's clock; file times show whether a file is still being written."""
    now = datetime.now(UTC)
    text, remedy = f"{now:%Y-%m-%d %H:%M:%S} UTC", "set the clock, as by: timedatectl set-ntp true"
    if now.year < 2026:
        return Finding("clock", "problem", f"{text}, which is in the past", remedy)
    if workspace.root.exists() and workspace.root.can_be_written():
        probe = workspace.root / ".clock"
        probe.write(f"{now}".encode())
        skew = probe.changed() - time.time()
        probe.remove()
        if abs(skew) > _SKEW_SECONDS:
            return Finding("clock", "warning", f"{text}, the workspace's disk is {skew:+.0f} s off", remedy)
    return Finding("clock", "ok", text)


def has_nvidia() -> bool:
    """Whether an NVIDIA driver is present."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _pins() -> dict[str, str]:
    """Tested versions by name; empty if Numerate is installed without its repository."""
    try:
        lines = _CONSTRAINTS.read_text().splitlines()
    except OSError:
        return {}
    return {_plain(name): version for name, found, version in (line.partition("==") for line in lines) if found}


def _differs(name: str, version: str, pinned: dict[str, str]) -> bool:
    # The part after '+' names the build, for example for CPUs.
    return _plain(name) in pinned and version.partition("+")[0] != pinned[_plain(name)].partition("+")[0]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


MACHINE_CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_workspace,
    check_disk,
    check_memory,
    check_cores,
    check_compiler,
    check_clock,
)
