"""What each thing in a workspace is at a glance, and what is wrong with it.

Work that was cut off counts as broken: its command finishes it. What a process holds is at work, and not judged.
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
    """Something that is broken, and the command that mends it; empty where only a person knows what it was."""

    what: str
    text: str
    mend: str = ""


@dataclass(frozen=True)
class CorpusState:
    """A corpus; `looked_at` of its shards were compared with their sizes."""

    name: str
    state: str
    rows: int = 0
    bytes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    looked_at: int = 0


@dataclass(frozen=True)
class TokenizerState:
    """A tokenizer."""

    name: str
    state: str
    kind: str = ""
    pieces: int = 0
    corpus: str = ""


@dataclass(frozen=True)
class TokensState:
    """A corpus as a tokenizer encoded it."""

    corpus: str
    tokenizer: str
    state: str
    rows: int = 0
    bytes: int = 0


@dataclass
class Findings:
    """What was found so far in the workspace that a person calls `uri`."""

    uri: str
    faults: list[Fault] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    corpora: dict[str, Manifest] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    """How many shards each corpus has."""
    tokenizers: dict[str, str] = field(default_factory=dict)
    """Identities by name."""
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    """Identities by corpus and tokenizer."""

    def fault(self, what: str, text: str, mend: str = "") -> None:
        """Note one; a remedy within the text goes where there is a command."""
        self.faults.append(Fault(what, (text.rpartition(": ")[0] or text) if mend else text, mend))


def look_at_corpus(found: Findings, folder: Location, until: float) -> CorpusState | None:
    """What a corpus is; None where the folder holds nothing. Sizes of shards are compared as long as `until` allows."""
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
    """What a tokenizer is; None where the folder holds nothing."""
    if not folder.children():
        return None
    corpus, _, kind = folder.name.rpartition("-")
    again = mending.tokenizer_command(folder.name, corpus, kind, found.uri) if kind in KINDS and corpus else ""
    what = f"tokenizer {folder.name}"
    if not (folder / "card.json").exists():
        found.fault(what, "its training was cut off", again)
        return TokenizerState(folder.name, "unfinished")
    try:
        tokenizer, card = load_tokenizer(folder)
    except (UserError, RunFailure) as error:
        _fault_anew(found, what, str(error), folder, again)
        return TokenizerState(folder.name, "damaged")
    found.tokenizers[folder.name] = tokenizer.identity
    return TokenizerState(folder.name, "whole", card.kind, card.pieces, card.corpus)


def look_at_tokens(found: Findings, corpus: str, folder: Location, until: float) -> TokensState | None:
    """What a corpus's tokens are; None where the folder holds nothing. Look at corpora and tokenizers before."""
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
        _fault_anew(found, what, f"corpus {corpus} is another one by now", folder, again)
        state = "of another corpus"
    elif found.tokenizers.get(folder.name, lies.spec.get("tokenizer")) != lies.spec.get("tokenizer"):
        _fault_anew(found, what, f"tokenizer {folder.name} is another one by now", folder, again)
        state = "by another tokenizer"
    else:
        found.tokens[corpus, folder.name] = lies.identity
        state = _judged(found, folder, what, seen, again)
    return TokensState(corpus, folder.name, state, lies.rows, lies.bytes)


def _fault_anew(found: Findings, what: str, text: str, folder: Location, again: str) -> None:
    """Note what has to be deleted and made again: in an object store no command of ours deletes it."""
    if folder.remote:
        text = f"{text.rpartition(': ')[0] or text}: delete all objects below {folder}, then run {again!r}"
    found.fault(what, text, mending.removal(folder, again))


def _judged(found: Findings, folder: Location, what: str, seen: Glance, mend: str) -> str:
    """The state of what has a manifest; a fault is noted."""
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
        looked = "" if seen.looked_at == seen.shards else f" of the {seen.looked_at:,} that were looked at"
        found.fault(what, f"{seen.broken:,} of {seen.shards:,} shards{looked} are missing or cut: mend them", mend)
        return "damaged"
    return "whole"


def _unfinished(found: Findings, folder: Location, what: str, ranges: int, mend: str) -> str:
    """The state of what has no manifest; empty where there is nothing of it."""
    done = sum(name.endswith(".json") for name in (folder / ".progress").children())
    progress = f"{min(1.0, done / ranges):.0%} done" if ranges else f"{done:,} parts done"
    if folder.is_held():
        found.at_work.append(f"{what} is being made, {progress}")
        return f"being made, {progress}"
    if not done and not set(folder.children()) - {"tokens", "made.json"}:
        return ""
    remedy = "run the command that made it again"
    found.fault(what, f"its making was cut off, {progress}: {remedy}", mend)
    return f"unfinished, {progress}"


def _noted_spec(folder: Location) -> CorpusSpec | None:
    """The spec of a corpus that isn't whole yet; None where none was noted."""
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
    # The command line reads specs of this machine alone.
    return command if command or folder.remote else mending.generate_from(str(folder / UNFINISHED), uri)


def _mend_corpus(name: str, identity: dict[str, Any], uri: str) -> str:
    """What mends a committed corpus; one that this Numerate makes otherwise is only to be made under another name."""
    if identity.get("generator_version") == GENERATOR_VERSION:
        return mending.repair_command(name, uri)
    spec = spec_of(f"{name}-anew"[:64], identity)
    return mending.generate_command(spec, uri) if spec else ""


def spec_of(name: str, identity: dict[str, Any]) -> CorpusSpec | None:
    """The spec of a corpus out of what a manifest or a run keeps of it; None where it is of another version."""
    try:
        return CorpusSpec.of_identity(
            name, {key: value for key, value in identity.items() if key != "generator_version"}
        )
    except UserError:
        return None


def read_json(place: Location) -> dict[str, Any]:
    """The values of a JSON file; empty where it isn't there or holds none."""
    try:
        values = json.loads(place.read())
    except (RunFailure, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
