"""Common code of modules that run as plain processes: signals, exit codes and one-line error messages."""

import signal
import sys
from collections.abc import Callable

import torch
from pydantic import ValidationError

from storage.errors import RunFailure, UserError
from storage.machine import cores
from storage.parameters import one_line

Stop = Callable[[], bool]


def use_granted_cores() -> None:
    """Limit torch's threads to the granted cores, because torch ignores the limits of a control group."""
    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def run_plainly(work: Callable[[Stop], int], source: str) -> int:
    """Run `work` and return its exit code.

    `work` receives a function that returns True after SIGINT or SIGTERM. `UserError`, `RunFailure` and invalid
    parameters print a one-line error to standard error; `source` names the parameter file in it.
    """
    received_signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: received_signals.append(received))
    try:
        return work(lambda: bool(received_signals))
    except (UserError, RunFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ValidationError as error:
        print(f"error: {source}: {one_line(error)}", file=sys.stderr)
        return UserError.exit_code
