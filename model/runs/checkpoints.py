"""Checkpoints in safetensors format, with everything needed for an exact resume; nothing is unpickled.

`index.json` lists the last, the best and the other kept checkpoints. It is replaced after the checkpoint file is
written, so it never refers to an incomplete file.
"""

import hashlib
import json
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from model.runs.checkpoint_index import CheckpointEntry, CheckpointIndex
from model.runs.run_config import RunConfig
from storage.errors import RunFailure, UserError
from storage.places.place import Location, Version

# Prefixes of tensor names, and the optimizer states that have the shape of their weight.
_KINDS = ("model.", "training.", "optimizer.")
_STATES = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a run's folder."""

    folder: Location

    def index(self) -> CheckpointIndex:
        """The index, without entries whose file is missing; raises `RunFailure` for a damaged index."""
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
        """Write a checkpoint; delete all others except the best one and the `keep` newest ones before it."""
        tensors = {_name(name): value for name, value in model.state_dict().items()}
        names = {id(weight): name for name, weight in model.named_parameters()}
        for kind, optimizer in optimizers.items():
            for weight, state in optimizer.state.items():
                for key, value in state.items():
                    tensors[_state_name(kind, key, names[id(weight)])] = torch.as_tensor(value)
        flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        data = file_of(flat, entry.step, config)
        (self.folder / entry.file).write(data)
        entry = entry.model_copy(update={"sha256": hash_of_bytes(data)})
        seen = (self.folder / "index.json").version()
        entries = (*(old for old in self.index().entries if old.step < entry.step), entry)
        index = CheckpointIndex(entries=entries)
        kept = {index.best, *entries[-1 - keep :]}
        self._keep(tuple(old for old in entries if old in kept), seen)

    def needless(self) -> list[Location]:
        """Checkpoint files other than the best and the last, in the index or not; empty if there is no index."""
        needed = self._needed()
        return self._others(needed) if needed else []

    def prune(self) -> None:
        """Delete all checkpoints except the best and the last one."""
        seen = (self.folder / "index.json").version()
        if needed := self._needed():
            self._keep(needed, seen)

    def choose(self, which: str) -> CheckpointEntry:
        """The 'best' or 'last' checkpoint; raises `UserError` if the run has no checkpoint."""
        index = self.index()
        entry = index.best if which == "best" else index.last
        if entry is None:
            raise UserError(f"run {self.folder.parent.name!r} has no checkpoint yet: train it first")
        return entry

    def last_whole(self) -> tuple[CheckpointEntry | None, list[CheckpointEntry]]:
        """The newest intact checkpoint, and the newer checkpoints, whose files are damaged."""
        damaged: list[CheckpointEntry] = []
        for entry in reversed(self.index().entries):
            if hash_of_bytes((self.folder / entry.file).read()) == entry.sha256:
                return entry, damaged
            damaged.append(entry)
        return None, damaged

    def warnings(self) -> list[str]:
        """Warnings about damaged newest checkpoints, because of which a training resumes from an older one."""
        last, damaged = self.last_whole()
        where = (
            f"training continues from step {last.step:,}"
            if last
            else "no earlier one exists, so training starts from step 0"
        )
        return [f"checkpoint {self.folder / entry.file} is damaged: {where}" for entry in damaged]

    def load(self, entry: CheckpointEntry, config: RunConfig) -> dict[str, Tensor]:
        """All tensors of a checkpoint; raises `RunFailure` if it is damaged or belongs to another run."""
        place = self.folder / entry.file
        data = place.read()
        if hash_of_bytes(data) != entry.sha256:
            raise RunFailure(f"checkpoint {place} is damaged: delete it to continue from the previous checkpoint")
        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            found = RunConfig.model_validate_json(metadata["run"])
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunFailure(
                f"checkpoint {place} is damaged: delete it to continue from the previous checkpoint"
            ) from error
        if found.decides() != config.decides():
            raise RunFailure(
                f"checkpoint {place} belongs to another corpus, tokenizer or configuration: move it to another folder"
            )
        return tensors

    def _needed(self) -> tuple[CheckpointEntry, ...]:
        index = self.index()
        return tuple(entry for entry in index.entries if entry in (index.best, index.last))

    def _keep(self, entries: tuple[CheckpointEntry, ...], seen: Version) -> None:
        """Write the index if its version is still `seen`, then delete all other checkpoint files.

        The files to delete are listed before the write, so that a process that was suspended for a while does not
        delete newer checkpoints.
        """
        others = self._others(entries)
        index = CheckpointIndex(entries=entries)
        (self.folder / "index.json").write_if_unchanged(index.model_dump_json(indent=2).encode() + b"\n", seen)
        for place in others:
            place.remove()

    def _others(self, entries: tuple[CheckpointEntry, ...]) -> list[Location]:
        named = {entry.file for entry in entries}
        files = [name for name in self.folder.children() if name.endswith(".safetensors")]
        return [self.folder / name for name in files if name not in named]


