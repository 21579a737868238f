"""Progress of work: a bar on a terminal, and an artifact on the page of the flow run."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_ARTIFACT_SECONDS = 5.0


class Meter:
    """Counts finished units out of `total` and shows the progress."""

    def __init__(self, title: str, total: int, unit: str, bar: Progress | None, artifact: UUID | None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self._finished_before, self._began, self._shown = 0, 0, time.monotonic(), 0.0
        self._bar, self._artifact = bar, artifact
        self._task: Any = bar.add_task(title, total=total, rate="") if bar else None

    def add(self, amount: int) -> None:
        self.set(self.done + amount)

    def add_finished(self, amount: int) -> None:
        """Count `amount` units that an earlier call finished; they do not affect the rate."""
        self._finished_before, self.done = self._finished_before + amount, self.done + amount
        if self._bar:
            self._bar.reset(self._task, completed=self.done, rate="")

    def set(self, done: int, note: str = "") -> None:
        """Set the count; `note` is shown after the rate."""
        self.done = done
        rate = (done - self._finished_before) / max(1e-9, time.monotonic() - self._began)
        text = f"{human(rate)} {self.unit}/s {note}".strip()
        if self._bar:
            self._bar.update(self._task, completed=done, rate=text)
        if self._artifact and (time.monotonic() - self._shown > _ARTIFACT_SECONDS or done >= self.total):
            from prefect.artifacts import update_progress_artifact

            left = (self.total - done) / max(rate, 1e-9)
            update_progress_artifact(
                self._artifact,
                progress=min(100.0, 100 * done / self.total),
                # The time left comes first, because a card shows only the beginning.
                description=f"{left:.0f} s left, {text}; {self.title}: {done:,} of {self.total:,} {self.unit}",
            )
            self._shown = time.monotonic()


@contextmanager
def metered(key: str, title: str, total: int, unit: str = "rows") -> Iterator[Meter]:
    """A meter for the block; `key` names the Prefect artifact and consists of lower-case letters and dashes."""
    # Imported late: callers that only print a line do not need Prefect.
    from prefect.artifacts import create_progress_artifact
    from prefect.context import FlowRunContext

    artifact: Any = create_progress_artifact(0.0, key=key, description=title) if FlowRunContext.get() else None
    if not sys.stderr.isatty():
        yield Meter(title, total, unit, None, artifact)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Meter(title, total, unit, bar, artifact)


def say(text: str) -> None:
    """Print one line to standard error, and add it to the log of the current flow run."""
    print(text, file=sys.stderr, flush=True)
    if "prefect" in sys.modules:
        from prefect.context import FlowRunContext
        from prefect.logging import get_run_logger

        if FlowRunContext.get():
            get_run_logger().info(text)


def human(value: float) -> str:
    """A number with three significant figures: 5.94 M, 12.3 k, 87."""
    # Above 0.9995 units, three significant figures round up to 1.00.
    for size, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{_three_figures(value / size)}{suffix}"
    return _three_figures(value)


def _three_figures(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 layer, 2,000 layers."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
