"""What a dataset is and which shards hold it: written last, in one step, and the only truth.

A folder without a manifest holds nothing; a manifest names every shard with its size and
hashes. Two runs of one spec write the same bytes, so there is no time and no path in it.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import RunFailure, UserError
from storage.location import Location, Version, checked_part
from storage.parameters import one_line

SCHEMA_VERSION = 2
SPLITS = ("train", "validation", "test")
WRITER = f"pyarrow {pa.__version__}"

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
    """One line of the manifest: a Parquet file of one split and one stratum.

    A plain tuple, since there may be a million of them.
    """

    path: str
    """Path below the dataset's folder."""
    split: str
    stratum: str
    rows: int
    bytes: int
    sha256: str
    """Hash of the file, for the writer named in the manifest."""
    content: str
    """Hash of the values, the same for any Parquet writer."""
    problem_length: int = 0
    """Characters of the longest problem."""
    answer_digits: int = 0
    """Digits of the longest answer."""


class Manifest(BaseModel):
    """The head of a dataset; `shards` are kept beside it as Parquet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="'corpus' or 'tokens'.")
    name: str
    schema_version: int = SCHEMA_VERSION
    generator_version: int
    spec: dict[str, Any] = Field(description="Everything from which the rows follow.")
    spec_hash: str
    rows: int
    bytes: int
    split_rows: dict[str, int]
    writer: str = Field(description="Library that wrote the shards; file hashes hold for it alone.")
    shards_sha256: str

    @property
    def identity(self) -> str:
        """Hash of the whole manifest; a checkpoint carries it."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Dataset:
    """A committed dataset: its folder, its manifest and its shards in order."""

    location: Location
    manifest: Manifest
    shards: tuple[ShardRecord, ...]

    def of_split(self, split: str) -> tuple[ShardRecord, ...]:
        """The shards of one split in order; raises `UserError` for an unknown split."""
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown: take one of {', '.join(SPLITS)}")
        return tuple(shard for shard in self.shards if shard.split == split)

    def paths(self, split: str) -> list[str]:
        """Paths of one split's shards, each checked to be there in full; raises `RunFailure`."""
        return self.paths_of(self.of_split(split))

    def paths_of(self, shards: Sequence[ShardRecord]) -> list[str]:
        """Paths of these shards, each checked to be there in full; raises `RunFailure`."""
        # All at once: one by one they are a request each in an object store.
        if not self.location.holds({shard.path: shard.bytes for shard in shards}):
            for shard in shards:
                self.checked(shard)
        folder = str(self.location)
        return [f"{folder}/{checked_part(shard.path)}" for shard in shards]

    def checked(self, shard: ShardRecord) -> Location:
        """Where a shard lies, checked by its size alone; raises `RunFailure` if it is missing or cut."""
        place = self.location / shard.path
        size = place.size()
        if size != shard.bytes:
            state = "is missing" if size < 0 else f"has {size:,} bytes instead of {shard.bytes:,}"
            verb = "corpus generate" if self.manifest.kind == "corpus" else "encode"
            raise RunFailure(
                f"shard {place} {state}: run the 'numerate {verb}' that made it again, it mends that shard"
            )
        return place

    def verified(self, shard: ShardRecord) -> Location:
        """Where a shard lies, checked byte for byte by its hash; raises `RunFailure` if it is damaged."""
        place = self.checked(shard)
        if hashlib.sha256(place.read()).hexdigest() != shard.sha256:
            remedy = "delete it and run the 'numerate encode' that made it again"
            if self.manifest.kind == "corpus":
                remedy = f"run 'numerate corpus verify {self.manifest.name} --repair'"
            raise RunFailure(f"shard {place} is damaged: {remedy}")
        return place

    def whole(self) -> bool:
        """Whether every shard is there with its size."""
        return self.location.holds({shard.path: shard.bytes for shard in self.shards})


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Seen:
    """What lay at a dataset's place before somebody began to make it: a commit is made over that and nothing else."""

    shards: Version
    manifest: Version

    @classmethod
    def at(cls, location: Location) -> "Seen":
        """What lies there now."""
        return cls((location / "shards.parquet").version(), (location / "manifest.json").version())


