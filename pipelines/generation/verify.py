"""Verifies a corpus against its manifest, by bytes and by rows, and repairs it.

Shards are compared with the manifest's hashes. A deep check recomputes every row from the spec, so it also detects a
manifest and shards that were changed together. A repair deletes broken files and leaves all others untouched.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.generation.build import make_corpus
from pipelines.generation.fanout import Progress, each_result
from pipelines.generation.generate import contents_of_range, generator_version, range_tasks
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import (
    WRITER,
    Dataset,
    Manifest,
    ShardRecord,
    committed,
    counted,
    decoded,
    list_name,
)
from storage.datasets.schema_version import check_version, head_of, known_spec
from storage.datasets.shard import file_hash
from storage.errors import RunFailure, UserError
from storage.places.place import Location

MANIFEST = "manifest.json"


@dataclass(frozen=True, order=True)
class Fault:
    """A file of a corpus, by its relative path, and its fault."""

    path: str
    text: str


class CorpusDamaged(RunFailure):
    """A corpus has faults; the text names the command that repairs it."""

    def __init__(self, text: str, faults: Sequence[Fault]) -> None:
        super().__init__(text)
        self.faults = tuple(faults)


@dataclass
class Examination:
    """The state of a verification: the corpus's metadata and its faults so far; `shards` is None if they are lost."""

    folder: Location
    name: str
    identity: dict[str, Any]
    writer: str
    shards: tuple[ShardRecord, ...] | None
    list_name: str = ""
    """Name of the list of shards, if known."""
    former: str = ""
    """Identity of a corpus of schema version 2: its content hashes are of that version."""
    faults: list[Fault] = field(default_factory=list)
    untrusted: set[str] = field(default_factory=set)
    """Shards whose lines in the manifest differ from the spec."""

    @property
    def what(self) -> str:
        return f"corpus {self.name!r}"

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards or ())

    def spec(self) -> CorpusSpec:
        """The spec of the rows; raises `UserError` if this version generates other rows."""
        version, current = self.identity.get("generator_version"), generator_version(self.identity)
        if version != current:
            raise UserError(
                f"{self.what} has generator version {version}, this Numerate has {current} for its families and can't "
                "recompute its rows: leave out --deep and --repair"
            )
        return CorpusSpec.of_identity(self.name, self.identity)


def examine(folder: Location) -> Examination:
    """Reads the manifest and its list of shards, and searches for files that are not in it.

    Raises `UserError` if there is no corpus of a readable version, `RunFailure` if its spec is lost.
    """
    what = f"corpus {folder.name!r}"
    if not committed(folder):
        if not (folder / "data").exists():
            raise UserError(f"{what} does not exist ({folder}): create it first with 'numerate corpus generate'")
        raise RunFailure(
            f"{what} has no {MANIFEST} ({folder}): run the same 'numerate corpus generate' command again to complete it"
        )
    text = (folder / MANIFEST).read()
    check_version(text, folder, what)
    head = head_of(text)
    if head.get("kind") == "tokens":
        raise UserError(f"{folder} holds tokens, not problems: name the corpus that was encoded")
    identity = known_spec(head)
    if identity is None:
        raise RunFailure(
            f"{folder / MANIFEST} is damaged and the corpus's spec is lost: delete it and run the same "
            "'numerate corpus generate' command again"
        )
    # In a workspace, the folder has the corpus's name; a copy elsewhere can have any name.
    name = folder.name if folder.parent.name == "corpora" else str(head.get("name"))
    corpus = Examination(folder, name, identity, str(head.get("writer")), None)
    _read_shards(corpus, head)
    manifest = _as_committed(corpus, head)
    if manifest is None or text != manifest.text().encode():
        corpus.faults.append(Fault(MANIFEST, "is damaged (it differs from the committed version)"))
    corpus.former = manifest.former_identity if manifest else ""
    if manifest and manifest.former and corpus.shards and head.get("contents") != manifest.contents:
        # The stated identity is not proven, so every shard counts as new.
        corpus.untrusted |= {shard.path for shard in corpus.shards}
    if corpus.shards is not None:
        corpus.faults += [Fault(path, "is not in the manifest") for path in _extra(folder, corpus.shards)]
    return corpus


def check_bytes(corpus: Examination, *, in_flight: int, progress: Progress) -> None:
    """Compares the size and hash of every shard; `progress` is called with the rows of each."""
    corpus.faults += _damaged(corpus.folder, corpus.shards or (), in_flight=in_flight, progress=progress)


def check_rows(corpus: Examination, *, in_flight: int, progress: Progress) -> None:
    """Recomputes every row from the spec and compares the results with the manifest's lines."""
    spec = corpus.spec()
    if corpus.shards is None:
        return
    computed: dict[int, list[ShardRecord]] = {}
    compute = partial(contents_of_range, spec, former=bool(corpus.former))
    with closing(each_result(compute, range_tasks(spec), in_flight=in_flight)) as results:
        for task, records in results:
            computed[task.number] = records
            progress(task.rows)
    expected = {shard.path: shard for number in sorted(computed) for shard in computed[number]}
    listed = {shard.path: shard for shard in corpus.shards}
    faults = [
        Fault(path, difference)
        for path in {**expected, **listed}
        if (difference := _difference(listed.get(path), expected.get(path)))
    ]
    corpus.untrusted |= {fault.path for fault in faults}
    if not faults and [shard.path for shard in corpus.shards] != list(expected):
        faults = [Fault(corpus.list_name, "lists a shard twice or in the wrong order")]
        corpus.shards = None
    corpus.faults += faults


