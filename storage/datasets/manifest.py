"""The manifest of a dataset: its parameters and its list of shards. Writing it commits the dataset.

A folder without `manifest.json` is not a dataset. The manifest contains the hash of a list of shards, and the list
contains each shard's size and hashes. A commit therefore replaces only `manifest.json`. The manifest contains no time
and no path, so two runs of one spec write the same bytes.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from storage.datasets.schema_version import OLDEST_READ, SCHEMA_VERSION, argument_of, check_version, hash_of
from storage.errors import RunFailure, UserError
from storage.parameters import one_line
from storage.places.place import Location, Version, checked_part

SPLITS = ("train", "validation", "test")
WRITER = f"pyarrow {pa.__version__}"

# Rejects paths that are empty, lead out of the folder, are glob patterns for SQL, or contain a null byte.
_NO_PATH = r"^$|^/|(^|/)\.\.(/|$)|[\x00*?\[]"
_LIST = re.compile(r"shards(-[0-9a-f]{16})?\.parquet")

_SHARD_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("stratum", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("problem_length", pa.int32(), nullable=False),
        pa.field("answer_digits", pa.int32(), nullable=False),
    ]
)


class ShardRecord(NamedTuple):
    """One line of the manifest: a Parquet file with rows of one split and one stratum.

    A plain tuple, because there can be a million of them.
    """

    path: str
    """Path relative to the dataset's folder."""
    split: str
    stratum: str
    rows: int
    bytes: int
    sha256: str
    """Hash of the file's bytes; reproducible only with the writer named in the manifest."""
    content: str
    """Hash of the values; the same for any Parquet writer."""
    problem_length: int = 0
    """Length of the longest problem in characters."""
    answer_digits: int = 0
    """Number of digits of the longest answer."""


class Manifest(BaseModel):
    """The metadata of a dataset; its shards are listed in a separate Parquet file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="'corpus' or 'tokens'.")
    name: str
    schema_version: int = Field(SCHEMA_VERSION, ge=OLDEST_READ, le=SCHEMA_VERSION)
    generator_version: int
    spec: dict[str, Any] = Field(description="All values that determine the rows.")
    spec_hash: str
    rows: NonNegativeInt
    bytes: NonNegativeInt
    split_rows: dict[str, NonNegativeInt] = Field(description="Rows per split; their sum is `rows`.")
    writer: str = Field(description="Library that wrote the shards; the file hashes are reproducible only with it.")
    shards_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the file that lists the shards.")
    contents: str = Field("", description="Hash of every shard's path, rows and content hash, and of `former`.")
    former: str = Field("", description="Identity of the dataset in schema version 2, which it keeps.")

    @model_validator(mode="after")
    def _complete(self) -> "Manifest":
        if self.schema_version > 2 and not self.contents:
            raise ValueError("contents is missing")
        if self.rows != sum(self.split_rows.values()):
            raise ValueError("rows is not the sum of split_rows")
        return self

    @property
    def identity(self) -> str:
        """Hash of the spec and the shard contents, independent of the Parquet writer.

        Token datasets, tokenizers and runs store it. In schema version 2 it is the hash of the manifest's text.
        """
        if self.schema_version == 2:
            return hashlib.sha256(self.text().encode()).hexdigest()
        return self.former or hash_of({"spec": self.spec, "contents": self.contents})

    @property
    def former_identity(self) -> str:
        """The identity from schema version 2, if the dataset has one; its content hashes are then of that version."""
        return self.identity if self.schema_version == 2 or self.former else ""

    @property
    def list_name(self) -> str:
        """Name of the file that lists the shards."""
        return list_name(self.schema_version, self.shards_sha256)

    def text(self) -> str:
        """Returns the text of `manifest.json`."""
        later = {"contents", "former"} if self.schema_version == 2 else set() if self.former else {"former"}
        return json.dumps(self.model_dump(exclude=later), indent=2, sort_keys=True) + "\n"


def list_name(schema_version: int, sha256: str) -> str:
    """Name of the file that lists the shards, from the file's hash."""
    return "shards.parquet" if schema_version == 2 else f"shards-{sha256[:16]}.parquet"


