"""Checkpoints as safetensors, with everything needed to go on exactly; nothing is ever unpickled.

`index.json` names the last and the best one and those kept besides; it is replaced after the
file that it names has been written, so it never points at half a checkpoint.
"""

import hashlib
import json
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from model.run import RunConfig
from storage.errors import RunFailure, UserError
from storage.location import Location


class CheckpointEntry(BaseModel):
    """One checkpoint of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    exact_match: float
    file: str
    sha256: str = ""


class CheckpointIndex(BaseModel):
    """All checkpoints of a run, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: tuple[CheckpointEntry, ...] = ()

    @property
    def last(self) -> CheckpointEntry | None:
        """The newest checkpoint."""
        return self.entries[-1] if self.entries else None

    @property
    def best(self) -> CheckpointEntry | None:
        """The newest of those with the highest exact match on validation."""
        return max(self.entries, key=lambda entry: (entry.exact_match, entry.step), default=None)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints below a run's folder."""

    folder: Location

    def index(self) -> CheckpointIndex:
        """What is there, without entries whose file is gone; raises `RunFailure` for a damaged index."""
        place = self.folder / "index.json"
        if not place.exists():
            return CheckpointIndex()
        try:
            index = CheckpointIndex.model_validate_json(place.read())
        except ValidationError as error:
            raise RunFailure(f"{place} is damaged: delete {self.folder} and train again") from error
        return CheckpointIndex(entries=tuple(old for old in index.entries if (self.folder / old.file).exists()))

    def save(
        self, entry: CheckpointEntry, config: RunConfig, model: nn.Module, optimizers: dict[str, Optimizer], keep: int
    ) -> None:
        """Write a checkpoint and forget those that are neither best, last nor among the `keep` newest."""
        tensors = {_name(name): value for name, value in model.state_dict().items()}
        names = {id(weight): name for name, weight in model.named_parameters()}
        for kind, optimizer in optimizers.items():
            for weight, state in optimizer.state.items():
                for key, value in state.items():
                    tensors[f"optimizer.{kind}.{key}.{names[id(weight)]}"] = torch.as_tensor(value)
        metadata = {"step": str(entry.step), "run": config.model_dump_json()}
        flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        data = save(flat, metadata)
        (self.folder / entry.file).write(data)
        entry = entry.model_copy(update={"sha256": hash_of_bytes(data)})
        entries = (*(old for old in self.index().entries if old.step < entry.step), entry)
        index = CheckpointIndex(entries=entries)
        kept = {index.best, *entries[-1 - keep :]}
        self._keep(tuple(old for old in entries if old in kept))

    def needless(self) -> list[Location]:
        """Files of checkpoints that are neither best nor last, known to the index or not; none without an index."""
        needed = self._needed()
        return self._others(needed) if needed else []

    def prune(self) -> None:
        """Keep the best and the last checkpoint alone."""
        if needed := self._needed():
            self._keep(needed)

    def choose(self, which: str) -> CheckpointEntry:
        """The checkpoint named 'best' or 'last'; raises `UserError` where there is none."""
        index = self.index()
        entry = index.best if which == "best" else index.last
        if entry is None:
            raise UserError(f"run {self.folder.path.parent.name!r} has no checkpoint yet: train it first")
        return entry

    def load(self, entry: CheckpointEntry, config: RunConfig) -> dict[str, Tensor]:
        """All tensors of a checkpoint; raises `RunFailure` if it is damaged or not of this run."""
        place = self.folder / entry.file
        data = place.read()
        if hash_of_bytes(data) != entry.sha256:
            raise RunFailure(f"checkpoint {place} is damaged: delete it, and training goes on from the one before")
        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            found = RunConfig.model_validate_json(metadata["run"])
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunFailure(
                f"checkpoint {place} is damaged: delete it, and training goes on from the one before"
            ) from error
        if found.decides() != config.decides():
            raise RunFailure(f"checkpoint {place} belongs to another corpus, tokenizer or configuration: move it away")
        return tensors

    def _needed(self) -> tuple[CheckpointEntry, ...]:
        index = self.index()
        return tuple(entry for entry in index.entries if entry in (index.best, index.last))

    def _keep(self, entries: tuple[CheckpointEntry, ...]) -> None:
        """Name these checkpoints in the index, and then remove all others."""
        index = CheckpointIndex(entries=entries)
        (self.folder / "index.json").write(index.model_dump_json(indent=2).encode() + b"\n")
        for place in self._others(entries):
            place.remove()

    def _others(self, entries: tuple[CheckpointEntry, ...]) -> list[Location]:
        named = {entry.file for entry in entries}
        files = [name for name in self.folder.children() if name.endswith(".safetensors")]
        return [self.folder / name for name in files if name not in named]


def hash_of_bytes(data: bytes) -> str:
    """SHA-256 of a checkpoint's bytes."""
    return hashlib.sha256(data).hexdigest()


def restore(tensors: dict[str, Tensor], model: nn.Module, optimizers: dict[str, Optimizer] | None = None) -> None:
    """Put a checkpoint's values back; raises `RunFailure` where a tensor is missing or has another shape."""
    try:
        own = {_name(name): name for name in model.state_dict()}
        model.load_state_dict(
            {own.get(name, name): v for name, v in tensors.items() if name in own or name.startswith("model.")}
        )
        for kind, optimizer in (optimizers or {}).items():
            for name, weight in model.named_parameters():
                if any(weight is other for group in optimizer.param_groups for other in group["params"]):
                    optimizer.state[weight] = _optimizer_state(tensors, kind, name, weight.device)
    except (RuntimeError, KeyError) as error:
        raise RunFailure(f"the checkpoint doesn't fit this encoder: {str(error).splitlines()[0]}") from error


def _name(weight: str) -> str:
    """A weight's name in a checkpoint; those that only training reads are told from the model's."""
    return f"{'training' if weight.startswith('running_sum') else 'model'}.{weight}"


def _optimizer_state(tensors: dict[str, Tensor], kind: str, name: str, device: torch.device) -> dict[str, Tensor]:
    state = {}
    for key, value in tensors.items():
        parts = key.split(".", 3)
        if parts[0] == "optimizer" and parts[1] == kind and parts[3] == name:
            state[parts[2]] = value.clone() if parts[2] == "step" else value.to(device, copy=True)
    return state
