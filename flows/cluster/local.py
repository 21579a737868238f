"""Starts and stops Ray in a separate thread, so that no signal interrupts the start or the stop.

The main thread receives signals while it waits. Ray is then fully started, and stopped again. Outside the main thread,
`ray.init` leaves Python's SIGTERM handler alone. Its C++ part still installs a handler that aborts the process, and
the main thread removes that handler within milliseconds.
"""

import atexit
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Time limit for a thread to start, and the longest time that Ray's own handler may stay.
_BIRTH_SECONDS, _HANDLER_SECONDS = 5.0, 0.005


@contextmanager
def owned(start: Callable[[], object]) -> Iterator[None]:
    """Run Ray for the block, started by `start`; raises its exceptions."""
    owner = _Owner(start)
    atexit.register(owner.end)
    try:
        owner.begin()
        yield
    finally:
        owner.end()
        atexit.unregister(owner.end)


class _Owner:
    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self._begun, self._over, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._failures: list[BaseException] = []
        # The thread lives as long as Ray: when it ends, the kernel kills the Ray processes that it started.
        self._thread = threading.Thread(target=self._own, daemon=True)

    def begin(self) -> None:
        """Wait until Ray has started; raises exceptions of `start`."""
        self._thread.start()
        while not self._begun.wait(_HANDLER_SECONDS):
            _put_handler_back()
        _put_handler_back()
        if self._failures:
            raise self._failures[0]

    def end(self) -> None:
        """Wait until Ray has stopped. If a signal interrupts this, the exit handler calls it again."""
        self._over.set()
        # Events instead of Thread.join: in Python 3.11, a signal during join makes the thread look finished.
        born = time.monotonic() + _BIRTH_SECONDS
        while not self._ended.wait(_HANDLER_SECONDS) and (self._thread.is_alive() or time.monotonic() < born):
            _put_handler_back()

    def _own(self) -> None:
        import ray

        try:
            self._start()
            self._begun.set()
            self._over.wait()
        except BaseException as error:
            self._failures.append(error)
        finally:
            ray.shutdown()
            self._begun.set()
            self._ended.set()


def _put_handler_back() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
