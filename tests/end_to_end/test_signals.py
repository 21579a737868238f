"""SIGTERM and Ctrl-C at every moment of a command: exit code 130, one line, and no process is left.

Each moment is a condition that can be seen from outside, such as a child process that appears.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.interrupts import hear_interrupts

_MARK = "NUMERATE_TEST_MARK"
_SECONDS = 300.0
_QUICK = ("run", "quick", "--training.steps", "5000")


@dataclass
class Command:
    """A command in a process group of its own; whatever it starts inherits a mark."""

    process: "subprocess.Popen[str]"
    mark: str
    workspace: Path

    def family(self) -> list[psutil.Process]:
        """Every process that has the mark, whoever its parent is by now."""
        return [one for one in psutil.process_iter() if _marked(one, self.mark)]

    def below(self, word: str) -> bool:
        """Whether a process that it started, or one that these started, has a word in its command line."""
        return any(word in _command_line(child) for child in _below(self.process.pid))

    def wait_for(self, seen: Callable[["Command"], object]) -> None:
        """Until a condition holds; fails if the command ends before that."""
        until = time.monotonic() + _SECONDS
        while not seen(self):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, "the moment never came"
            time.sleep(0.01)

    def said(self) -> tuple[int, str, str]:
        """Its exit code, and what it wrote, once it has ended."""
        code, folder = self.process.wait(_SECONDS), self.workspace.parent
        return code, (folder / "out").read_text(), (folder / "errors").read_text()

    def left(self) -> list[str]:
        """The processes that are still there after a moment in which they may notice that their parent is gone."""
        until = time.monotonic() + 20
        while (family := self.family()) and time.monotonic() < until:
            time.sleep(0.05)
        return [f"{one.pid} {_command_line(one.pid)}" for one in family]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _below(process: int) -> Iterator[int]:
    """Numbers of a process's children, and of theirs, from the kernel's own lists: that is fast."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _below(child)


def _command_line(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def start(folder: Path, *words: str, **environment: str) -> Command:
    mark = uuid.uuid4().hex
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", *words],
        # Files, which nobody waits for where a process that is left holds them open.
        stdout=open(folder / "out", "w"),  # noqa: SIM115
        stderr=open(folder / "errors", "w"),  # noqa: SIM115
        text=True,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[2]), _MARK: mark, **environment},
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    return Command(process, mark, folder / "workspace")


def hears(command: Command) -> bool:
    """Whether it has a handler of SIGTERM: Python itself has none."""
    status = Path(f"/proc/{command.process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def maps(library: str) -> Callable[[Command], bool]:
    """Whether it has loaded a library."""
    return lambda command: library in Path(f"/proc/{command.process.pid}/maps").read_text()


def runs(word: str) -> Callable[[Command], bool]:
    """Whether it has a child whose command line holds a word."""
    return lambda command: command.below(word)


def holds(pattern: str) -> Callable[[Command], bool]:
    """Whether such a file lies in its workspace."""
    return lambda command: any(command.workspace.glob(pattern))


MOMENTS: dict[str, Callable[[Command], bool]] = {
    "imports": hears,
    "prefect-start": runs("flows.server.app"),
    "imports-of-prefect": maps("_pydantic_core"),
    "ray-imported": maps("_raylet.so"),
    "ray-start": runs("gcs_server"),
    "ray-node": runs("raylet/raylet"),
    "ray-agents": runs("runtime_env_agent"),
    "generation": holds("corpora/quick/.progress/*.json"),
    "generated": holds("corpora/quick/manifest.json"),
    "training-start": holds("runs/quick/.launch"),
    "training-workers": runs("RayTrainWorker"),
    "training": holds("runs/quick/metrics/*.parquet"),
}


def _cases() -> Iterator[object]:
    """Every moment with both signals; the one at which Ray's own handler was in the way is tried each time."""
    for moment in MOMENTS:
        for number in (signal.SIGTERM, signal.SIGINT):
            quick = (moment, number) == ("ray-start", signal.SIGTERM)
            yield pytest.param(moment, number, marks=[] if quick else pytest.mark.slow, id=f"{moment}-{number.name}")


@pytest.mark.parametrize(("moment", "number"), _cases())
def test_a_signal_ends_a_command_in_one_line_and_leaves_nothing(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    command = start(tmp_path, *_QUICK)
    command.wait_for(MOMENTS[moment])
    os.killpg(command.process.pid, number) if number == signal.SIGINT else command.process.send_signal(number)
    code, out, errors = command.said()
    *before, last = errors.splitlines() or [""]
    assert (code, last.partition(":")[2][:12], out) == (130, " interrupted", ""), errors
    assert all(line.startswith(("corpus quick", "tokenizer quick", "encode quick")) for line in before), errors
    assert command.left() == []
