"""The index of a run's checkpoints, and the length of their files; does not import torch, which takes seconds."""

import json
from typing import Annotated

from pydantic import BaseModel, Field

from storage.places.place import Location

# Header limit of the safetensors library, in bytes.
_LONGEST_HEADER = 100_000_000


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
        """The checkpoint of the highest step; None before the first one is saved."""
        return self.entries[-1] if self.entries else None

    @property
    def best(self) -> CheckpointEntry | None:
        """The checkpoint with the highest exact match on validation; the newest one if several are equal."""
        return max(self.entries, key=lambda entry: (entry.exact_match, entry.step), default=None)


def is_cut_off(path: Location) -> bool:
    """Whether a safetensors file does not have the length that its header gives, or its header is unreadable."""
    size = path.size()
    try:
        with path.opened() as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                return True
            header = json.loads(file.read(length))
        ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
        return bool(size != 8 + length + max(ends, default=0))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return True
