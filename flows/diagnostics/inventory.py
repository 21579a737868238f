"""States of the datasets and tokenizers in a workspace, and their faults.

Interrupted work counts as broken: its command finishes it. A folder that a process holds is at work, and not checked.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from flows.diagnostics import remedies
from model.tokenizer import load_tokenizer
from pipelines.generation.generate import GENERATOR_VERSION
from pipelines.problems.components import components
from pipelines.spec.corpus import UNFINISHED, CorpusSpec
from storage.datasets.manifest import Manifest, head_of, known_spec
from storage.datasets.quick_check import QuickCheck, quick_check
from storage.errors import RunFailure, UserError
from storage.places.place import Location

KINDS = ("digit", "pairs", "triples", "bpe", "unigram")


@dataclass(frozen=True)
class Fault:
    """A fault, and the command that repairs it; `mend` is empty if the command cannot be determined."""

    what: str
    text: str
    mend: str = ""


@dataclass(frozen=True)
class CorpusState:
    """A corpus; the sizes of `looked_at` of its shards were checked."""

    name: str
    state: str
    rows: int = 0
    bytes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    looked_at: int = 0


@dataclass(frozen=True)
class TokenizerState:
    name: str
    state: str
    kind: str = ""
    pieces: int = 0
    corpus: str = ""


@dataclass(frozen=True)
class TokensState:
    """Tokens of a corpus, made by one tokenizer."""

    corpus: str
    tokenizer: str
    state: str
    rows: int = 0
    bytes: int = 0


@dataclass
class Inventory:
    """Everything found so far in the workspace, a path or URI as the user gave it."""

    workspace: str
    faults: list[Fault] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    corpora: dict[str, Manifest] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    """Number of shards of each corpus."""
    tokenizers: dict[str, str] = field(default_factory=dict)
    """Identities by tokenizer name."""
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    """Identities by corpus and tokenizer."""

    def fault(self, subject: str, text: str, remedy: str = "") -> None:
        """Add a fault. If there is a command, the remedy at the end of the text is cut off."""
        self.faults.append(Fault(subject, (text.rpartition(": ")[0] or text) if remedy else text, remedy))


def corpus_state(inventory: Inventory, folder: Location, deadline: float) -> CorpusState | None:
    """State of a corpus; None for an empty folder. Sizes of shards are checked until the time `deadline`."""
    name, subject = folder.name, f"corpus {folder.name}"
    overview = quick_check(folder, subject, deadline)
    if manifest := overview.manifest:
        inventory.corpora[name], inventory.shards[name] = manifest, overview.shards
        remedy = _corpus_remedy(name, manifest.spec, inventory.workspace)
        state = _dataset_state(inventory, folder, subject, overview, remedy)
        sizes = (manifest.rows, manifest.bytes, manifest.split_rows)
        return CorpusState(name, state, *sizes, overview.shards, overview.compared)
    if overview.outdated and not folder.remote:
        remedy = remedies.migrate_command(name, inventory.workspace)
        state = _dataset_state(inventory, folder, subject, overview, remedy)
    elif overview.fault:
        spec = known_spec(head_of((folder / "manifest.json").read()))
        remedy = _corpus_remedy(name, spec, inventory.workspace) if spec else ""
        state = _dataset_state(inventory, folder, subject, overview, remedy)
    else:
        recorded = _recorded_spec(folder)
        remedy = _generation_remedy(recorded, folder, inventory.workspace) if recorded else ""
        state = _unfinished_state(inventory, folder, subject, _ranges(recorded) if recorded else 0, remedy)
    return CorpusState(name, state) if state else None


def tokenizer_state(inventory: Inventory, folder: Location) -> TokenizerState | None:
    """State of a tokenizer; None for an empty folder."""
    if not folder.children():
        return None
    corpus, _, kind = folder.name.rpartition("-")
    remedy = (
        remedies.tokenizer_command(folder.name, corpus, kind, inventory.workspace) if kind in KINDS and corpus else ""
    )
    subject = f"tokenizer {folder.name}"
    if not (folder / "card.json").exists():
        inventory.fault(subject, "its training was interrupted", remedy)
        return TokenizerState(folder.name, "unfinished")
    try:
        tokenizer, card = load_tokenizer(folder)
    except (UserError, RunFailure) as error:
        _fault_to_delete(inventory, subject, str(error), folder, remedy)
        return TokenizerState(folder.name, "damaged")
    inventory.tokenizers[folder.name] = tokenizer.identity
    return TokenizerState(folder.name, "whole", card.kind, card.pieces, card.corpus)


def tokens_state(inventory: Inventory, corpus: str, folder: Location, deadline: float) -> TokensState | None:
    """State of a corpus's tokens; None for an empty folder. Look at corpora and tokenizers first."""
    subject, source = f"tokens of {corpus} by {folder.name}", inventory.corpora.get(corpus)
    remedy = remedies.encode_command(corpus, folder.name, inventory.workspace)
    overview = quick_check(folder, subject, deadline)
    if overview.manifest is None:
        if overview.version or overview.fault:
            state = _dataset_state(inventory, folder, subject, overview, remedies.removal(folder, remedy))
        else:
            state = _unfinished_state(
                inventory, folder, subject, inventory.shards.get(corpus, 0), remedy if source else ""
            )
        return TokensState(corpus, folder.name, state) if state else None
    manifest = overview.manifest
    if source is None:
        state = "without its corpus"
    elif manifest.spec.get("corpus") != source.identity:
        _fault_to_delete(inventory, subject, f"corpus {corpus} has changed", folder, remedy)
        state = "of another corpus"
    elif inventory.tokenizers.get(folder.name, manifest.spec.get("tokenizer")) != manifest.spec.get("tokenizer"):
        _fault_to_delete(inventory, subject, f"tokenizer {folder.name} has changed", folder, remedy)
        state = "by another tokenizer"
    else:
        inventory.tokens[corpus, folder.name] = manifest.identity
        state = _dataset_state(inventory, folder, subject, overview, remedy)
    return TokensState(corpus, folder.name, state, manifest.rows, manifest.bytes)


