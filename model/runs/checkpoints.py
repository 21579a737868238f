"""Checkpoints in safetensors format, with everything needed for an exact resume; nothing is unpickled.

`index.json` lists the last, the best and the other kept checkpoints. It is replaced after the checkpoint file is
written, so it never refers to an incomplete file.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import product
from typing import Any

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

# Prefixes of tensor names, and the states of each optimizer.
_KINDS = ("model.", "training.", "optimizer.")
_STATES = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a run's folder."""

    folder: Location

    def index(self) -> CheckpointIndex:
        """The index, without entries whose file is missing; raises `RunFailure` for a damaged index."""
        path = self.folder / "index.json"
        if not path.exists():
            return CheckpointIndex()
        try:
            index = CheckpointIndex.model_validate_json(path.read())
        except ValidationError as error:
            raise RunFailure(f"{path} is damaged: delete {self.folder} and train again") from error
        return CheckpointIndex(entries=tuple(old for old in index.entries if (self.folder / old.file).exists()))

    def save(
        self, entry: CheckpointEntry, config: RunConfig, model: nn.Module, optimizers: dict[str, Optimizer], keep: int
    ) -> None:
        """Write a checkpoint; delete all others except the best one and the `keep` newest ones before it."""
        tensors = _weights(model) | _states(model, optimizers)
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        data = file_of(tensors, entry.step, config)
        (self.folder / entry.file).write(data)
        entry = entry.model_copy(update={"sha256": hash_of_bytes(data)})
        version = (self.folder / "index.json").version()
        entries = (*(old for old in self.index().entries if old.step < entry.step), entry)
        index = CheckpointIndex(entries=entries)
        kept = {index.best, *entries[-1 - keep :]}
        self._keep(tuple(old for old in entries if old in kept), version)

    def prunable(self) -> list[Location]:
        """The files that `prune` deletes, in the index or not; empty if there is no index."""
        return self._files_except(kept) if (kept := self._needed()) else []

    def prune(self) -> None:
        """Delete all checkpoints except the best, the last and the newest intact one."""
        version = (self.folder / "index.json").version()
        if kept := self._needed():
            self._keep(kept, version)

    def choose(self, which: str) -> CheckpointEntry:
        """The 'best' or 'last' checkpoint; raises `UserError` if the run has no checkpoint."""
        index = self.index()
        entry = index.best if which == "best" else index.last
        if entry is None:
            raise UserError(f"run {self.folder.parent.name!r} has no checkpoint yet: train it first")
        return entry

    def newest_intact(self) -> tuple[CheckpointEntry | None, list[CheckpointEntry]]:
        """The newest intact checkpoint, and the newer checkpoints, whose files are damaged."""
        damaged: list[CheckpointEntry] = []
        for entry in reversed(self.index().entries):
            if hash_of_bytes((self.folder / entry.file).read()) == entry.sha256:
                return entry, damaged
            damaged.append(entry)
        return None, damaged

    def warning(self) -> str:
        """A warning about damaged newest checkpoints, because of which a training resumes earlier; empty if intact."""
        last, damaged = self.newest_intact()
        if not damaged:
            return ""
        effect = f"training continues from step {last.step:,}" if last else "training starts from step 0"
        if len(damaged) == 1:
            return f"checkpoint {self.folder / damaged[0].file} is damaged: {effect}"
        steps = ", ".join(f"{entry.step:,}" for entry in reversed(damaged))
        return f"the checkpoints of steps {steps} in {self.folder} are damaged: {effect}"

    def load(self, entry: CheckpointEntry, config: RunConfig) -> dict[str, Tensor]:
        """All tensors of a checkpoint; raises `RunFailure` if it is damaged or belongs to another run."""
        path = self.folder / entry.file
        data = path.read()
        try:
            if hash_of_bytes(data) != entry.sha256:
                raise ValueError("the hash differs from the index")
            header, _ = _header(data)
            own = RunConfig.model_validate_json(header["__metadata__"]["run"])
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunFailure(
                f"checkpoint {path} is damaged: delete it to continue from the previous checkpoint"
            ) from error
        if own.decides() != config.decides():
            raise RunFailure(
                f"checkpoint {path} belongs to another corpus, tokenizer or configuration: move it to another folder"
            )
        return tensors

    def _needed(self) -> tuple[CheckpointEntry, ...]:
        """The best and the last checkpoint, and the newest intact one, from which a training continues."""
        index, (intact, _) = self.index(), self.newest_intact()
        return tuple(entry for entry in index.entries if entry in (index.best, index.last, intact))

    def _keep(self, entries: tuple[CheckpointEntry, ...], version: Version) -> None:
        """Write the index if it still has this version, then delete all other checkpoint files.

        The files to delete are listed before the write, so that a process that was suspended for a while does not
        delete newer checkpoints.
        """
        others = self._files_except(entries)
        index = CheckpointIndex(entries=entries)
        (self.folder / "index.json").write_if_unchanged(index.model_dump_json(indent=2).encode() + b"\n", version)
        for path in others:
            path.remove()

    def _files_except(self, entries: tuple[CheckpointEntry, ...]) -> list[Location]:
        named = {entry.file for entry in entries}
        files = [name for name in self.folder.children() if name.endswith(".safetensors")]
        return [self.folder / name for name in files if name not in named]


