"""How an expression was rewritten: its states, and the operations between them."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple


class Step(NamedTuple):
    """One operation that the encoder marked and carried out."""

    begin: int
    """Index of the span's first character in its state."""
    span: str
    result: str
    """Empty for a span that the encoder marked and that is no operation."""
    confidence: float
    """Product of the probabilities of all outputs of every pass."""


@dataclass
class Trace:
    """How one expression was rewritten."""

    states: list[str]
    steps: list[list[Step]] = field(default_factory=list)
    """The operations that were carried out in each state."""
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
