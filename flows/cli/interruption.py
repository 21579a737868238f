"""Handling of Ctrl-C and SIGTERM: the command prints one line, exits with 130, and leaves no process behind.

During imports the process ends at once, since no work has started and an import may swallow an exception. During the
work, signals raise KeyboardInterrupt. At the end, while servers stop, they only change the exit code.
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
CONTINUES = "interrupted: run the same command again to continue"
_AGAIN_SECONDS = 0.01

_work_interrupted = False
_exit_interrupted = False


def interrupted() -> bool:
    """Whether a signal arrived during the work."""
    return _work_interrupted


def end_at_once() -> None:
    """Let signals end the process from now on; must be called before other imports."""
    # The exit function that is registered first runs last.
    atexit.register(_silence_exit)
    _on_signals(_end_process)


def guarded(work: Callable[[], int]) -> int:
    """Run `work` with signals as KeyboardInterrupt; returns its exit code. Later signals do not interrupt anything."""
    sys.unraisablehook = _raise_again
    try:
        _on_signals(_interrupt)
        code = work()
        _on_signals(_note)
    except KeyboardInterrupt:
        _on_signals(_note)
        _say(CONTINUES)
        code = CODE
    return code


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGTERM, handler)
    # A shell's background job ignores Ctrl-C.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _end_process(number: int, frame: FrameType | None) -> None:
    _say("interrupted")
    os._exit(CODE)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _work_interrupted
    _work_interrupted = True
    raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _exit_interrupted
    if not (_work_interrupted or _exit_interrupted):
        _say("interrupted")
    _exit_interrupted = True


def _raise_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Raise an interruption again that Python dropped, for example in a destructor."""
    if _work_interrupted and dropped.exc_type and not issubclass(dropped.exc_type, Exception):
        # In another thread, because an exception raised here would be dropped too.
        _thread.start_new_thread(_interrupt_again, ())
    else:
        sys.__unraisablehook__(dropped)


def _interrupt_again() -> None:
    time.sleep(_AGAIN_SECONDS)
    _thread.interrupt_main(signal.SIGTERM)


def _say(text: str) -> None:
    try:
        os.write(2, f"error: {text}\n".encode())
    except OSError:
        return


def _silence_exit() -> None:
    """Silence the rest of the process: DuckDB's bindings complain about objects that Prefect still holds."""
    if _exit_interrupted:
        os._exit(CODE)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