def file_of(tensors: dict[str, Tensor], step: int, config: RunConfig) -> bytes:
    """The safetensors file of a checkpoint; equal checkpoints have equal bytes."""
    data = save(tensors, {"step": str(step), "run": config.model_dump_json()})
    # The library writes the metadata in varying order.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors are aligned to eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def hash_of_bytes(data: bytes) -> str:
    """SHA-256 of a checkpoint's bytes."""
    return hashlib.sha256(data).hexdigest()


def restore(tensors: dict[str, Tensor], model: nn.Module, optimizers: dict[str, Optimizer] | None = None) -> None:
    """Restore the weights from a checkpoint, and the optimizer states if `optimizers` are given.

    Raises `RunFailure`, which names the first such tensor, if a tensor is missing, has another shape, holds anything
    but finite floating-point numbers, or is unknown.
    """
    weights = {_name(name): value for name, value in model.state_dict().items()}
    states = _optimizer_states(model, optimizers) if optimizers else {}
    expected = {**weights, **states}
    for name, value in expected.items():
        if name not in tensors:
            # Exported checkpoints do not contain weights that only training uses.
            if optimizers or name.startswith("model."):
                raise RunFailure(f"the checkpoint does not match this encoder: {name} is missing")
        elif tensors[name].shape != value.shape:
            raise RunFailure(
                f"the checkpoint does not match this encoder: {name} has shape {list(tensors[name].shape)}, "
                f"but shape {list(value.shape)} is required"
            )
        elif not tensors[name].is_floating_point():
            raise RunFailure(
                f"the checkpoint does not match this encoder: {name} has type {tensors[name].dtype}, "
                "but a floating-point type is required"
            )
        elif not tensors[name].isfinite().all():
            raise RunFailure(f"the checkpoint does not match this encoder: {name} contains non-finite values")
    kinds = _KINDS if optimizers else ("model.",)
    for name in tensors:
        if name not in expected and name.startswith(kinds) | (not name.startswith(_KINDS)):
            raise RunFailure(f"the checkpoint does not match this encoder: tensor {name} is unknown")
    with torch.no_grad():
        for name, value in weights.items():
            if name in tensors:
                value.copy_(tensors[name])
    if optimizers:
        _restore_optimizers(tensors, model, optimizers)


def _name(weight: str) -> str:
    """A weight's name in a checkpoint; weights that only training uses have their own prefix."""
    return f"{'training' if weight.startswith('running_sum') else 'model'}.{weight}"


def _optimizer_states(model: nn.Module, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    """Tensors with the shapes of the optimizers' states after a step, by their names in a checkpoint."""
    found = dict[str, Tensor]()
    for kind, optimizer in optimizers.items():
        own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        for name, weight in model.named_parameters():
            if id(weight) in own:
                keys = dict.fromkeys(_STATES[kind], weight) | ({"step": torch.zeros(())} if kind == "adamw" else {})
                found |= {_state_name(kind, key, name): value for key, value in keys.items()}
    return found


def _restore_optimizers(tensors: dict[str, Tensor], model: nn.Module, optimizers: dict[str, Optimizer]) -> None:
    weights = dict(model.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, kind, key, weight = name.split(".", 3)
            place = "cpu" if key == "step" else weights[weight].device
            optimizers[kind].state[weights[weight]][key] = value.to(place, copy=True)


def _state_name(kind: str, key: str, weight: str) -> str:
    return f"optimizer.{kind}.{key}.{weight}"