@dataclass(frozen=True)
class Dataset:
    """A committed dataset: its folder, manifest and ordered shards."""

    location: Location
    manifest: Manifest
    shards: tuple[ShardRecord, ...]

    @property
    def list_location(self) -> Location:
        """Location of the list of shards."""
        return self.location / self.manifest.list_name

    def of_split(self, split: str) -> tuple[ShardRecord, ...]:
        """Shards of one split in order; raises `UserError` for an unknown split."""
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown: use one of {', '.join(SPLITS)}")
        return tuple(shard for shard in self.shards if shard.split == split)

    def paths(self, split: str) -> list[str]:
        """Paths of one split's shards; raises `RunFailure` if a shard is missing or truncated."""
        return self.paths_of(self.of_split(split))

    def paths_of(self, shards: Sequence[ShardRecord]) -> list[str]:
        """Paths of these shards; raises `RunFailure` if a shard is missing or truncated."""
        # Check all sizes at once: in an object store, each single check is a request.
        if not self.location.holds({shard.path: shard.bytes for shard in shards}):
            for shard in shards:
                self.checked(shard)
        folder = str(self.location)
        return [f"{folder}/{checked_part(shard.path)}" for shard in shards]

    def checked(self, shard: ShardRecord) -> Location:
        """Location of a shard after a check of its size; raises `RunFailure` if it is missing or truncated."""
        location = self.location / shard.path
        size = location.size()
        if size != shard.bytes:
            state = "is missing" if size < 0 else f"has {size:,} bytes instead of {shard.bytes:,}"
            verb = "corpus generate" if self.manifest.kind == "corpus" else "encode"
            raise RunFailure(f"shard {location} {state}: run the same 'numerate {verb}' command again to repair it")
        return location

    def verified(self, shard: ShardRecord) -> Location:
        """Location of a shard after a check of its hash; raises `RunFailure` if it is damaged."""
        location = self.checked(shard)
        if hashlib.sha256(location.read()).hexdigest() != shard.sha256:
            remedy = "delete it and run the same 'numerate encode' command again"
            if self.manifest.kind == "corpus":
                remedy = _repair(self.location)
            raise RunFailure(f"shard {location} is damaged: {remedy}")
        return location

    def is_complete(self) -> bool:
        """Whether every shard exists with its size."""
        return self.location.holds({shard.path: shard.bytes for shard in self.shards})


@dataclass(frozen=True)
class Revision:
    """The version of a dataset before it is rebuilt; a commit succeeds only if this version is unchanged."""

    manifest: Version
    former: str = ""
    """Identity of a dataset of schema version 2 that is repaired: it keeps this identity and its content hashes."""

    @classmethod
    def at(cls, location: Location, former: str = "") -> "Revision":
        return cls((location / "manifest.json").version(), former)


