"""The index of a run's checkpoints; does not import torch, which takes seconds."""

from typing import Annotated

from pydantic import BaseModel, Field


class CheckpointEntry(BaseModel, frozen=True, extra="forbid"):
    """One checkpoint in the index."""

    step: Annotated[int, Field(strict=True, ge=0, lt=1 << 53)]
    exact_match: Annotated[float, Field(ge=0, le=1)]
    file: Annotated[str, Field(pattern=r"^step-\d+\.safetensors$")]
    sha256: str = ""


class CheckpointIndex(BaseModel, frozen=True, extra="forbid"):
    """All checkpoints of a run, oldest first."""

    entries: tuple[CheckpointEntry, ...] = ()

    @property
    def last(self) -> CheckpointEntry | None:
        """The newest checkpoint."""
        return self.entries[-1] if self.entries else None

    @property
    def best(self) -> CheckpointEntry | None:
        """The checkpoint with the highest exact match on validation; the newest one if several are equal."""
        return max(self.entries, key=lambda entry: (entry.exact_match, entry.step), default=None)
