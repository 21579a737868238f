"""What Ctrl-C and SIGTERM do at each moment of a command: one line, exit code 130, and no process is left.

While the command is imported nothing has begun, and an exception may be lost in an import: the process ends at once.
At work they raise KeyboardInterrupt. At the end, while servers are stopped, they change the exit code alone.
"""

import _thread
import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

CODE = 130
GOES_ON = "interrupted: the same command goes on where this one ended"
_AGAIN_SECONDS = 0.01

_heard = False
_interrupted = False


def heard() -> bool:
    """Whether a signal came while the command was at work."""
    return _heard


def end_at_once() -> None:
    """From now on a signal ends the process; to be called before anything else is imported."""
    # Registered first, so that it runs last.
    atexit.register(_last)
    _on_signals(_end)


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`, which a signal interrupts; one that comes later does so no more."""
    sys.unraisablehook = _raise_again
    try:
        _on_signals(_interrupt)
        code = work()
        _on_signals(_note)
    except KeyboardInterrupt:
        _on_signals(_note)
        _say(GOES_ON)
        code = CODE
    return code


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGTERM, handler)
    # A background job of a shell ignores Ctrl-C.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _end(number: int, frame: FrameType | None) -> None:
    _say("interrupted")
    os._exit(CODE)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _heard
    _heard = True
    raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _interrupted
    if not (_heard or _interrupted):
        _say("interrupted")
    _interrupted = True


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Deliver an interruption again that came where Python drops exceptions, as while an object is deleted."""
    if _heard and lost.exc_type and not issubclass(lost.exc_type, Exception):
        # Not at once: what is raised here would be dropped too.
        _thread.start_new_thread(_interrupt_again, ())
    else:
        sys.__unraisablehook__(lost)


def _interrupt_again() -> None:
    time.sleep(_AGAIN_SECONDS)
    _thread.interrupt_main(signal.SIGTERM)


def _say(text: str) -> None:
    try:
        os.write(2, f"error: {text}\n".encode())
    except OSError:
        return


def _last() -> None:
    """What is left of the process says nothing: DuckDB's bindings complain of objects that Prefect still holds."""
    if _interrupted:
        os._exit(CODE)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
