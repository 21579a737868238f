"""State of each training run in a workspace, and its faults; without torch, whose import takes longer than the rest."""

from dataclasses import dataclass

from pydantic import ValidationError

from flows.diagnostics import remedies as mending
from flows.diagnostics.inventory import KINDS, Findings, read_json, spec_of
from model.runs.checkpoint_index import CheckpointIndex
from model.runs.file_length import is_cut_off
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


def look_at_run(found: Findings, folder: Location) -> RunState | None:
    """State of a run; None if the folder has no run. Look at corpora, tokenizers and tokens first."""
    if not (folder / "run.json").exists():
        return None
    what = f"run {folder.name}"
    try:
        config = load_run(folder)
    except UserError as error:
        found.fault(what, str(error))
        return RunState(folder.name, "of another version")
    except RunFailure as error:
        found.fault(what, str(error))
        return RunState(folder.name, "damaged")
    steps, checkpoints = config.training.steps, _checkpoints(folder / "checkpoints")
    if checkpoints is None:
        place = folder / "checkpoints"
        anew = f"{place / 'index.json'} is damaged: delete {place} and train again"
        found.fault(what, anew, mending.removal(place, mending.train_command(config, found.uri)))
        return RunState(folder.name, "damaged", config.corpus, config.tokenizer, 0, steps)
    saved, validation, damaged = checkpoints
    begun = _last_metrics(folder / "metrics")
    if folder.is_held() or (folder / ".launch").is_held():
        found.at_work.append(f"{what} is being trained, step {max(begun, saved):,} of {steps:,}")
        state, saved = "training", max(begun, saved)
    elif saved and not begun:
        # An exported run, without the files that only training needs.
        state = "trained elsewhere"
    else:
        state = "trained" if saved >= steps else f"stopped at step {saved:,}"
        if damaged > saved:
            lost = f"its checkpoint of step {damaged:,} is damaged, training resumes at step {saved:,} of {steps:,}"
        else:
            lost = f"its training was interrupted at step {saved:,} of {steps:,}"
        if not _sources_are_gone(found, what, config) and saved < steps:
            found.fault(what, f"{lost}: resume the training", mending.train_command(config, found.uri))
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


def _sources_are_gone(found: Findings, what: str, config: RunConfig) -> bool:
    """Whether a run's corpus, tokenizer or tokens are missing or have changed; the first such fault is added."""
    corpus, tokenizer = found.corpora.get(config.corpus), found.tokenizers.get(config.tokenizer)
    tokens = found.tokens.get((config.corpus, config.tokenizer))
    other = mending.train_command(config.model_copy(update={"name": f"{config.name}-anew"[:64]}), found.uri)
    if corpus is None:
        spec = spec_of(config.corpus, config.corpus_spec)
        again = mending.generate_command(spec, found.uri) if spec else ""
        # A damaged or unfinished corpus is already reported.
        if not any(fault.what == f"corpus {config.corpus}" for fault in found.faults):
            found.fault(what, f"its corpus {config.corpus} is missing: generate it again", again)
    elif corpus.identity != config.corpus_identity:
        found.fault(what, f"corpus {config.corpus} has changed: train on it under another name", other)
    elif tokenizer is None:
        kind = _KIND_OF_GROUP.get(config.group, config.tokenizer.rpartition("-")[2])
        again = mending.tokenizer_command(config.tokenizer, config.corpus, kind, found.uri) if kind in KINDS else ""
        if not any(fault.what == f"tokenizer {config.tokenizer}" for fault in found.faults):
            text = f"its tokenizer {config.tokenizer} is missing, the command uses the default options"
            found.fault(what, text, again)
    elif tokenizer != config.tokenizer_identity:
        found.fault(what, f"tokenizer {config.tokenizer} has changed: train under another name", other)
    elif tokens is None:
        again = mending.encode_command(config.corpus, config.tokenizer, found.uri)
        if not any(fault.what == f"tokens of {config.corpus} by {config.tokenizer}" for fault in found.faults):
            found.fault(what, f"the tokens of {config.corpus} are missing: encode it again", again)
    else:
        return False
    return True


def _checkpoints(folder: Location) -> tuple[int, float | None, int] | None:
    """Step of the last whole checkpoint, best exact match of all whole ones, and step of the last truncated checkpoint.

    These are 0, None and 0 without an index; the result is None if the index is damaged.
    """
    place = folder / "index.json"
    if not place.exists():
        return 0, None, 0
    try:
        entries = CheckpointIndex.model_validate_json(place.read()).entries
    except (ValidationError, RunFailure):
        return None
    lying = [
        (entry.step, entry.exact_match, is_cut_off(folder / entry.file))
        for entry in entries
        if (folder / entry.file).exists()
    ]
    whole = [(step, match) for step, match, damaged in lying if not damaged]
    return (
        max((step for step, _ in whole), default=0),
        max((match for _, match in whole), default=None),
        max((step for step, _, damaged in lying if damaged), default=0),
    )


def _last_metrics(folder: Location) -> int:
    """The last step with recorded metrics, from the names of the metrics files."""
    names = [name for name in folder.children() if name.startswith("part-") and name.endswith(".parquet")]
    return max((int(name.removesuffix(".parquet").rpartition("-")[2]) for name in names), default=0)
