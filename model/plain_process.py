"""What modules that run as plain processes have in common: signals, exit codes, and one line for a failure."""

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
    """Let torch take no more threads than the cores that are granted: it doesn't see what a control group grants."""
    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def run_plainly(work: Callable[[Stop], int], source: str) -> int:
    """The exit code of `work`, which is told when SIGINT or SIGTERM asked it to stop; `source` names its parameters.

    A mistake or a failure is one line on standard error.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: asked.append(received))
    try:
        return work(lambda: bool(asked))
    except (UserError, RunFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ValidationError as error:
        print(f"error: {source}: {one_line(error)}", file=sys.stderr)
        return UserError.exit_code
