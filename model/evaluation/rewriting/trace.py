"""How an expression was rewritten: its states, and the operations between them."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple


class Step(NamedTuple):
    """One operation that the encoder marked, and carried out or tried to."""

    begin: int
    """Index of the span's first character in its state."""
    span: str
    result: str
    """Empty if the span could not be carried out: it is no operation, or the encoder said that it is not done."""
    confidence: float
    """Product of the probabilities of all outputs of every pass."""


@dataclass
class Trace:
    """How one expression was rewritten."""

    states: list[str]
    steps: list[list[Step]] = field(default_factory=list)
    """The operations in each state; the last one may have some that could not be carried out."""
    confidences: list[float] = field(default_factory=list)
    """Of the marks of each state, and of every step."""
    answer: str = ""
    """The number at the end; empty if there is none."""
    reason: str = ""
    """Why there is no answer."""

    @property
    def confidence(self) -> float:
        """Product of the probabilities of all outputs of the encoder."""
        return math.prod(self.confidences)
