"""SIGTERM and Ctrl-C at any moment end a command with exit code 130 and one line, and leave no process.

Each moment is a condition that is visible from outside, such as the start of a child process.
"""

import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.processes import (
    command_environment,
    command_line,
    processes_with,
    restore_sigint,
    send_signal,
    start_command,
    wait_for,
)

# Every process that a command starts inherits this environment variable.
_COMMAND_VARIABLE = "NUMERATE_TEST_COMMAND"
_RESULT_SECONDS = 300.0
_EXIT_SECONDS = 20.0
_QUICK = ("run", "quick", "--training.steps", "5000")
_SHORT = ("run", "quick", "--training.steps", "20")


@dataclass
class Command:
    """A command in a process group of its own; `name` identifies it and all processes that it starts."""

    process: "subprocess.Popen[str]"
    name: str
    workspace: Path

    def processes(self) -> list[psutil.Process]:
        """The command and its descendants, whatever their parent is by now."""
        return processes_with(_COMMAND_VARIABLE, self.name)

    def wait_for(self, moment: Callable[["Command"], bool]) -> None:
        """Wait until a condition is true; fails if the command ends before that."""

        def reached() -> bool:
            assert self.process.poll() is None, self.result()
            return moment(self)

        wait_for(reached, poll=0.01)

    def result(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error, once the command has ended."""
        code, folder = self.process.wait(_RESULT_SECONDS), self.workspace.parent
        return code, (folder / "out").read_text(), (folder / "errors").read_text()

    def remaining(self) -> list[str]:
        """Processes that still run some seconds later, in which descendants can notice the end of their parent."""
        with suppress(AssertionError):
            wait_for(lambda: not self.processes(), _EXIT_SECONDS)
        return [f"{process.pid} {command_line(process)}" for process in self.processes()]


def _descendants(pid: int) -> Iterator[int]:
    """Process ids of all descendants, from the kernel's lists of children, which is faster than psutil."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _descendants(child)


def _command_line_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def start(folder: Path, *words: str) -> Command:
    """Start a command in an empty folder."""
    name = uuid.uuid4().hex
    process = start_command(
        *words,
        # The outputs are files: a pipe stays open as long as any descendant of the command runs.
        stdout=open(folder / "out", "w"),  # noqa: SIM115
        stderr=open(folder / "errors", "w"),  # noqa: SIM115
        cwd=folder,
        env=command_environment(**{_COMMAND_VARIABLE: name}),
        start_new_session=True,
        preexec_fn=restore_sigint,
    )
    return Command(process, name, folder / "workspace")


def handles_sigterm(command: Command) -> bool:
    """Whether the command has installed a handler of SIGTERM; Python itself installs none."""
    status = Path(f"/proc/{command.process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def has_loaded(library: str) -> Callable[[Command], bool]:
    """Whether the command has loaded a library."""
    return lambda command: library in Path(f"/proc/{command.process.pid}/maps").read_text()


def has_started(word: str) -> Callable[[Command], bool]:
    """Whether a descendant of the command has a word in its command line."""
    return lambda command: any(word in _command_line_of(pid) for pid in _descendants(command.process.pid))


def has_file(pattern: str) -> Callable[[Command], bool]:
    """Whether a file that matches a pattern is in the workspace of the command."""
    return lambda command: any(command.workspace.glob(pattern))


MOMENTS: dict[str, Callable[[Command], bool]] = {
    "imports": handles_sigterm,
    "prefect-start": has_started("flows.server.app"),
    "imports-of-prefect": has_loaded("_pydantic_core"),
    "ray-imported": has_loaded("_raylet.so"),
    "ray-start": has_started("gcs_server"),
    "ray-node": has_started("raylet/raylet"),
    "ray-agents": has_started("runtime_env_agent"),
    "generation": has_file("corpora/quick/.progress/*.json"),
    "generated": has_file("corpora/quick/manifest.json"),
    "training-start": has_file("runs/quick/.launch"),
    "training-workers": has_started("RayTrainWorker"),
    "training": has_file("runs/quick/metrics/*.parquet"),
}
# Moments after the training, which is short.
LATE_MOMENTS: dict[str, Callable[[Command], bool]] = {
    "trained": has_file("runs/quick/checkpoints/step-000000020.safetensors"),
    "evaluation": has_file("runs/quick/predictions"),
    "evaluated": has_file("runs/quick/predictions/*.parquet"),
    "report": has_file("runs/quick/report.json"),
}


def _cases() -> Iterator[object]:
    """Every moment with both signals; only one case is not slow: Ray once replaced the handler at this moment."""
    for moment in (*MOMENTS, *LATE_MOMENTS):
        for number in (signal.SIGTERM, signal.SIGINT):
            quick = (moment, number) == ("ray-start", signal.SIGTERM)
            yield pytest.param(moment, number, marks=[] if quick else pytest.mark.slow, id=f"{moment}-{number.name}")


@pytest.mark.parametrize(("moment", "number"), _cases())
def test_signal_ends_a_command_with_one_line_and_leaves_no_process(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    command = start(tmp_path, *(_SHORT if moment in LATE_MOMENTS else _QUICK))
    command.wait_for({**MOMENTS, **LATE_MOMENTS}[moment])
    send_signal(command.process, number)
    code, out, errors = command.result()
    *progress, last = errors.splitlines() or [""]
    assert (code, last.partition(":")[2][:12], out) == (130, " interrupted", ""), errors
    stages = ("corpus quick", "tokenizer quick", "encode quick", "run quick", "report: ")
    assert all(line.startswith(stages) for line in progress), errors
    assert command.remaining() == []