def repair(corpus: Examination, *, in_flight: int, progress: Progress) -> Dataset:
    """Regenerates broken shards and commits the corpus; the caller holds the folder.

    Raises `RunFailure` if a repaired file is broken again.
    """
    folder, spec = corpus.folder, corpus.spec()
    broken = {fault.path for fault in corpus.faults}
    # Notes of a killed run are checked by size alone, so they are not trusted here.
    (folder / ".progress").remove()
    for path in sorted(broken & {*_files(folder), corpus.list_name}):
        (folder / path).remove()
    # If the rows differ from the manifest, it becomes another corpus.
    former = "" if corpus.untrusted else corpus.former
    known = _trusted(corpus, spec) if former == corpus.former else []
    dataset = make_corpus(spec, folder, known, former=former, in_flight=in_flight, progress=progress)
    for path in _extra(folder, dataset.shards):
        (folder / path).remove()
    repaired = [shard for shard in dataset.shards if corpus.shards is None or shard.path in broken]
    again = examine(folder).faults + _damaged(folder, repaired, in_flight=in_flight, progress=lambda rows: None)
    if again:
        raise RunFailure(
            f"{folder / again[0].path} {again[0].text} immediately after the repair: check the disk, it loses data"
        )
    return dataset


def _read_shards(corpus: Examination, head: dict[str, Any]) -> None:
    """Reads the list of shards into `corpus` if it has the hash in the manifest."""
    version, sha256 = head.get("schema_version"), head.get("shards_sha256")
    if not isinstance(version, int) or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        return
    corpus.list_name = list_name(version, str(sha256))
    file = corpus.folder / corpus.list_name
    if not file.exists():
        corpus.faults.append(Fault(corpus.list_name, "is missing, so no shard can be checked"))
        return
    encoded = file.read()
    try:
        if hashlib.sha256(encoded).hexdigest() == sha256:
            corpus.shards = decoded(encoded)
            return
    except (pa.ArrowException, RunFailure):
        pass
    corpus.faults.append(Fault(corpus.list_name, f"doesn't match {MANIFEST}, so no shard can be checked"))


def _as_committed(corpus: Examination, head: dict[str, Any]) -> Manifest | None:
    """The manifest that follows from the spec and the known shards; None if too little is known."""
    values: dict[str, Any] = {
        **{name: value for name, value in head.items() if name in Manifest.model_fields},
        "kind": "corpus",
        "name": corpus.name,
        "generator_version": corpus.identity.get("generator_version"),
    }
    if corpus.shards is not None:
        values |= counted(corpus.shards, str(head.get("former", "")))
        writers = {WRITER, _writer_of(corpus.folder / corpus.list_name)}
        values["writer"] = corpus.writer if corpus.writer in writers else WRITER
    try:
        return Manifest.model_validate(values)
    except ValidationError:
        return None


def _writer_of(path: Location) -> str:
    """The writer of a Parquet file, in the format of a manifest."""
    with path.opened() as file:
        return f"pyarrow {str(pq.read_metadata(file).created_by).rpartition(' ')[2]}"


def _damaged(folder: Location, shards: Iterable[ShardRecord], *, in_flight: int, progress: Progress) -> list[Fault]:
    """The faults of shards with missing or changed bytes, sorted; each shard is read once, over Ray."""
    faults = []
    with closing(each_result(partial(_damage, folder), shards, in_flight=in_flight)) as results:
        for shard, text in results:
            if text:
                faults.append(Fault(shard.path, text))
            progress(shard.rows)
    return sorted(faults)


def _damage(folder: Location, shard: ShardRecord) -> str:
    """The fault of one shard's file; empty if there is none."""
    file = folder / shard.path
    size = file.size()
    if size < 0:
        return "is missing"
    if size != shard.bytes:
        return f"has {size:,} bytes instead of {shard.bytes:,}"
    try:
        return "" if file_hash(file) == shard.sha256 else "is damaged (its hash differs from the manifest)"
    except OSError as error:
        return f"can't be read ({error.strerror})"


def _difference(listed: ShardRecord | None, expected: ShardRecord | None) -> str:
    """How a line of the manifest differs from the spec: its first field that differs, with both values."""
    if listed is None:
        return "is in the spec, but not in the manifest"
    if expected is None:
        return "is in the manifest, but not in the spec"
    for name, value, other in zip(ShardRecord._fields, listed, expected, strict=True):
        if value != other and name not in ("bytes", "sha256"):
            difference = "other rows" if name == "content" else f"{name} {value} instead of {other}"
            return f"differs from the spec ({difference})"
    return ""


def _trusted(corpus: Examination, spec: CorpusSpec) -> list[ShardRecord]:
    """The manifest's lines of all ranges that match the spec, as far as this was checked."""
    by_path = {shard.path: shard for shard in corpus.shards or ()}
    trusted = (task.paths for task in range_tasks(spec) if corpus.untrusted.isdisjoint(task.paths))
    return [by_path[path] for paths in trusted for path in paths if path in by_path]


def _extra(folder: Location, shards: Sequence[ShardRecord]) -> list[str]:
    """Parquet files below data/ that are not in `shards`."""
    named = {shard.path for shard in shards}
    return [path for path in _files(folder) if path not in named]


def _files(folder: Location) -> list[str]:
    """Paths of all Parquet files below data/, sorted."""
    return [f"data/{path}" for path in (folder / "data").files(".parquet")]
