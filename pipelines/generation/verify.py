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
from pipelines.generation.generate import GENERATOR_VERSION, Contents, RangeTask, contents_of_range, range_tasks
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import (
    WRITER,
    Dataset,
    Manifest,
    ShardRecord,
    check_version,
    committed,
    counted,
    decoded,
    head_of,
    known_spec,
    list_name,
)
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
    distrusted: set[str] = field(default_factory=set)
    """Shards whose lines in the manifest differ from the spec."""

    @property
    def what(self) -> str:
        """The corpus's name in messages."""
        return f"corpus {self.name!r}"

    @property
    def rows(self) -> int:
        """Number of rows in the manifest."""
        return sum(shard.rows for shard in self.shards or ())

    def spec(self) -> CorpusSpec:
        """The spec of the rows; raises `UserError` if this version generates other rows."""
        version = self.identity.get("generator_version")
        if version != GENERATOR_VERSION:
            raise UserError(
                f"{self.what} has generator version {version}, this Numerate has {GENERATOR_VERSION} and can't "
                "recompute its rows: leave out --deep and --repair"
            )
        values = {name: value for name, value in self.identity.items() if name != "generator_version"}
        return CorpusSpec.of_identity(self.name, values)


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
    found = Examination(folder, name, identity, str(head.get("writer")), None)
    _read_shards(found, head)
    manifest = _as_committed(found, head)
    if manifest is None or text != manifest.text().encode():
        found.faults.append(Fault(MANIFEST, "is damaged (it differs from the committed version)"))
    found.former = manifest.former_identity if manifest else ""
    if manifest and manifest.former and found.shards and head.get("contents") != manifest.contents:
        # The stated identity is not proven, so every shard counts as new.
        found.distrusted |= {shard.path for shard in found.shards}
    if found.shards is not None:
        found.faults += [Fault(path, "is not in the manifest") for path in _extra(folder, found.shards)]
    return found


def check_bytes(found: Examination, *, in_flight: int, progress: Progress) -> None:
    """Compares the size and hash of every shard; `progress` is called with the rows of each."""
    found.faults += _damaged(found.folder, found.shards or (), in_flight=in_flight, progress=progress)


def check_rows(found: Examination, *, in_flight: int, progress: Progress) -> None:
    """Recomputes every row from the spec and compares the results with the manifest's lines."""
    spec = found.spec()
    if found.shards is None:
        return
    contents: dict[int, dict[str, Contents]] = {}
    compute = partial(contents_of_range, spec, former=bool(found.former))
    with closing(each_result(compute, range_tasks(spec), in_flight=in_flight)) as results:
        for task, computed in results:
            contents[task.number] = computed
            progress(task.rows)
    wanted = {path: shard for number in sorted(contents) for path, shard in contents[number].items()}
    named = {shard.path: Contents.of(shard) for shard in found.shards}
    faults = [Fault(path, "is in the spec, but not in the manifest") for path in wanted if path not in named]
    faults += [Fault(path, "is in the manifest, but not in the spec") for path in named if path not in wanted]
    faults += [
        Fault(path, f"differs from the spec ({difference})")
        for path in wanted
        if path in named and (difference := _difference(named[path], wanted[path]))
    ]
    found.distrusted |= {fault.path for fault in faults}
    if not faults and [shard.path for shard in found.shards] != list(wanted):
        faults = [Fault(found.list_name, "lists a shard twice or in the wrong order")]
        found.shards = None
    found.faults += faults


