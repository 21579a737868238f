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

# Time limit for the start of the thread, and the longest time that Ray's own handler may stay.
_START_SECONDS, _HANDLER_SECONDS = 5.0, 0.005


@contextmanager
def ray_in_thread(start: Callable[[], object], explained: Callable[[Exception], Exception]) -> Iterator[None]:
    """Run Ray for the block, started by `start`; `explained` converts its exceptions."""
    thread = _RayThread(start)
    atexit.register(thread.stop_and_wait)
    try:
        try:
            thread.start_and_wait()
        except Exception as error:
            raise explained(error) from error
        yield
    finally:
        thread.stop_and_wait()
        atexit.unregister(thread.stop_and_wait)


class _RayThread:
    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self._started, self._stopping, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._failures: list[BaseException] = []
        # The thread lives as long as Ray: when it ends, the kernel kills the Ray processes that it started.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start_and_wait(self) -> None:
        """Wait until Ray has started; raises exceptions of `start`."""
        self._thread.start()
        while not self._started.wait(_HANDLER_SECONDS):
            _restore_handler()
        _restore_handler()
        if self._failures:
            raise self._failures[0]

    def stop_and_wait(self) -> None:
        """Wait until Ray has stopped. If a signal interrupts this, the exit handler calls it again."""
        self._stopping.set()
        # Events instead of Thread.join: in Python 3.11, a signal during join makes the thread look finished.
        latest_start = time.monotonic() + _START_SECONDS
        while not self._stopped.wait(_HANDLER_SECONDS) and (self._thread.is_alive() or time.monotonic() < latest_start):
            _restore_handler()

    def _run(self) -> None:
        import ray

        try:
            self._start()
            self._started.set()
            self._stopping.wait()
        except BaseException as error:
            self._failures.append(error)
        finally:
            ray.shutdown()
            self._started.set()
            self._stopped.set()


def _restore_handler() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