def commit(
    location: Location,
    *,
    kind: str,
    name: str,
    generator_version: int,
    spec: dict[str, Any],
    shards: list[ShardRecord],
    seen: Seen | None = None,
) -> Dataset:
    """Write `shards.parquet` and then `manifest.json`; from then on the dataset exists.

    Raises `RunFailure` where another process committed other files than these since they were `seen`, by default now.
    """
    seen = seen or Seen.at(location)
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
        **counted(shards),
        writer=WRITER,
        shards_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    (location / "shards.parquet").write_over(encoded, seen.shards)
    (location / "manifest.json").write_over(manifest.text().encode(), seen.manifest)
    return Dataset(location, manifest, tuple(shards))


def counted(shards: Sequence[ShardRecord]) -> dict[str, Any]:
    """The manifest's fields that follow from its shards: rows, bytes and rows of each split."""
    rows: Counter[str] = Counter(dict.fromkeys(SPLITS, 0))
    for shard in shards:
        rows[shard.split] += shard.rows
    return {"rows": rows.total(), "bytes": sum(shard.bytes for shard in shards), "split_rows": dict(rows)}


def decoded(encoded: bytes) -> tuple[ShardRecord, ...]:
    """The shards that the bytes of `shards.parquet` name; raises `RunFailure` where they are something else."""
    # In one thread: where OMP_NUM_THREADS is 1, a process that ends soon after Arrow's pool has begun aborts.
    table = pq.ParquetFile(io.BytesIO(encoded)).read(use_threads=False)
    if table.schema != _SHARD_SCHEMA:
        raise RunFailure("shards.parquet is no list of shards: delete it and its manifest and run again")
    return tuple(map(ShardRecord, *(column.to_pylist() for column in table.columns)))


def committed(location: Location) -> bool:
    """Whether a whole dataset lies here."""
    return (location / "manifest.json").exists()


def load(location: Location, what: str) -> Dataset:
    """Open a committed dataset; raises `UserError` where there is none, `RunFailure` where it is damaged."""
    manifest, encoded = load_encoded(location, what)
    return Dataset(location, manifest, decoded(encoded))


def load_encoded(location: Location, what: str) -> tuple[Manifest, bytes]:
    """What `load` reads, with the bytes of `shards.parquet` as they lie there; raises the same."""
    if not committed(location):
        raise UserError(f"{what} is not there ({location}): make it first, 'numerate run' does all of it")
    text = (location / "manifest.json").read()
    check_version(text, location, what)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise RunFailure(
            f"{location / 'manifest.json'} is damaged ({one_line(error)}): delete it and run the same command again"
        ) from error
    if hash_of(manifest.spec) != manifest.spec_hash:
        raise RunFailure(f"{location / 'manifest.json'} is damaged (its spec was changed): delete it and run again")
    encoded = (location / "shards.parquet").read()
    if hashlib.sha256(encoded).hexdigest() != manifest.shards_sha256:
        raise RunFailure(f"{location / 'shards.parquet'} doesn't match its manifest: delete both and run again")
    return manifest, encoded


def check_version(text: bytes, location: Location, what: str) -> None:
    """Raises `UserError` where `text` is the manifest of another schema version, with what helps."""
    head = head_of(text)
    version = head.get("schema_version")
    if not isinstance(version, int) or version < 1 or version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{what} was written by a newer Numerate (schema version {version}, this one reads {SCHEMA_VERSION}): "
            "update Numerate"
        )
    place = location.name if location.parent.name == "corpora" else location
    remedy = f"run 'numerate corpus migrate {place}'"
    if head.get("kind") == "tokens":
        remedy = f"delete {location} and run 'numerate encode' again"
    raise UserError(f"{what} has schema version {version}, this Numerate reads {SCHEMA_VERSION}: {remedy}")


def head_of(text: bytes) -> dict[str, Any]:
    """The values in the text of a `manifest.json` of any version, unchecked; empty where they can't be read."""
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def known_spec(head: dict[str, Any]) -> dict[str, Any] | None:
    """The spec in the head of a manifest that may be damaged, if its hash proves it."""
    spec = head.get("spec")
    return spec if isinstance(spec, dict) and hash_of(spec) == head.get("spec_hash") else None
