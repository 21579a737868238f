"""Metrics of training steps. Losses stay on the device until a few steps are read together."""

import math
from typing import Any

import torch
from torch import Tensor

from model.ranks import add_up, rank, ranks
from model.runs.metrics import MetricsWriter
from model.training.throughput import Pace


class StepMetrics:
    """Collects the rows of the metrics; only rank 0 writes them."""

    def __init__(self, writer: MetricsWriter, pace: Pace) -> None:
        self.writer, self.pace = writer, pace
        self.loss = 0.0
        self._pending: list[tuple[dict[str, Any], Tensor]] = []

    def add(self, row: dict[str, Any], loss: Tensor) -> None:
        """Add a step with this process's loss."""
        self._pending.append((row, loss.detach()))

    def settle(self) -> dict[str, Any] | None:
        """Read the losses since the last call, as means over all processes; every process calls this function.

        Returns the row of the first step whose loss is not finite. Its row and those after it are dropped.
        """
        if not self._pending:
            return None
        losses = add_up(torch.stack([loss for _, loss in self._pending]).double() / ranks())
        values, pace = losses.tolist(), self.pace.look()
        pending, self._pending = self._pending, []
        for (row, _), loss in zip(pending, values, strict=True):
            row = {**row, **pace, "loss": loss}
            if not math.isfinite(loss):
                return row
            self.writer.add(row)
        self.loss = values[-1]
        return None

    def write(self, exact_match: float | None = None) -> None:
        """Write the rows up to here, so that they can be queried during the run; the last one gets `exact_match`."""
        if rank() == 0 and self.writer.rows:
            self.writer.rows[-1]["validation_exact_match"] = exact_match
            self.writer.flush()
        self.writer.rows.clear()
