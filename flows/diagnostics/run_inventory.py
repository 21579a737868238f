"""State of each training run in a workspace, and its faults; without torch, whose import takes longer than the rest."""

import json
from dataclasses import dataclass

from pydantic import ValidationError

from flows.common.parameters import KIND_OF_GROUP
from flows.diagnostics.inventory import Item, spec_of
from flows.diagnostics.remedies import removal
from model.runs.checkpoint_index import CheckpointIndex, is_cut_off
from model.runs.run_config import RunConfig, load_run
from storage.errors import RunFailure, UserError
from storage.places.place import Location


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


def run_state(item: Item) -> RunState | None:
    """State of a run; None if the folder has no run. Corpora, tokenizers and tokens must be inspected first."""
    folder = item.folder
    if not (folder / "run.json").exists():
        return None
    try:
        config = load_run(folder)
    except (UserError, RunFailure) as error:
        item.fault(str(error))
        return RunState(folder.name, "of another version" if isinstance(error, UserError) else "damaged")
    steps, checkpoints = config.training.steps, _checkpoints(folder / "checkpoints")
    train = item.inventory.remedies.train(config)
    if checkpoints is None:
        damaged_folder = folder / "checkpoints"
        text = f"{damaged_folder / 'index.json'} is damaged: delete {damaged_folder} and train again"
        item.fault(text, removal(damaged_folder, train))
        return RunState(folder.name, "damaged", config.corpus, config.tokenizer, 0, steps)
    saved, validation, damaged = checkpoints
    last_metrics = _last_metrics(folder / "metrics")
    if folder.is_locked() or (folder / ".launch").is_locked():
        state, saved = "training", max(last_metrics, saved)
        item.inventory.at_work.append(f"{item.subject} is being trained, step {saved:,} of {steps:,}")
    elif saved and not last_metrics:
        # An exported run, without the files that only training needs.
        state = "trained elsewhere"
    else:
        state = "trained" if saved >= steps else f"stopped at step {saved:,}"
        if damaged > saved:
            lost = f"its checkpoint of step {damaged:,} is damaged, training resumes at step {saved:,} of {steps:,}"
        else:
            lost = f"its training was interrupted at step {saved:,} of {steps:,}"
        if not _sources_are_gone(item, config) and saved < steps:
            item.fault(f"{lost}: resume the training", train)
    test = _exact_match(folder / "report.json")
    return RunState(folder.name, state, config.corpus, config.tokenizer, saved, steps, validation, test)


def _sources_are_gone(item: Item, config: RunConfig) -> bool:
    """Whether a run's corpus, tokenizer or tokens are missing or have changed; the first such fault is added."""
    name, inventory, remedies = config.corpus, item.inventory, item.inventory.remedies
    corpus, tokenizer = inventory.corpora.get(name), inventory.tokenizers.get(config.tokenizer)
    under_other_name = config.model_copy(update={"name": f"{config.name}-new"[:64]})
    if corpus is None:
        missing, text = f"corpus {name}", f"its corpus {name} is missing: generate it again"
        remedy = remedies.generate(spec_of(name, config.corpus_spec))
    elif corpus.identity != config.corpus_identity:
        missing, text = "", f"corpus {name} has changed: train on it under another name"
        remedy = remedies.train(under_other_name)
    elif tokenizer is None:
        missing = f"tokenizer {config.tokenizer}"
        text = f"its {missing} is missing, the command uses the default options"
        kind = KIND_OF_GROUP.get(config.group, config.tokenizer.rpartition("-")[2])
        remedy = remedies.tokenizer(config.tokenizer, name, kind)
    elif tokenizer != config.tokenizer_identity:
        missing, text = "", f"tokenizer {config.tokenizer} has changed: train under another name"
        remedy = remedies.train(under_other_name)
    elif (name, config.tokenizer) not in inventory.tokens:
        missing, text = f"tokens of {name} by {config.tokenizer}", f"the tokens of {name} are missing: encode it again"
        remedy = remedies.encode(name, config.tokenizer)
    else:
        return False
    # A damaged or unfinished source is already reported.
    if missing not in {fault.what for fault in inventory.faults}:
        item.fault(text, remedy)
    return True


def _checkpoints(folder: Location) -> tuple[int, float | None, int] | None:
    """Step of the last intact checkpoint, best exact match of all intact ones, and step of the last truncated one.

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
    intact = [(step, match) for step, match, damaged in existing if not damaged]
    return (
        max((step for step, _ in intact), default=0),
        max((match for _, match in intact), default=None),
        max((step for step, _, damaged in existing if damaged), default=0),
    )


def _last_metrics(folder: Location) -> int:
    """The last step with recorded metrics, from the names of the metrics files."""
    names = [name for name in folder.children() if name.startswith("part-") and name.endswith(".parquet")]
    return max((int(name.removesuffix(".parquet").rpartition("-")[2]) for name in names), default=0)


def _exact_match(report: Location) -> float | None:
    """Exact match in a report of an evaluation; None if it is missing or invalid."""
    try:
        return json.loads(report.read()).get("exact_match")
    except (RunFailure, ValueError, RecursionError, AttributeError):
        return None