def _fault_to_delete(inventory: Inventory, subject: str, text: str, folder: Location, remedy: str) -> None:
    """Add a fault of data that must be deleted and made again. In an object store, no command can delete it."""
    if folder.remote:
        text = f"{text.rpartition(': ')[0] or text}: delete all objects below {folder}, then run {remedy!r}"
    inventory.fault(subject, text, remedies.removal(folder, remedy))


def _dataset_state(inventory: Inventory, folder: Location, subject: str, overview: QuickCheck, remedy: str) -> str:
    """State of a dataset that has a manifest; adds its fault."""
    if folder.is_locked():
        inventory.at_work.append(f"{subject} is being checked or written")
        return "at work"
    if overview.fault:
        inventory.fault(subject, overview.fault, remedy)
        return f"schema version {overview.version}" if overview.outdated else "damaged"
    if overview.broken:
        checked = "" if overview.compared == overview.shards else f" ({overview.compared:,} were checked)"
        text = f"{overview.broken:,} of {overview.shards:,} shards are missing or truncated{checked}: repair them"
        inventory.fault(subject, text, remedy)
        return "damaged"
    return "whole"


def _unfinished_state(inventory: Inventory, folder: Location, subject: str, ranges: int, remedy: str) -> str:
    """State of a dataset without a manifest; adds its fault. Empty if the folder contains nothing of it."""
    done = sum(name.endswith(".json") for name in (folder / ".progress").children())
    progress = f"{min(1.0, done / ranges):.0%} done" if ranges else f"{done:,} parts done"
    if folder.is_locked():
        inventory.at_work.append(f"{subject} is being made, {progress}")
        return f"being made, {progress}"
    if not done and not set(folder.children()) - {"tokens", "made.json"}:
        return ""
    text = f"its creation was interrupted, {progress}: run the command that created it again"
    inventory.fault(subject, text, remedy)
    return f"unfinished, {progress}"


def _recorded_spec(folder: Location) -> CorpusSpec | None:
    """The recorded spec of an unfinished corpus; None if there is no valid one."""
    if not (folder / UNFINISHED).exists():
        return None
    try:
        return CorpusSpec.model_validate(yaml.safe_load((folder / UNFINISHED).read()))
    except (RunFailure, yaml.YAMLError, ValidationError):
        return None


def _ranges(spec: CorpusSpec) -> int:
    return sum(-(-part.rows // spec.rows_per_shard) for part in components(spec))


def _generation_remedy(spec: CorpusSpec, folder: Location, workspace: str) -> str:
    """Command that finishes an unfinished corpus."""
    command = remedies.generate_command(spec, workspace)
    # The command line reads spec files only from the local machine.
    return command if command or folder.remote else remedies.generate_from(str(folder / UNFINISHED), workspace)


def _corpus_remedy(name: str, identity: dict[str, Any], workspace: str) -> str:
    """Command that repairs a committed corpus.

    A corpus of another generator version cannot be repaired, so it is generated again under another name.
    """
    if identity.get("generator_version") == GENERATOR_VERSION:
        return remedies.repair_command(name, workspace)
    spec = spec_of(f"{name}-new"[:64], identity)
    return remedies.generate_command(spec, workspace) if spec else ""


def spec_of(name: str, identity: dict[str, Any]) -> CorpusSpec | None:
    """The spec of a corpus from the identity in a manifest or run; None if it is of another version."""
    try:
        return CorpusSpec.of_identity(name, identity)
    except UserError:
        return None


def read_json(file: Location) -> dict[str, Any]:
    """The values of a JSON file; empty if it is missing or invalid."""
    try:
        values = json.loads(file.read())
    except (RunFailure, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
