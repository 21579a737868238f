"""What every training objective provides: an encoder with its outputs, the loss of a step, and what counts as right.

The loss of a step depends on (seed, step, row) only. It divides by the number of scored outputs in the whole batch. So
only the order of additions depends on the number of processes.
"""

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from model.config.training import TrainingSpec
from model.ranks import add_up, ranks
from model.tokenizer import Tokenizer, holds_marks

Trained = TypeVar("Trained", bound=nn.Module)


class Batch(NamedTuple):
    """This process's share of the batch of a training step."""

    ids: Tensor
    """Complete rows of token ids, int64 [n, width]."""
    slots: int
    """Number of last tokens that are the answer."""
    step: int
    """Number of steps before this one."""
    rows: Tensor
    """Indices of the rows in the whole batch, int64 [n]."""

    @property
    def problem(self) -> Tensor:
        """Token ids of the problems, int64 [n, problem]."""
        return self.ids[:, : -self.slots - 1]

    @property
    def marks(self) -> bool:
        """Whether the rows are expressions with marks."""
        return holds_marks(self.ids.shape[1], self.slots)


class Objective(nn.Module, ABC, Generic[Trained]):
    """One way to train an encoder of the type `Trained`; has no weights."""

    def __init__(self, spec: TrainingSpec, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer

    @abstractmethod
    def encoder(self) -> Trained:
        """A new encoder with the outputs that the objective trains."""

    @abstractmethod
    def training_pass(self, encoder: Trained, precision: torch.dtype) -> nn.Module:
        """The forward pass that `loss` calls; its weights are the encoder's."""

    @abstractmethod
    def loss(self, forward: nn.Module, batch: Batch) -> Tensor:
        """This process's share of the mean loss over all scored outputs of the batch, times the number of processes.

        DDP averages gradients over the processes, which cancels the factor. `forward` is a `training_pass`, or DDP
        around it.
        """

    @abstractmethod
    def right(self, encoder: Trained, ids: Tensor, slots: int) -> Tensor:
        """Which complete rows of token ids [n, width] the encoder answers exactly, bool [n]."""

    def difficulty(self, ids: Tensor, slots: int) -> dict[str, Tensor]:
        """Properties that make complete rows hard, named like columns of the corpus, int64 [n] each; none by default.

        Validation counts errors by their values.
        """
        return {}

    @abstractmethod
    def flops(self, batch: Batch) -> int:
        """FLOPs of the matrix products of a step on this device."""


def per_token(scored: Tensor) -> Tensor:
    """Factor on this process's sum over scored outputs: the number of processes, divided by the outputs of all."""
    return (ranks() / add_up(scored.sum()).clamp(min=1).double()).float()
