"""The end of a plain process: `python -m` of a module that trains, compares or generates."""

import atexit
import os
import sys
import threading
from typing import NoReturn

from storage.errors import RunFailure

# Python's own exit code if what was printed cannot be written.
_NOT_WRITTEN = 120


def end_process(code: int) -> NoReturn:
    """End this process with an exit code as `sys.exit` does, but without the destructors of libraries.

    Arrow's thread pool aborts the process in some of these if it read a file shortly before: `terminate called without
    an active exception` (github.com/apache/arrow/issues/34314).
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except (OSError, ValueError):
            code = code or _NOT_WRITTEN
    os._exit(code)


def refused(error: OSError) -> int:
    """Print in one line what the system refused, and return the exit code; a reader that went away needs no words."""
    if not isinstance(error, BrokenPipeError):
        print(f"error: {error.filename or 'the output'}: {error.strerror or error}", file=sys.stderr)
    return RunFailure.exit_code
