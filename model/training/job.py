"""What a training is given, what it reports, and how it ended."""

from dataclasses import dataclass

from model.runs.run_config import RunConfig
from storage.places.place import Location


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs; picklable."""

    run: Location
    tokens: Location
    config: RunConfig
    threads: int = 0
    """CPU threads of a worker; 0 leaves them as they are."""
    left_out: tuple[str, ...] = ()
    """Which rows are in no batch, in words."""


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    """Mean over the hidden tokens of the last step's batch, in nats."""
    exact_match: float
    """Share of validation problems, as validated last."""
    problems_per_second: float


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended: its last step, and the share of validation problems that it then answered exactly.

    `finished` is False where it was stopped before its last step.
    """

    step: int
    finished: bool
    exact_match: float
