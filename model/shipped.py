"""Trained encoders that can be handed on, and those that come with Numerate.

What is handed on is a run's folder with one checkpoint, without its optimizers and in
bfloat16, with the reports of what it was asked.
"""

from pathlib import Path

import torch
from safetensors.torch import save

from model.checkpoint import CheckpointEntry, CheckpointIndex, Checkpoints, hash_of_bytes
from model.run import load_run, run_tokenizer
from storage.errors import RunFailure, UserError
from storage.local import LocalLocation
from storage.location import Location, Workspace, checked_name

SHIPPED = LocalLocation(Path(__file__).parent / "shipped")

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
    try:
        return load_run(copy).model_copy(update={"name": source.name}) == load_run(source)
    except (UserError, RunFailure):
        return False


def export(run: Location, target: Location, which: str = "best") -> CheckpointEntry:
    """Write a run's 'best' or 'last' checkpoint with all that is needed to ask it, at `target`, by whose name it goes.

    Raises `UserError` where something lies there, that can't be a run's name, or the run has no checkpoint.
    """
    config = load_run(run)
    tokenizer, checkpoints = run_tokenizer(run, config), Checkpoints(run / "checkpoints")
    entry = checkpoints.choose(which)
    checked_name(target.name, "run")
    if target.children():
        raise UserError(f"{target} is not empty: name a new folder")
    weights = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in checkpoints.load(entry, config).items()
        if name.startswith("model.")
    }
    config = config.model_copy(update={"name": target.name})
    data = save(weights, {"step": str(entry.step), "run": config.model_dump_json()})
    entry = entry.model_copy(update={"sha256": hash_of_bytes(data)})
    (target / "checkpoints" / entry.file).write(data)
    index = CheckpointIndex(entries=(entry,))
    (target / "checkpoints" / "index.json").write(index.model_dump_json(indent=2).encode() + b"\n")
    (target / "tokenizer.model").write(tokenizer.model)
    for report in [_REPORT, *(f"evaluations/{name}/{_REPORT}" for name in (run / "evaluations").children())]:
        if (run / report).exists():
            (target / report).write((run / report).read())
    (target / "run.json").write(config.model_dump_json(indent=2).encode() + b"\n")
    return entry
