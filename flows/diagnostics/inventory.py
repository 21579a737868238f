"""State of each dataset and tokenizer in a workspace, and its faults.

Interrupted work counts as broken: its command finishes it. A folder that a process holds is at work, and not checked.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from flows.diagnostics import remedies as mending
from model.tokenizer import load_tokenizer
from pipelines.generation.generate import GENERATOR_VERSION
from pipelines.problems.components import components
from pipelines.spec.corpus import UNFINISHED, CorpusSpec
from storage.datasets.glance import Glance, glance
from storage.datasets.manifest import Manifest, head_of, known_spec
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
class Findings:
    """Everything found so far in the workspace, which the user names `uri`."""

    uri: str
    faults: list[Fault] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    corpora: dict[str, Manifest] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    """Number of shards of each corpus."""
    tokenizers: dict[str, str] = field(default_factory=dict)
    """Identities by tokenizer name."""
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    """Identities by corpus and tokenizer."""

    def fault(self, what: str, text: str, mend: str = "") -> None:
        """Add a fault. If there is a command, the remedy at the end of the text is cut off."""
        self.faults.append(Fault(what, (text.rpartition(": ")[0] or text) if mend else text, mend))


def look_at_corpus(found: Findings, folder: Location, until: float) -> CorpusState | None:
    """State of a corpus; None for an empty folder. Sizes of shards are checked until the time `until`."""
    what = f"corpus {folder.name}"
    seen = glance(folder, what, until)
    if seen.manifest:
        found.corpora[folder.name], found.shards[folder.name] = seen.manifest, seen.shards
        mend = _mend_corpus(folder.name, seen.manifest.spec, found.uri)
        state = _judged(found, folder, what, seen, mend)
        lies = seen.manifest
        return CorpusState(folder.name, state, lies.rows, lies.bytes, lies.split_rows, seen.shards, seen.looked_at)
    if seen.outdated and not folder.remote:
        state = _judged(found, folder, what, seen, mending.migrate_command(folder.name, found.uri))
    elif seen.trouble:
        spec = known_spec(head_of((folder / "manifest.json").read()))
        state = _judged(found, folder, what, seen, _mend_corpus(folder.name, spec, found.uri) if spec else "")
    else:
        noted = _noted_spec(folder)
        mend, ranges = _generate(noted, folder, found.uri), _ranges(noted) if noted else 0
        state = _unfinished(found, folder, what, ranges, mend)
    return CorpusState(folder.name, state) if state else None


def look_at_tokenizer(found: Findings, folder: Location) -> TokenizerState | None:
    """State of a tokenizer; None for an empty folder."""
    if not folder.children():
        return None
    corpus, _, kind = folder.name.rpartition("-")
    again = mending.tokenizer_command(folder.name, corpus, kind, found.uri) if kind in KINDS and corpus else ""
    what = f"tokenizer {folder.name}"
    if not (folder / "card.json").exists():
        found.fault(what, "its training was interrupted", again)
        return TokenizerState(folder.name, "unfinished")
    try:
        tokenizer, card = load_tokenizer(folder)
    except (UserError, RunFailure) as error:
        _fault_anew(found, what, str(error), folder, again)
        return TokenizerState(folder.name, "damaged")
    found.tokenizers[folder.name] = tokenizer.identity
    return TokenizerState(folder.name, "whole", card.kind, card.pieces, card.corpus)


def look_at_tokens(found: Findings, corpus: str, folder: Location, until: float) -> TokensState | None:
    """State of a corpus's tokens; None for an empty folder. Look at corpora and tokenizers first."""
    what, source = f"tokens of {corpus} by {folder.name}", found.corpora.get(corpus)
    again = mending.encode_command(corpus, folder.name, found.uri)
    seen = glance(folder, what, until)
    if seen.manifest is None:
        if seen.version or seen.trouble:
            state = _judged(found, folder, what, seen, mending.removal(folder, again))
        else:
            state = _unfinished(found, folder, what, found.shards.get(corpus, 0), again if source else "")
        return TokensState(corpus, folder.name, state) if state else None
    lies = seen.manifest
    if source is None:
        state = "without its corpus"
    elif lies.spec.get("corpus") != source.identity:
        _fault_anew(found, what, f"corpus {corpus} has changed", folder, again)
        state = "of another corpus"
    elif found.tokenizers.get(folder.name, lies.spec.get("tokenizer")) != lies.spec.get("tokenizer"):
        _fault_anew(found, what, f"tokenizer {folder.name} has changed", folder, again)
        state = "by another tokenizer"
    else:
        found.tokens[corpus, folder.name] = lies.identity
        state = _judged(found, folder, what, seen, again)
    return TokensState(corpus, folder.name, state, lies.rows, lies.bytes)


