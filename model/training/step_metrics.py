"""Metrics and throughput of training steps, and results of validations.

Losses stay on the device until a few steps are read together.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor

from model.ranks import add_up, rank, ranks
from model.runs.metrics import ERRORS_SCHEMA, MetricsWriter
from model.training.validation import Validated
from storage.places.place import Location


class StepMetrics:
    """Collects the rows of the metrics; only rank 0 writes them."""

    def __init__(self, run: Location, step: int, peak: float) -> None:
        """Continue the metrics of a run after `step`; `peak` is the device's peak FLOP/s."""
        self.writer, self.peak, self.loss = MetricsWriter(run / "metrics"), peak, 0.0
        self.errors = MetricsWriter(run / "validation", ERRORS_SCHEMA)
        self._pending: list[tuple[dict[str, Any], Tensor]] = []
        self._seconds_before = 0.0
        if rank() == 0:
            self.writer.drop_after(step)
            self.errors.drop_after(step)
            self._seconds_before = self.writer.seconds()
        self.begin()

    def begin(self) -> None:
        """Start the clock of the column `seconds`, which continues from the last checkpoint."""
        self._began = time.perf_counter() - self._seconds_before
        self.restart()

    def restart(self) -> None:
        """Restart the measurement of the throughput, after work that should not count."""
        self._since, self._problems, self._flops = time.perf_counter(), 0, 0

    def add(self, row: dict[str, Any], loss: Tensor, problems: int, flops: int) -> None:
        """Add a step: this process's loss, the problems of all processes, and the FLOPs of this device."""
        row = {**row, "seconds": time.perf_counter() - self._began, "validation_exact_match": None}
        self._pending.append((row, loss.detach()))
        self._problems += problems
        self._flops += flops

    def settle(self) -> dict[str, Any] | None:
        """Read the losses since the last call, as means over all processes; every process calls this function.

        Returns the row of the first step whose loss is not finite. Its row and those after it are dropped.
        """
        if not self._pending:
            return None
        losses = add_up(torch.stack([loss for _, loss in self._pending]).double() / ranks()).tolist()
        seconds = time.perf_counter() - self._since
        throughput = {
            "problems_per_second": self._problems / seconds,
            "share_of_peak": self._flops / seconds / self.peak,
        }
        self.restart()
        pending, self._pending = self._pending, []
        for (row, _), loss in zip(pending, losses, strict=True):
            row = {**row, **throughput, "loss": loss}
            if not math.isfinite(loss):
                return row
            self.writer.add(row)
        self.loss = losses[-1]
        return None

    def write(self, validated: Validated | None = None) -> None:
        """Write the rows up to here, so that they can be queried during the run; the last one gets a validation."""
        if rank() == 0 and self.writer.rows:
            last = self.writer.rows[-1]
            if validated:
                last["validation_exact_match"] = validated.exact_match
                for error in validated.errors:
                    self.errors.add({"run": last["run"], "step": last["step"], **error._asdict()})
            self.writer.flush()
            self.errors.flush()
        self.writer.rows.clear()
