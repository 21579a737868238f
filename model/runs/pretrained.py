"""Trained encoders that can be handed on, and those that come with Numerate.

What is handed on is a run's folder with one checkpoint, without its optimizers and in
bfloat16, with the reports of what it was asked.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save

from model.runs.checkpoints import CheckpointEntry, CheckpointIndex, Checkpoints, hash_of_bytes
from model.runs.run_config import load_run, run_tokenizer
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.place import Location
from storage.workspace import Workspace, checked_name

SHIPPED = LocalLocation(Path(__file__).parents[1] / "shipped")

_REPORT = "report.json"


def shipped_runs() -> dict[str, Location]:
    """The folders of the encoders that come with Numerate, by name."""
    return {name: SHIPPED / name for name in sorted(SHIPPED.children()) if (SHIPPED / name / "run.json").exists()}


def own_or_shipped(workspace: Workspace, name: str) -> str:
    """The name of a workspace's run, or of the encoder `name` that comes with Numerate, copied as `shipped-<name>`.

    Under its own name it would be in the way of a training.
    """
    source, copy = shipped_runs().get(name), f"shipped-{name}"
    if source is None or (workspace.run(name) / "run.json").exists():
        return name
    if not _is_copy(workspace.run(copy), source):
        # What an interrupted copy, or an earlier release, left.
        workspace.run(copy).remove()
        export(source, workspace.run(copy))
    return copy


def _is_copy(copy: Location, source: Location) -> bool:
    """Whether a run has the configuration and the weights of another one."""
    try:
        if load_run(copy).model_copy(update={"name": source.name}) != load_run(source):
            return False
        own, shipped = _weights(copy), _weights(source)
    except (UserError, RunFailure):
        return False
    return own.keys() == shipped.keys() and all(
        own[name].dtype == value.dtype and torch.equal(own[name], value) for name, value in shipped.items()
    )


def _weights(run: Location) -> dict[str, torch.Tensor]:
    """The tensors of its best checkpoint."""
    checkpoints = Checkpoints(run / "checkpoints")
    return checkpoints.load(checkpoints.choose("best"), load_run(run))


def export(run: Location, target: Location, which: str = "best") -> CheckpointEntry:
    """Write a run's 'best' or 'last' checkpoint with all that is needed to ask it, at `target`, by whose name it goes.

    Raises `UserError` where something lies there, that can't be a run's name, or the run has no checkpoint.
    """
    entry, files = handed_on(run, target.name, which)
    if target.children():
        raise UserError(f"{target} is not empty: name a new folder")
    for path, data in files.items():
        (target / path).write(data)
    return entry


def handed_on(run: Location, name: str, which: str = "best") -> tuple[CheckpointEntry, dict[str, bytes]]:
    """A run's 'best' or 'last' checkpoint as it is handed on under a name, and its files by their paths, the last one
    `run.json`, without which a folder is no run.

    Raises `UserError` where the name can't be a run's, or the run has no checkpoint.
    """
    config = load_run(run)
    tokenizer, checkpoints = run_tokenizer(run, config), Checkpoints(run / "checkpoints")
    entry = checkpoints.choose(which)
    weights = {
        tensor: value.to(torch.bfloat16) if value.is_floating_point() else value
        for tensor, value in checkpoints.load(entry, config).items()
        if tensor.startswith("model.")
    }
    config = config.model_copy(update={"name": checked_name(name, "run")})
    data = _ordered(save(weights, {"step": str(entry.step), "run": config.model_dump_json()}))
    entry = entry.model_copy(update={"sha256": hash_of_bytes(data)})
    index = CheckpointIndex(entries=(entry,))
    files = {
        f"checkpoints/{entry.file}": data,
        "checkpoints/index.json": index.model_dump_json(indent=2).encode() + b"\n",
        "tokenizer.model": tokenizer.model,
    }
    for report in [_REPORT, *(f"evaluations/{name}/{_REPORT}" for name in (run / "evaluations").children())]:
        if (run / report).exists():
            files[report] = (run / report).read()
    return entry, {**files, "run.json": config.model_dump_json(indent=2).encode() + b"\n"}


def _ordered(data: bytes) -> bytes:
    """The same safetensors with its metadata sorted: the library writes them in another order each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
