"""States of the datasets and tokenizers in a workspace, and their faults.

Interrupted work counts as broken: its command finishes it. A folder that a process holds is at work, and not checked.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from flows.common.progress import counted
from flows.diagnostics.remedies import Remedies, removal
from model.tokenizer import load_tokenizer
from pipelines.generation.generate import generator_version
from pipelines.problems.components import components
from pipelines.spec.corpus import UNFINISHED, CorpusSpec
from storage.datasets.manifest import Manifest
from storage.datasets.quick_check import QuickCheck, quick_check
from storage.datasets.schema_version import head_of, known_spec
from storage.errors import RunFailure, UserError
from storage.parameters import MOST_BYTES
from storage.places.place import Location


@dataclass(frozen=True)
class Fault:
    """A fault, and the command that repairs it; `remedy` is empty if the command cannot be determined."""

    what: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class CorpusState:
    """A corpus; the sizes of `checked_shards` of its shards were checked."""

    name: str
    state: str
    rows: int = 0
    bytes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    checked_shards: int = 0


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
    """The contents of a workspace that are inspected so far."""

    remedies: Remedies
    faults: list[Fault] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    corpora: dict[str, Manifest] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    """Number of shards of each corpus."""
    tokenizers: dict[str, str] = field(default_factory=dict)
    """Identities by tokenizer name."""
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    """Identities by corpus and tokenizer."""


@dataclass(frozen=True)
class Item:
    """A folder of the workspace, and what it is called in faults."""

    inventory: Inventory
    folder: Location
    subject: str

    def fault(self, text: str, remedy: str = "") -> None:
        """Add a fault. If there is a command, the remedy at the end of the text is cut off."""
        text = (text.rpartition(": ")[0] or text) if remedy else text
        self.inventory.faults.append(Fault(self.subject, text, remedy))

    def fault_to_delete(self, text: str, remedy: str) -> None:
        """Add a fault of data that must be deleted and made again. In an object store, no command can delete it."""
        if self.folder.remote:
            text = f"{text.rpartition(': ')[0] or text}: delete all objects below {self.folder}, then run {remedy!r}"
        self.fault(text, removal(self.folder, remedy))

    def dataset_state(self, overview: QuickCheck, remedy: str) -> str:
        """State of a dataset that has a manifest; adds its fault."""
        if self.folder.is_locked():
            self.inventory.at_work.append(f"{self.subject} is being checked or written")
            return "at work"
        if overview.fault:
            self.fault(overview.fault, remedy)
            return f"schema version {overview.version}" if overview.outdated else "damaged"
        if overview.broken:
            checked = "" if overview.compared == overview.shards else f" ({overview.compared:,} were checked)"
            shards = f"{overview.broken:,} of {counted(overview.shards, 'shard')}"
            verb = "is" if overview.broken == 1 else "are"
            self.fault(f"{shards} {verb} missing or truncated{checked}: repair the dataset", remedy)
            return "damaged"
        return "complete"

    def unfinished_state(self, ranges: int, remedy: str) -> str:
        """State of a dataset without a manifest; adds its fault. Empty if the folder contains nothing of it."""
        done = sum(name.endswith(".json") for name in (self.folder / ".progress").children())
        progress = f"{min(1.0, done / ranges):.0%} done" if ranges else f"{counted(done, 'part')} done"
        if self.folder.is_locked():
            self.inventory.at_work.append(f"{self.subject} is being made, {progress}")
            return f"being made, {progress}"
        if not done and not set(self.folder.children()) - {"tokens", "made.json"}:
            return ""
        self.fault(f"its creation was interrupted, {progress}: run the command that created it again", remedy)
        return f"unfinished, {progress}"


def entries_of(folder: Location) -> list[Location]:
    """The files and folders in a folder; none if it does not exist."""
    return [folder / name for name in folder.children()]


def corpus_state(item: Item, deadline: float) -> CorpusState | None:
    """State of a corpus; None for an empty folder. Sizes of shards are checked until the time `deadline`."""
    inventory, folder, name = item.inventory, item.folder, item.folder.name
    overview = quick_check(folder, item.subject, deadline)
    if manifest := overview.manifest:
        inventory.corpora[name], inventory.shards[name] = manifest, overview.shards
        state = item.dataset_state(overview, _corpus_remedy(inventory.remedies, name, manifest.spec))
        sizes = (manifest.rows, manifest.bytes, manifest.split_rows)
        return CorpusState(name, state, *sizes, overview.shards, overview.compared)
    if overview.outdated and not folder.remote:
        state = item.dataset_state(overview, inventory.remedies.migrate(name))
    elif overview.fault:
        spec = known_spec(head_of((folder / "manifest.json").read()))
        state = item.dataset_state(overview, _corpus_remedy(inventory.remedies, name, spec) if spec else "")
    else:
        recorded = _recorded_spec(folder)
        remedy = inventory.remedies.generate(recorded)
        # The command line reads spec files only from the local machine.
        if recorded and not remedy and not folder.remote:
            remedy = inventory.remedies.generate_from(str(folder / UNFINISHED))
        state = item.unfinished_state(_ranges(recorded) if recorded else 0, remedy)
    return CorpusState(name, state) if state else None


def tokenizer_state(item: Item) -> TokenizerState | None:
    """State of a tokenizer; None for an empty folder."""
    folder, name = item.folder, item.folder.name
    if not folder.children():
        return None
    corpus, _, kind = name.rpartition("-")
    remedy = item.inventory.remedies.tokenizer(name, corpus, kind)
    if not (folder / "card.json").exists():
        item.fault("its training was interrupted", remedy)
        return TokenizerState(name, "unfinished")
    try:
        tokenizer, card = load_tokenizer(folder)
    except (UserError, RunFailure) as error:
        item.fault_to_delete(str(error), remedy)
        return TokenizerState(name, "damaged")
    item.inventory.tokenizers[name] = tokenizer.identity
    return TokenizerState(name, "complete", card.kind, card.pieces, card.corpus)


def tokens_state(item: Item, corpus: str, deadline: float) -> TokensState | None:
    """State of a corpus's tokens; None for an empty folder. Corpora and tokenizers must be inspected first."""
    inventory, tokenizer = item.inventory, item.folder.name
    source = inventory.corpora.get(corpus)
    remedy = inventory.remedies.encode(corpus, tokenizer)
    overview = quick_check(item.folder, item.subject, deadline)
    manifest = overview.manifest
    if manifest is None:
        if overview.version or overview.fault:
            state = item.dataset_state(overview, removal(item.folder, remedy))
        else:
            state = item.unfinished_state(inventory.shards.get(corpus, 0), remedy if source else "")
        return TokensState(corpus, tokenizer, state) if state else None
    if source is None:
        state = "without its corpus"
    elif manifest.spec.get("corpus") != source.identity:
        item.fault_to_delete(f"corpus {corpus} has changed", remedy)
        state = "of another corpus"
    elif inventory.tokenizers.get(tokenizer, manifest.spec.get("tokenizer")) != manifest.spec.get("tokenizer"):
        item.fault_to_delete(f"tokenizer {tokenizer} has changed", remedy)
        state = "by another tokenizer"
    else:
        inventory.tokens[corpus, tokenizer] = manifest.identity
        state = item.dataset_state(overview, remedy)
    return TokensState(corpus, tokenizer, state, manifest.rows, manifest.bytes)


def _recorded_spec(folder: Location) -> CorpusSpec | None:
    """The recorded spec of an unfinished corpus; None if there is no valid one."""
    file = folder / UNFINISHED
    if not file.exists() or file.size() > MOST_BYTES:
        return None
    try:
        return CorpusSpec.model_validate(yaml.safe_load(file.read()))
    except (RunFailure, yaml.YAMLError, ValidationError):
        return None


def _ranges(spec: CorpusSpec) -> int:
    return sum(-(-part.rows // spec.rows_per_shard) for part in components(spec))


def _corpus_remedy(remedies: Remedies, name: str, identity: dict[str, Any]) -> str:
    """Command that repairs a committed corpus.

    A corpus of another generator version cannot be repaired, so it is generated again under another name.
    """
    if identity.get("generator_version") == generator_version(identity):
        return remedies.repair(name)
    return remedies.generate(spec_of(f"{name}-new"[:64], identity))


def spec_of(name: str, identity: dict[str, Any]) -> CorpusSpec | None:
    """The spec of a corpus from the identity in a manifest or run; None if it is of another version."""
    try:
        return CorpusSpec.of_identity(name, identity)
    except UserError:
        return None
