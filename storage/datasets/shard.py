"""Writes one Parquet file of rows, completely or not at all, with a hash of its bytes and a hash of its values.

The file hash is reproducible only with one version of the writer. The content hash covers the values alone, so shards
of any later writer can be checked against it.
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

from storage.datasets.arrow_buffers import fixed_width_values, string_buffers
from storage.datasets.manifest import ShardRecord
from storage.places.disk import LocalLocation
from storage.places.place import Location


@dataclass(frozen=True)
class Layout:
    """The Arrow schema of a kind of shard and its Parquet options per column."""

    schema: pa.Schema
    dictionary: tuple[str, ...] = ()
    encodings: Mapping[str, str] = field(default_factory=dict)
    statistics: tuple[str, ...] = ("id",)
    level: int = 1
    page_bytes: int = 1 << 16

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `pyarrow.parquet.ParquetWriter`."""
        return {
            "compression": "zstd",
            "compression_level": self.level,
            "use_dictionary": list(self.dictionary) or False,
            "column_encoding": dict(self.encodings) or None,
            "write_statistics": list(self.statistics) or False,
            "data_page_size": self.page_bytes,
        }


class Shard:
    """An open shard; created by `open_shard`."""

    def __init__(self, writer: pq.ParquetWriter, content: "ContentHash") -> None:
        self.rows = 0
        self._writer, self._content = writer, content
        self._record: ShardRecord | None = None

    def write(self, table: pa.Table) -> None:
        """Appends `table` as one row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._content.update(table)
        self.rows += table.num_rows

    @property
    def record(self) -> ShardRecord:
        """The shard's record for the manifest; available only after the block."""
        assert self._record is not None, "the shard is still open"
        return self._record


@contextmanager
def open_shard(
    folder: Location, path: str, *, split: str, stratum: str, layout: Layout, former: bool = False
) -> Iterator[Shard]:
    """Writes a shard at `folder / path`, which appears, synced, only if the block succeeds.

    `former` is passed to `ContentHash`.
    """
    with (folder / path).staged() as staged:
        content = ContentHash(layout.schema, former=former)
        with pq.ParquetWriter(staged, layout.schema, **layout.options()) as parquet:
            shard = Shard(parquet, content)
            yield shard
        size, sha256 = staged.stat().st_size, file_hash(LocalLocation(staged))
        shard._record = ShardRecord(path, split, stratum, shard.rows, size, sha256, content.hexdigest())


def file_hash(location: Location) -> str:
    """SHA-256 of a file's bytes."""
    with location.opened(whole=True) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ContentHash:
    """XXH3 (128 bits) over the values of a table, column by column, independent of how the rows are divided.

    It tests whether two shards hold the same values, whatever wrote them; the file's SHA-256 protects the bytes on
    disk. A string column is hashed as its lengths (int32) and its bytes, a numeric column as its little-endian memory.
    A null counts as zero. A numeric column with nulls also hashes one validity byte per row.

    `former` selects the hash of schema version 2. It has validity bytes only for chunks with a null, so it depends on
    how the rows are divided into chunks.
    """

    def __init__(self, schema: pa.Schema, *, former: bool = False) -> None:
        self._columns = {name: (xxhash.xxh3_128(), xxhash.xxh3_128()) for name in schema.names}
        self._former, self._rows, self._with_nulls = former, 0, set[str]()

    def update(self, table: pa.Table) -> None:
        """Adds the rows of `table`."""
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
        """Hash of all rows added so far."""
        total = xxhash.xxh3_128()
        for name, (values, lengths) in self._columns.items():
            total.update(name.encode() + b"\0" + values.digest() + lengths.digest())
        return total.hexdigest()
