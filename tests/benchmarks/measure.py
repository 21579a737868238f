"""How a benchmark measures: pairs by turns, memory of a whole process tree, and a bar beside each figure."""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

_SAMPLE_SECONDS = 0.5
# Units that say the same on every machine.
_PORTABLE = ("×", "%", "B/row", "MB")


@dataclass(frozen=True)
class Figure:
    """One line of the table: a measured value beside the goal and the least that we accept.

    Only ratios, of two things timed in one run, and bytes have bars: a rate says as much of the machine.
    """

    what: str
    value: float
    unit: str
    goal: float | None = None
    least: float | None = None
    detail: str = ""
    at_most: bool = False
    """Whether the bars are upper bounds."""

    def __post_init__(self) -> None:
        if self.unit not in _PORTABLE and (self.goal, self.least) != (None, None):
            raise ValueError(f"{self.what} has a bar in {self.unit}: set it to a ratio or to bytes")

    @property
    def verdict(self) -> str:
        """Which bar the value meets."""
        for name, bar in (("goal", self.goal), ("least", self.least)):
            if bar is not None and (self.value <= bar if self.at_most else self.value >= bar):
                return name
        return "" if self.goal is None and self.least is None else "missed"


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def core_seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call, of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def best_of(work: Callable[[], object], repeats: int, clock: Callable[[Callable[[], object]], float]) -> float:
    """The smallest of several timings: the one that other programs disturbed least."""
    return min(clock(work) for _ in range(repeats))


def ratio(ours: Callable[[], float], peer: Callable[[], float], repeats: int) -> tuple[float, float, float]:
    """Median rates of both, and the median ratio of neighbours; each call gives a rate, ours and peer by turns."""
    pairs = [(ours(), peer()) for _ in range(repeats)]
    return (
        statistics.median(first for first, _ in pairs),
        statistics.median(second for _, second in pairs),
        statistics.median(first / second for first, second in pairs),
    )


@dataclass
class Memory:
    """Largest resident memory, in bytes, that one process of a tree had."""

    largest: int = 0
    by_name: dict[str, int] = field(default_factory=dict)


@contextmanager
def peak_memory(root: int) -> Iterator[Memory]:
    """Watch the process `root` and all of its descendants while the block runs."""
    found, ended = Memory(), threading.Event()

    def watch() -> None:
        """Sample until the block has ended."""
        while not ended.wait(_SAMPLE_SECONDS):
            try:
                tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in tree:
                try:
                    size, name = process.memory_info().rss, process.name()
                except psutil.Error:
                    continue
                found.by_name[name] = max(found.by_name.get(name, 0), size)
                found.largest = max(found.largest, size)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def run_watched(command: list[str]) -> tuple[float, Memory, str]:
    """Run a command; its seconds, its memory and what it wrote to standard output. Raises if it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with peak_memory(process.pid) as memory:
        output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors[-2_000:]}")
    return time.perf_counter() - began, memory, output