def file_of(tensors: dict[str, Tensor], step: int, config: RunConfig) -> bytes:
    """The safetensors file of a checkpoint; equal checkpoints have equal bytes."""
    data = save(tensors, {"step": str(step), "run": config.model_dump_json()})
    # The library writes the metadata in varying order.
    header, end = _header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors are aligned to eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and the index of the first byte after it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), end


def hash_of_bytes(data: bytes) -> str:
    """SHA-256 of a checkpoint's bytes."""
    return hashlib.sha256(data).hexdigest()


def restore(tensors: dict[str, Tensor], model: nn.Module, optimizers: dict[str, Optimizer] | None = None) -> None:
    """Restore the weights from a checkpoint, and the optimizer states if `optimizers` are given.

    Raises `RunFailure`, which names the first such tensor, if a tensor is missing, has another shape, holds anything
    but finite floating-point numbers, or is unknown. All states of a weight may be missing: no batch has used it yet.
    """
    targets = _weights(model)
    if optimizers:
        _initialise(optimizers)
        # A weight that no batch has used yet has no state.
        if used := {_weight_of(name) for name in tensors if name.startswith("optimizer.")}:
            unused = [weight for name, weight in model.named_parameters() if name not in used]
            for optimizer, weight in product(optimizers.values(), unused):
                optimizer.state.pop(weight, None)
        targets |= _states(model, optimizers)
    for name, target in targets.items():
        # Exported checkpoints do not contain weights that only training uses.
        if name not in tensors and not optimizers and not name.startswith("model."):
            continue
        if mismatch := _mismatch(tensors.get(name), target):
            raise RunFailure(f"the checkpoint does not match this encoder: {name} {mismatch}")
    kinds = _KINDS if optimizers else ("model.",)
    for name in tensors:
        if name not in targets and name.startswith(kinds) | (not name.startswith(_KINDS)):
            raise RunFailure(f"the checkpoint does not match this encoder: tensor {name} is unknown")
    with torch.no_grad():
        for name in targets.keys() & tensors.keys():
            targets[name].copy_(tensors[name])


def _mismatch(tensor: Tensor | None, target: Tensor) -> str:
    """Why a checkpoint's tensor cannot replace `target`; empty if it can."""
    if tensor is None:
        return "is missing"
    if tensor.shape != target.shape:
        return f"has shape {list(tensor.shape)}, but shape {list(target.shape)} is required"
    if not tensor.is_floating_point():
        return f"has type {tensor.dtype}, but a floating-point type is required"
    return "" if tensor.isfinite().all() else "contains non-finite values"


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights by their names in a checkpoint; those that only training uses have their own prefix."""
    return {
        f"{'training' if name.startswith('running_sum') else 'model'}.{name}": value
        for name, value in model.state_dict().items()
    }


def _states(model: nn.Module, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    """The states of the optimizers by their names in a checkpoint."""
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"optimizer.{kind}.{key}.{names[weight]}": value
        for kind, optimizer in optimizers.items()
        for weight, state in optimizer.state.items()
        for key, value in state.items()
    }


def _weight_of(state: str) -> str:
    """The name of the weight in the name of one of its states, `optimizer.KIND.KEY.WEIGHT`."""
    return state.split(".", 3)[-1]


def _initialise(optimizers: dict[str, Optimizer]) -> None:
    """Create the states that the optimizers would create in their first step, with zeros."""
    for kind, optimizer in optimizers.items():
        for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
            optimizer.state[weight] = {
                key: torch.zeros(()) if key == "step" else torch.zeros_like(weight) for key in _STATES[kind]
            }
