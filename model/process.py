"""What modules that run as plain processes have in common: signals, exit codes, and one line for a failure."""

import signal
import sys
from collections.abc import Callable

from pydantic import ValidationError

from storage.errors import RunFailure, UserError
from storage.parameters import one_line

Stop = Callable[[], bool]


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
