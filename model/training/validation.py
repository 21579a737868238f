"""Validation during training: exact match on rows that no batch contains, and what the wrong ones have in common."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.config.training import TrainingSpec
from model.evaluation.decoding import answering, parts_of
from model.objectives.objective import Objective
from model.ranks import add_up, rank, ranks
from model.runs.metrics import ErrorCount
from model.training.batches import held_rows
from storage.datasets.manifest import Dataset

# Larger values of a difficulty are counted as this one.
_LARGEST = 127


class Validated(NamedTuple):
    """Result of one validation, over the rows of all processes."""

    exact_match: float
    """Share of rows answered correctly in one pass."""
    errors: tuple[ErrorCount, ...]
    """Errors by each difficulty of the objective."""


class _Rows(NamedTuple):
    ids: Tensor
    slots: int
    difficulty: dict[str, Tensor]


class Validation:
    """The validation rows of this process, on its device."""

    def __init__(self, tokens: Dataset, spec: TrainingSpec, objective: Objective[Any], device: torch.device) -> None:
        self.objective, self.device = objective, device
        parts = held_rows(tokens, "validation", spec.validation_rows, spec.seed, spec.where, rank=rank(), ranks=ranks())
        self.rows = [self._rows(torch.from_numpy(rows).to(device), layout.answer) for layout, rows, _ in parts]
        self.problems = sum(number for _, _, number in parts)
        """Number of rows of all processes."""
        # All processes have rows of the same layouts.
        self.difficulties = sorted({name for rows in self.rows for name in rows.difficulty})

    def measure(self, encoder: nn.Module, precision: torch.dtype) -> Validated:
        """Answer all processes' rows; then the encoder is in training mode again."""
        right: list[Tensor] = []
        with answering(encoder, precision):
            for ids, slots, _ in self.rows:
                parts = [self.objective.right(encoder, ids[part].long(), slots) for part in parts_of(*ids.shape)]
                right.append(torch.cat(parts))
        encoder.train()
        correct = add_up(torch.cat(right).sum(dtype=torch.float64)).item()
        errors = [error for name in self.difficulties for error in self._errors(name, right)]
        return Validated(correct / self.problems, tuple(errors))

    def _rows(self, ids: Tensor, slots: int) -> _Rows:
        return _Rows(ids, slots, self.objective.difficulty(ids.long(), slots))

    def _errors(self, name: str, right: list[Tensor]) -> list[ErrorCount]:
        """Errors of all processes by value of one difficulty; `right` says which rows of each layout are right."""
        counts = torch.zeros(_LARGEST + 1, 2, dtype=torch.float64, device=self.device)
        for rows, correct in zip(self.rows, right, strict=True):
            if name in rows.difficulty:
                values = rows.difficulty[name].clamp(0, _LARGEST)
                counts.index_add_(0, values, torch.stack([torch.ones_like(correct), ~correct], 1).double())
        found = enumerate(add_up(counts).long().tolist())
        return [ErrorCount(name, value, problems, wrong) for value, (problems, wrong) in found if problems]