def _fault_anew(found: Findings, what: str, text: str, folder: Location, again: str) -> None:
    """Add a fault of data that must be deleted and made again. In an object store, no command can delete it."""
    if folder.remote:
        text = f"{text.rpartition(': ')[0] or text}: delete all objects below {folder}, then run {again!r}"
    found.fault(what, text, mending.removal(folder, again))


def _judged(found: Findings, folder: Location, what: str, seen: Glance, mend: str) -> str:
    """State of a dataset that has a manifest; adds its fault."""
    if folder.is_held():
        found.at_work.append(f"{what} is being checked or written")
        return "at work"
    if seen.outdated:
        found.fault(what, seen.trouble, mend)
        return f"schema version {seen.version}"
    if seen.trouble:
        found.fault(what, seen.trouble, mend)
        return "damaged"
    if seen.broken:
        checked = "" if seen.looked_at == seen.shards else f" ({seen.looked_at:,} were checked)"
        text = f"{seen.broken:,} of {seen.shards:,} shards are missing or truncated{checked}: repair them"
        found.fault(what, text, mend)
        return "damaged"
    return "whole"


def _unfinished(found: Findings, folder: Location, what: str, ranges: int, mend: str) -> str:
    """State of a dataset without a manifest; adds its fault. Empty if the folder contains nothing of it."""
    done = sum(name.endswith(".json") for name in (folder / ".progress").children())
    progress = f"{min(1.0, done / ranges):.0%} done" if ranges else f"{done:,} parts done"
    if folder.is_held():
        found.at_work.append(f"{what} is being made, {progress}")
        return f"being made, {progress}"
    if not done and not set(folder.children()) - {"tokens", "made.json"}:
        return ""
    remedy = "run the command that created it again"
    found.fault(what, f"its creation was interrupted, {progress}: {remedy}", mend)
    return f"unfinished, {progress}"


def _noted_spec(folder: Location) -> CorpusSpec | None:
    """The recorded spec of an unfinished corpus; None if there is no valid one."""
    if not (folder / UNFINISHED).exists():
        return None
    try:
        return CorpusSpec.model_validate(yaml.safe_load((folder / UNFINISHED).read()))
    except (RunFailure, yaml.YAMLError, ValidationError):
        return None


def _ranges(spec: CorpusSpec) -> int:
    return sum(-(-part.rows // spec.rows_per_shard) for part in components(spec))


def _generate(spec: CorpusSpec | None, folder: Location, uri: str) -> str:
    if spec is None:
        return ""
    command = mending.generate_command(spec, uri)
    # The command line reads spec files only from the local machine.
    return command if command or folder.remote else mending.generate_from(str(folder / UNFINISHED), uri)


def _mend_corpus(name: str, identity: dict[str, Any], uri: str) -> str:
    """Command that repairs a committed corpus.

    A corpus of another generator version cannot be repaired, so it is generated again under another name.
    """
    if identity.get("generator_version") == GENERATOR_VERSION:
        return mending.repair_command(name, uri)
    spec = spec_of(f"{name}-anew"[:64], identity)
    return mending.generate_command(spec, uri) if spec else ""


def spec_of(name: str, identity: dict[str, Any]) -> CorpusSpec | None:
    """The spec of a corpus from the identity in a manifest or run; None if it is of another version."""
    try:
        return CorpusSpec.of_identity(
            name, {key: value for key, value in identity.items() if key != "generator_version"}
        )
    except UserError:
        return None


def read_json(place: Location) -> dict[str, Any]:
    """The values of a JSON file; empty if it is missing or invalid."""
    try:
        values = json.loads(place.read())
    except (RunFailure, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
