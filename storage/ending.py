"""The end of a process that read Parquet files."""

import atexit
import os
import sys
import threading
from typing import NoReturn

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
