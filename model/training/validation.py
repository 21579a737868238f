"""Validation during training: exact match on rows that no batch contains."""

from typing import Any

import torch
from torch import nn

from model.config.training import TrainingSpec
from model.evaluation.decoding import answering, parts_of
from model.objectives.objective import Objective
from model.ranks import add_up, rank, ranks
from model.training.batches import held_rows
from storage.datasets.manifest import Dataset


class Validation:
    """The validation rows of this process, on its device."""

    def __init__(self, tokens: Dataset, spec: TrainingSpec, objective: Objective[Any], device: torch.device) -> None:
        self.objective, self.device = objective, device
        parts = held_rows(tokens, "validation", spec.validation_rows, spec.seed, spec.where, rank=rank(), ranks=ranks())
        self.rows = [(layout.answer, torch.from_numpy(rows).to(device)) for layout, rows, _ in parts]
        self.problems = sum(number for _, _, number in parts)
        """Number of rows of all processes."""

    def exact_match(self, encoder: nn.Module, precision: torch.dtype) -> float:
        """Share of all processes' rows answered correctly in one pass; then the encoder is in training mode again."""
        correct = torch.zeros((), dtype=torch.float64, device=self.device)
        with answering(encoder, precision):
            for slots, all_rows in self.rows:
                for part in parts_of(*all_rows.shape):
                    correct += self.objective.right(encoder, all_rows[part].long(), slots).sum()
        encoder.train()
        return add_up(correct).item() / self.problems
