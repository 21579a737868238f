"""One Parquet file of rows: written whole or not at all, with a hash of its bytes and one of its values.

The file's hash holds for one version of the writer; the content hash is taken over the
values alone, so any later writer can be checked against it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from storage.datasets.columns import fixed_width_values, string_buffers
from storage.datasets.manifest import ShardRecord
from storage.places.disk import LocalLocation
from storage.places.place import Location

_HASH_CHUNK = 1 << 22


@dataclass(frozen=True)
class Layout:
    """How a kind of shard is written: its Arrow schema and Parquet's choices for each column."""

    schema: pa.Schema
    dictionary: tuple[str, ...] = ()
    encodings: Mapping[str, str] = field(default_factory=dict)
    statistics: tuple[str, ...] = ("id",)
    level: int = 1
    page_bytes: int = 1 << 16

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `pyarrow.parquet.ParquetWriter`."""
        return {
            "compression": "zstd",
            "compression_level": self.level,
            "use_dictionary": list(self.dictionary) or False,
            "column_encoding": dict(self.encodings) or None,
            "write_statistics": list(self.statistics) or False,
            "data_page_size": self.page_bytes,
            "store_schema": True,
        }


class ShardWriter:
    """Collects row groups of one open shard; made by `open_shard`."""

    def __init__(self, writer: pq.ParquetWriter, content: "ContentHash") -> None:
        self.rows = 0
        self._writer = writer
        self._content = content

    def write(self, table: pa.Table) -> None:
        """Append `table` as one row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._content.update(table)
        self.rows += table.num_rows

    def content(self) -> str:
        """Hash of all values so far."""
        return self._content.hexdigest()


class Shard:
    """What `open_shard` yields: a writer, and after the block the shard's record."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self._record: ShardRecord | None = None

    @property
    def record(self) -> ShardRecord:
        """The manifest's line for this shard; only after it has been closed."""
        assert self._record is not None, "the shard is still open"
        return self._record


@contextmanager
def open_shard(
    folder: Location, path: str, *, split: str, stratum: str, layout: Layout, former: bool = False
) -> Iterator[Shard]:
    """Write a shard at `folder / path`; it appears, synced, only when the block ends well.

    `former` is that of its `ContentHash`.
    """
    with (folder / path).staged() as staged:
        with pq.ParquetWriter(staged, layout.schema, **layout.options()) as parquet:
            shard = Shard(ShardWriter(parquet, ContentHash(layout.schema, former=former)))
            yield shard
        shard._record = ShardRecord(
            path=path,
            split=split,
            stratum=stratum,
            rows=shard.writer.rows,
            bytes=staged.stat().st_size,
            sha256=file_hash(LocalLocation(staged)),
            content=shard.writer.content(),
        )


def file_hash(location: Location) -> str:
    """SHA-256 of a file."""
    with location.opened(whole=True) as file:
        return open_file_hash(file)


def open_file_hash(file: pa.NativeFile) -> str:
    """SHA-256 of an open file from where it stands."""
    digest = hashlib.sha256()
    while chunk := file.read(_HASH_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class ContentHash:
    """XXH3 (128 bits) over the values of a table given in any number of pieces, column by column.

    It tells whether two shards hold the same values, whoever wrote them; what lies on disk is guarded by the
    file's SHA-256. A string column counts as its lengths (int32) and its bytes; numbers count as they lie in
    memory, little-endian; a null counts as zero, and a column of numbers that holds one counts with a byte a row that
    says which are there.

    `former` gives the hash of schema version 2, which has such a byte only for the rows of chunks with a null: it
    depends on how the rows are cut into chunks.
    """

    def __init__(self, schema: pa.Schema, *, former: bool = False) -> None:
        self._columns = {name: (xxhash.xxh3_128(), xxhash.xxh3_128()) for name in schema.names}
        self._former, self._rows, self._with_nulls = former, 0, set[str]()

    def update(self, table: pa.Table) -> None:
        """Add the rows of `table`."""
        for name, (values, lengths) in self._columns.items():
            before = self._rows
            for chunk in table.column(name).chunks:
                if chunk.null_count and not self._former and name not in self._with_nulls:
                    self._with_nulls.add(name)
                    lengths.update(np.ones(before, np.uint8).data)
                before += len(chunk)
                if chunk.null_count or name in self._with_nulls:
                    lengths.update(chunk.is_valid().cast(pa.uint8()).to_numpy().data)
                if chunk.null_count:
                    chunk = pc.fill_null(chunk, 0)
                if pa.types.is_dictionary(chunk.type):
                    entries = chunk.dictionary
                    chunk = pa.repeat(entries[0], len(chunk)) if len(entries) == 1 else chunk.dictionary_decode()
                if pa.types.is_boolean(chunk.type):
                    chunk = chunk.cast(pa.uint8())
                if pa.types.is_string(chunk.type) or pa.types.is_binary(chunk.type):
                    data, offsets = string_buffers(chunk)
                    values.update(data.data)
                    lengths.update(np.diff(offsets).data)
                else:
                    values.update(fixed_width_values(chunk).data)
        self._rows += table.num_rows

    def hexdigest(self) -> str:
        """Hash of everything added so far."""
        total = xxhash.xxh3_128()
        for name, (values, lengths) in self._columns.items():
            total.update(name.encode() + b"\0" + values.digest() + lengths.digest())
        return total.hexdigest()
