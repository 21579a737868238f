"""Ray's beginning and end in a thread of their own, where no signal can cut one of them in two.

A signal is heard by the main thread, which waits here meanwhile: Ray is then begun, and ended again. In another
thread than the main one `ray.init` leaves Python's handler of SIGTERM alone; its C++ part still puts a handler of its
own below that, which aborts the process, and the main thread takes it away within milliseconds.
"""

import atexit
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How soon a thread that was started is there, and how long Ray's own handler may stay.
_BIRTH_SECONDS, _HANDLER_SECONDS = 5.0, 0.005


@contextmanager
def owned(start: Callable[[], object]) -> Iterator[None]:
    """Ray for the block, as `start` begins it; raises what that raises."""
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
        # It lives as long as Ray does: the kernel kills Ray's processes when the thread ends that started them.
        self._thread = threading.Thread(target=self._own, daemon=True)

    def begin(self) -> None:
        """Wait until Ray has begun; raises what `start` raised."""
        self._thread.start()
        while not self._begun.wait(_HANDLER_SECONDS):
            _put_handler_back()
        _put_handler_back()
        if self._failures:
            raise self._failures[0]

    def end(self) -> None:
        """Wait until Ray has ended; after an interruption the end of the process does so again."""
        self._over.set()
        # Events, not Thread.join: a signal in mid-join makes Python 3.11 take the thread for ended.
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
