"""The input, the progress report and the result of a training."""

from dataclasses import dataclass

from model.runs.run_config import RunConfig
from storage.places.place import Location


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs; picklable."""

    run: Location
    tokens: Location
    config: RunConfig
    threads: int = 0
    """CPU threads per worker; 0 uses at most the granted cores."""
    left_out: tuple[str, ...] = ()
    """Descriptions of the rows that no batch contains."""


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    loss: float
    """Mean over the masked tokens of the last step's batch, in nats."""
    exact_match: float
    """Share of validation problems answered exactly, from the last validation."""
    problems_per_second: float

    def __str__(self) -> str:
        return (
            f"step {self.step:,} of {self.steps:,}, loss {self.loss:.4f}, exact match on validation "
            f"{self.exact_match:.2%}, {self.problems_per_second:,.0f} problems/s"
        )


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training: its last step, and the share of validation problems answered exactly at that step.

    `finished` is False if the training was stopped before `spec.steps`.
    """

    step: int
    finished: bool
    exact_match: float
