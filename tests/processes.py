"""The `numerate` command and other processes that tests start, watch and wait for."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).parents[1]
_Value = TypeVar("_Value")


def command_environment(**values: str) -> dict[str, str]:
    """This process's environment with these values and this source tree, but without Prefect's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **values}


def start_command(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> "subprocess.Popen[str]":
    """Start `numerate`; both outputs are captured unless `options` of `Popen` say otherwise."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-m", "flows", *arguments], env=env or command_environment(), **options)


def result_of(process: "subprocess.Popen[str]", seconds: float = 600.0) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, once the process has ended; after `seconds` it is killed."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output, errors


def wait_for(
    condition: Callable[[], _Value],
    seconds: float = 300.0,
    process: "subprocess.Popen[str] | None" = None,
    poll: float = 0.1,
) -> _Value:
    """The first true value of a condition; fails after `seconds`, or as soon as `process` has ended."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        assert process is None or process.poll() is None, f"the process has ended: {result_of(process)}"
        if value:
            return value
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:.0f} s"
        time.sleep(poll)


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Running processes with this value of an environment variable, by process id, whatever their parent is by now."""
    setting, found = f"{variable}={value}".encode(), []
    for process in psutil.process_iter():
        # psutil's `environ` stops at an empty entry, which a process that sets its title may leave.
        with suppress(OSError):
            if setting in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process)
    return found


def command_line(process: psutil.Process) -> str:
    """The words of a process's command line; empty if it has ended."""
    with suppress(psutil.Error, OSError):
        return " ".join(process.cmdline())
    return ""


def send_signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal as a user does: Ctrl-C on a terminal reaches the whole process group."""
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def restore_sigint() -> None:
    """Let a new process receive Ctrl-C: background jobs of a shell ignore SIGINT, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
