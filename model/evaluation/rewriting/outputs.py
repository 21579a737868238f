"""Reads marks and results from the outputs of an encoder that rewrites, with their confidence."""

from collections.abc import Iterator, Sequence, Sized
from typing import NamedTuple

import torch
from torch import Tensor

from model.network.rewriting.encoder import StepLogits, log_probabilities
from model.network.rewriting.rows import Operations, Units
from model.tokenizer import DIGITS

# Units or characters that the encoder processes in one call.
_MOST_POSITIONS = 1 << 14


class Result(NamedTuple):
    """What the encoder fills in for one operation in one pass."""

    digits: str
    negative: bool
    done: bool
    """Whether the operation needs no further pass."""
    confidence: float
    """Product of the probabilities of all digits, the end and, unless the result is zero, the sign."""

    @property
    def text(self) -> str:
        """The number as text; zero has no sign."""
        return f"-{self.digits}" if self.negative and self.digits != "0" else self.digits


def results_of(operations: Operations, logits: StepLogits) -> list[Result]:
    """The results that slots and hub give for n operations."""
    total = log_probabilities(logits.digits, logits.ends, operations.inside).sum(1).exp()
    digits = torch.where(operations.inside, logits.digits.argmax(-1), 0)
    ends = logits.ends.unflatten(-1, (2, 2)).argmax(-1)
    # Units first; slots above the upper border are zeros, which a number does not begin with.
    rows = zip(digits.flip(1).tolist(), ends.tolist(), total.tolist(), strict=True)
    return [
        Result("".join(DIGITS[digit] for digit in row).lstrip("0") or "0", bool(negative), bool(done), confidence)
        for row, (negative, done), confidence in rows
    ]


def mark_confidence(units: Units, logits: Tensor) -> Tensor:
    """Product of the probabilities of all marks of an expression, [n]."""
    return torch.where(units.inside, logits.abs().sigmoid().log(), 0.0).sum(1).exp()


def of_similar_length(rows: Sequence[Sized]) -> Iterator[list[int]]:
    """Indices of all rows in batches of similar length, small enough for one call."""
    batch: list[int] = []
    for row in sorted(range(len(rows)), key=lambda row: len(rows[row])):
        if batch and len(rows[row]) * (len(batch) + 1) > _MOST_POSITIONS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