def commit(
    location: Location,
    *,
    kind: str,
    name: str,
    generator_version: int,
    spec: dict[str, Any],
    shards: list[ShardRecord],
    base: Revision | None = None,
) -> Dataset:
    """Writes the list of shards under a new name and then `manifest.json`; this commits the dataset.

    Older lists are removed afterwards.

    Raises `RunFailure` if another process has committed other files since `base`, by default since this call.
    """
    base = base or Revision.at(location)
    columns = list(zip(*shards, strict=True)) or [()] * len(_SHARD_SCHEMA)
    table = pa.table([pa.array(*pair) for pair in zip(columns, _SHARD_SCHEMA.types, strict=True)], schema=_SHARD_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    encoded = sink.getvalue()
    manifest = Manifest(
        kind=kind,
        name=name,
        generator_version=generator_version,
        spec=spec,
        spec_hash=hash_of(spec),
        **counted(shards, base.former),
        former=base.former,
        writer=WRITER,
        shards_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    # Listed before the commit: a list that appears later belongs to another writer.
    before = lists(location)
    (location / manifest.list_name).write(encoded)
    (location / "manifest.json").write_if_unchanged(manifest.text().encode(), base.manifest)
    for other in before - {manifest.list_name}:
        (location / other).remove()
    return Dataset(location, manifest, tuple(shards))


def lists(location: Location) -> set[str]:
    """Names of all lists of shards in this folder, including unused ones."""
    return {entry for entry in location.children() if _LIST.fullmatch(entry)}


def unused_lists(location: Location) -> set[str]:
    """Names of unused lists of shards from interrupted commits; empty if the manifest is missing or damaged."""
    try:
        return lists(location) - {_manifest((location / "manifest.json").read(), location, "it").list_name}
    except (UserError, RunFailure):
        return set()


def counted(shards: Sequence[ShardRecord], former: str = "") -> dict[str, Any]:
    """The manifest's fields that follow from its shards: rows, bytes, rows per split, and the hash of contents."""
    rows: Counter[str] = Counter(dict.fromkeys(SPLITS, 0))
    contents = hashlib.sha256(former.encode())
    for shard in shards:
        rows[shard.split] += shard.rows
        contents.update(f"\n{shard.path}\t{shard.rows}\t{shard.content}".encode())
    return {
        "rows": rows.total(),
        "bytes": sum(shard.bytes for shard in shards),
        "split_rows": dict(rows),
        "contents": contents.hexdigest(),
    }


def decoded(encoded: bytes) -> tuple[ShardRecord, ...]:
    """The shards in the encoded list; raises `RunFailure` for other content."""
    return _records(listed(encoded))


def _records(table: pa.Table) -> tuple[ShardRecord, ...]:
    return tuple(map(ShardRecord, *(column.to_pylist() for column in table.columns)))


def listed(encoded: bytes) -> pa.Table:
    """The shards in the encoded list as a table, with paths that stay below the dataset's folder.

    Raises `RunFailure` for other content; its text completes a sentence that begins with the file's name.
    """
    try:
        # Single-threaded: with OMP_NUM_THREADS=1, a process that exits soon after Arrow starts its pool aborts.
        table = pq.ParquetFile(io.BytesIO(encoded)).read(use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise RunFailure("is not a list of shards") from error
    if table.schema != _SHARD_SCHEMA:
        raise RunFailure("is not a list of shards")
    paths = table.column("path")
    if (bad := paths.filter(pc.match_substring_regex(paths, _NO_PATH))).length():
        raise RunFailure(f"lists {bad[0].as_py()!r}, which is not a path below its folder")
    return table


def committed(location: Location) -> bool:
    """Whether a committed dataset exists here."""
    return (location / "manifest.json").exists()


def load(location: Location, what: str) -> Dataset:
    """Opens a committed dataset; raises `UserError` if it is missing or of another version, `RunFailure` if damaged."""
    manifest, table = load_table(location, what)
    return Dataset(location, manifest, _records(table))


def load_table(location: Location, what: str) -> tuple[Manifest, pa.Table]:
    """Returns the manifest and the list of shards as a table; raises the errors of `load`."""
    if not committed(location):
        raise UserError(f"{what} does not exist ({location}): create it first, for example with 'numerate run'")
    text = (location / "manifest.json").read()
    manifest = _manifest(text, location, what)
    list_location = location / manifest.list_name
    try:
        encoded = list_location.read()
    except RunFailure:
        if (location / "manifest.json").read() != text:
            # Another process committed in between and removed the previous list.
            return load_table(location, what)
        if list_location.size() < 0:
            raise _damaged_list(location, manifest, "is missing") from None
        raise
    if hashlib.sha256(encoded).hexdigest() != manifest.shards_sha256:
        raise _damaged_list(location, manifest, "doesn't match its manifest")
    try:
        return manifest, listed(encoded)
    except RunFailure as error:
        raise _damaged_list(location, manifest, str(error)) from error


def _manifest(text: bytes, location: Location, what: str) -> Manifest:
    """Parses a manifest; raises `UserError` for another schema version, `RunFailure` for a damaged one."""
    check_version(text, location, what)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise _damaged_manifest(location, one_line(error)) from error
    if hash_of(manifest.spec) != manifest.spec_hash:
        raise _damaged_manifest(location, "its spec was changed")
    return manifest


def _damaged_manifest(location: Location, reason: str) -> RunFailure:
    """The error for a damaged manifest, with the remedy."""
    verb = "encode" if location.parent.name == "tokens" else "corpus generate"
    remedy = f"delete it and run the same 'numerate {verb}' command again"
    return RunFailure(f"{location / 'manifest.json'} is damaged ({reason}): {remedy}")


def _damaged_list(location: Location, manifest: Manifest, state: str) -> RunFailure:
    """The error for a damaged list of shards, with the remedy."""
    remedy = _repair(location)
    if manifest.kind == "tokens":
        remedy = f"delete {location} and run 'numerate encode' again"
    return RunFailure(f"{location / manifest.list_name} {state}: {remedy}")


def _repair(corpus: Location) -> str:
    return f"run 'numerate corpus verify {argument_of(corpus)} --repair'"
