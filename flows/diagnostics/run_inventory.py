"""State of each training run in a workspace, and its faults; without torch, whose import takes longer than the rest."""

from dataclasses import dataclass

from pydantic import ValidationError

from flows.diagnostics import remedies
from flows.diagnostics.inventory import KINDS, Inventory, read_json, spec_of
from model.runs.checkpoint_index import CheckpointIndex, is_cut_off
from model.runs.run_config import RunConfig, load_run
from storage.errors import RunFailure, UserError
from storage.places.place import Location

_KIND_OF_GROUP = {1: "digit", 2: "pairs", 3: "triples"}


@dataclass(frozen=True)
class RunState:
    """A training run; exact matches are shares of 1, None before the first evaluation."""

    name: str
    state: str
    corpus: str = ""
    tokenizer: str = ""
    step: int = 0
    steps: int = 0
    validation: float | None = None
    test: float | None = None


def run_state(inventory: Inventory, folder: Location) -> RunState | None:
    """State of a run; None if the folder has no run. Look at corpora, tokenizers and tokens first."""
    if not (folder / "run.json").exists():
        return None
    subject = f"run {folder.name}"
    try:
        config = load_run(folder)
    except UserError as error:
        inventory.fault(subject, str(error))
        return RunState(folder.name, "of another version")
    except RunFailure as error:
        inventory.fault(subject, str(error))
        return RunState(folder.name, "damaged")
    steps, checkpoints = config.training.steps, _checkpoints(folder / "checkpoints")
    train = remedies.train_command(config, inventory.workspace)
    if checkpoints is None:
        damaged_folder = folder / "checkpoints"
        text = f"{damaged_folder / 'index.json'} is damaged: delete {damaged_folder} and train again"
        inventory.fault(subject, text, remedies.removal(damaged_folder, train))
        return RunState(folder.name, "damaged", config.corpus, config.tokenizer, 0, steps)
    saved, validation, damaged = checkpoints
    last_metrics = _last_metrics(folder / "metrics")
    if folder.is_locked() or (folder / ".launch").is_locked():
        inventory.at_work.append(f"{subject} is being trained, step {max(last_metrics, saved):,} of {steps:,}")
        state, saved = "training", max(last_metrics, saved)
    elif saved and not last_metrics:
        # An exported run, without the files that only training needs.
        state = "trained elsewhere"
    else:
        state = "trained" if saved >= steps else f"stopped at step {saved:,}"
        if damaged > saved:
            lost = f"its checkpoint of step {damaged:,} is damaged, training resumes at step {saved:,} of {steps:,}"
        else:
            lost = f"its training was interrupted at step {saved:,} of {steps:,}"
        if not _sources_are_gone(inventory, subject, config) and saved < steps:
            inventory.fault(subject, f"{lost}: resume the training", train)
    return RunState(
        folder.name,
        state,
        config.corpus,
        config.tokenizer,
        saved,
        steps,
        validation,
        read_json(folder / "report.json").get("exact_match"),
    )


def _sources_are_gone(inventory: Inventory, subject: str, config: RunConfig) -> bool:
    """Whether a run's corpus, tokenizer or tokens are missing or have changed; the first such fault is added."""
    name, workspace = config.corpus, inventory.workspace
    corpus, tokenizer = inventory.corpora.get(name), inventory.tokenizers.get(config.tokenizer)
    under_other_name = config.model_copy(update={"name": f"{config.name}-new"[:64]})
    # A damaged or unfinished source is already reported.
    reported = {fault.what for fault in inventory.faults}
    if corpus is None:
        spec = spec_of(name, config.corpus_spec)
        if f"corpus {name}" not in reported:
            remedy = remedies.generate_command(spec, workspace) if spec else ""
            inventory.fault(subject, f"its corpus {name} is missing: generate it again", remedy)
    elif corpus.identity != config.corpus_identity:
        remedy = remedies.train_command(under_other_name, workspace)
        inventory.fault(subject, f"corpus {name} has changed: train on it under another name", remedy)
    elif tokenizer is None:
        kind = _KIND_OF_GROUP.get(config.group, config.tokenizer.rpartition("-")[2])
        if f"tokenizer {config.tokenizer}" not in reported:
            text = f"its tokenizer {config.tokenizer} is missing, the command uses the default options"
            remedy = remedies.tokenizer_command(config.tokenizer, name, kind, workspace) if kind in KINDS else ""
            inventory.fault(subject, text, remedy)
    elif tokenizer != config.tokenizer_identity:
        remedy = remedies.train_command(under_other_name, workspace)
        inventory.fault(subject, f"tokenizer {config.tokenizer} has changed: train under another name", remedy)
    elif (name, config.tokenizer) not in inventory.tokens:
        if f"tokens of {name} by {config.tokenizer}" not in reported:
            remedy = remedies.encode_command(name, config.tokenizer, workspace)
            inventory.fault(subject, f"the tokens of {name} are missing: encode it again", remedy)
    else:
        return False
    return True


def _checkpoints(folder: Location) -> tuple[int, float | None, int] | None:
    """Step of the last whole checkpoint, best exact match of all whole ones, and step of the last truncated checkpoint.

    These are 0, None and 0 without an index; the result is None if the index is damaged.
    """
    file = folder / "index.json"
    if not file.exists():
        return 0, None, 0
    try:
        entries = CheckpointIndex.model_validate_json(file.read()).entries
    except (ValidationError, RunFailure):
        return None
    existing = [
        (entry.step, entry.exact_match, is_cut_off(folder / entry.file))
        for entry in entries
        if (folder / entry.file).exists()
    ]
    whole = [(step, match) for step, match, damaged in existing if not damaged]
    return (
        max((step for step, _ in whole), default=0),
        max((match for _, match in whole), default=None),
        max((step for step, _, damaged in existing if damaged), default=0),
    )


def _last_metrics(folder: Location) -> int:
    """The last step with recorded metrics, from the names of the metrics files."""
    names = [name for name in folder.children() if name.startswith("part-") and name.endswith(".parquet")]
    return max((int(name.removesuffix(".parquet").rpartition("-")[2]) for name in names), default=0)