def repair(found: Examination, *, in_flight: int, progress: Progress) -> Dataset:
    """Regenerates broken shards and commits the corpus; the caller holds the folder.

    Raises `RunFailure` if a repaired file is broken again.
    """
    folder, spec = found.folder, found.spec()
    broken = {fault.path for fault in found.faults}
    # Notes of a killed run are checked by size alone, so they are not trusted here.
    (folder / ".progress").remove()
    for path in sorted(broken & {*_files(folder), found.list_name}):
        (folder / path).remove()
    # If the rows differ from the manifest, it becomes another corpus.
    former = "" if found.distrusted else found.former
    known = _trusted(found, spec) if former == found.former else []
    dataset = make_corpus(spec, folder, known, former=former, in_flight=in_flight, progress=progress)
    for path in _extra(folder, dataset.shards):
        (folder / path).remove()
    mended = [shard for shard in dataset.shards if found.shards is None or shard.path in broken]
    again = examine(folder).faults + _damaged(folder, mended, in_flight=in_flight, progress=lambda rows: None)
    if again:
        raise RunFailure(
            f"{folder / again[0].path} {again[0].text} immediately after the repair: check the disk, it loses data"
        )
    return dataset


def _read_shards(found: Examination, head: dict[str, Any]) -> None:
    """Reads the list of shards into `found` if it has the hash in the manifest."""
    version, sha256 = head.get("schema_version"), head.get("shards_sha256")
    if not isinstance(version, int) or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        return
    found.list_name = list_name(version, str(sha256))
    place = found.folder / found.list_name
    if not place.exists():
        found.faults.append(Fault(found.list_name, "is missing, so no shard can be checked"))
        return
    encoded = place.read()
    try:
        if hashlib.sha256(encoded).hexdigest() == sha256:
            found.shards = decoded(encoded)
            return
    except (pa.ArrowException, RunFailure):
        pass
    found.faults.append(Fault(found.list_name, f"doesn't match {MANIFEST}, so no shard can be checked"))


def _as_committed(found: Examination, head: dict[str, Any]) -> Manifest | None:
    """The manifest that follows from the spec and the known shards; None if too little is known."""
    values: dict[str, Any] = {
        **{name: value for name, value in head.items() if name in Manifest.model_fields},
        "kind": "corpus",
        "name": found.name,
        "generator_version": found.identity.get("generator_version"),
    }
    if found.shards is not None:
        values |= counted(found.shards, str(head.get("former", "")))
        writers = {WRITER, _writer_of(found.folder / found.list_name)}
        values["writer"] = found.writer if found.writer in writers else WRITER
    try:
        return Manifest.model_validate(values)
    except ValidationError:
        return None


def _writer_of(place: Location) -> str:
    """The writer of a Parquet file, in the format of a manifest."""
    with place.opened() as file:
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
    place = folder / shard.path
    size = place.size()
    if size < 0:
        return "is missing"
    if size != shard.bytes:
        return f"has {size:,} bytes instead of {shard.bytes:,}"
    try:
        return "" if file_hash(place) == shard.sha256 else "is damaged (its hash differs from the manifest)"
    except OSError as error:
        return f"can't be read ({error.strerror})"


def _difference(named: Contents, wanted: Contents) -> str:
    """The first field in which a line of the manifest differs from the spec, with both values."""
    for name, have, want in zip(Contents._fields, named, wanted, strict=True):
        if have != want:
            return "other rows" if name == "content" else f"{name} {have} instead of {want}"
    return ""


def _trusted(found: Examination, spec: CorpusSpec) -> list[ShardRecord]:
    """The manifest's lines of all ranges that match the spec, as far as this was checked."""
    by_path = {shard.path: shard for shard in found.shards or ()}
    ranges: Iterable[RangeTask] = (task for task in range_tasks(spec) if not found.distrusted & set(task.paths))
    return [by_path[path] for task in ranges for path in task.paths if path in by_path]


def _extra(folder: Location, shards: Sequence[ShardRecord]) -> list[str]:
    """Parquet files below data/ that are not in `shards`."""
    named = {shard.path for shard in shards}
    return [path for path in _files(folder) if path not in named]


def _files(folder: Location) -> list[str]:
    """Paths of all Parquet files below data/, sorted."""
    return [f"data/{path}" for path in (folder / "data").files(".parquet")]
