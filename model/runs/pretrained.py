"""Exports trained encoders, and opens the encoders shipped with Numerate.

An export is a run folder with one checkpoint in bfloat16, without optimizer states, and with the evaluation reports.
"""

from pathlib import Path

import torch

from model.runs.checkpoints import CheckpointEntry, CheckpointIndex, Checkpoints, file_of, hash_of_bytes
from model.runs.run_config import load_run, run_tokenizer
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.place import Location
from storage.workspace import Workspace, checked_name

SHIPPED = LocalLocation(Path(__file__).parents[1] / "shipped")

_REPORT = "report.json"


def shipped_runs() -> dict[str, Location]:
    """Folders of the encoders shipped with Numerate, by name."""
    return {name: SHIPPED / name for name in sorted(SHIPPED.children()) if (SHIPPED / name / "run.json").exists()}


def run_folder(workspace: Workspace, name: str) -> Location:
    """The folder of a workspace's run, or else of the encoder `name` shipped with Numerate."""
    own = workspace.run(name)
    return own if (own / "run.json").exists() else shipped_runs().get(name, own)


def resolve_run(workspace: Workspace, name: str) -> str:
    """The name of a workspace's run, or of a copy `shipped-<name>` of the encoder `name` shipped with Numerate.

    The copy has another name, so that `name` stays free for a training.
    """
    source, copy = shipped_runs().get(name), f"shipped-{name}"
    if source is None or (workspace.run(name) / "run.json").exists():
        return name
    if not _is_copy(workspace.run(copy), source):
        # Remove the remains of an interrupted copy or of an earlier release.
        workspace.run(copy).remove()
        export(source, workspace.run(copy))
    return copy


def _is_copy(copy: Location, source: Location) -> bool:
    """Whether two runs have the same weights and, except for the name, the same configuration."""
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
    """The tensors of a run's best checkpoint."""
    checkpoints = Checkpoints(run / "checkpoints")
    return checkpoints.load(checkpoints.choose("best"), load_run(run))


def export(run: Location, target: Location, which: str = "best") -> CheckpointEntry:
    """Write a run's 'best' or 'last' checkpoint to `target`, with all files needed for evaluation.

    The exported run has the name of the `target` folder. Raises `UserError` if `target` is not empty, its name is not
    a valid run name, or the run has no checkpoint.
    """
    entry, files = exported_files(run, target.name, which)
    if target.children():
        raise UserError(f"{target} is not empty: choose a new folder")
    for path, data in files.items():
        (target / path).write(data)
    return entry


def exported_files(run: Location, name: str, which: str = "best") -> tuple[CheckpointEntry, dict[str, bytes]]:
    """A run's 'best' or 'last' checkpoint, exported as run `name`, and the contents of its files by path.

    `run.json` is the last file, because a folder without it is not a run. Raises `UserError` if `name` is not a valid
    run name, or the run has no checkpoint.
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
    data = file_of(weights, entry.step, config)
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
