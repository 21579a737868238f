"""Encodes a corpus's text as fixed-width rows of token ids, shard by shard, as Parquet that DuckDB can stream.

With one token per character, one table maps characters to ids; `pipelines.tokens.pieces` handles all other tokens. On a
sample of every shard the ids are compared with SentencePiece's own, and a difference stops the run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.tokenizer import BLANK, EQUALS, PAD, Tokenizer, TokenLayout
from pipelines.tokens.pieces import pieces_of
from storage.datasets.arrow_buffers import fixed_width_array, string_buffers
from storage.datasets.manifest import ShardRecord
from storage.datasets.shard import Layout, open_shard
from storage.errors import RunFailure
from storage.places.place import Location

ENCODER_VERSION = 2
TOKENS = "tokens"

_TEXT = ("problem", "answer")
_SAMPLE_ROWS = 200
_ROW_GROUP = 1 << 16
# Characters of a block that fits in the cache: twice as fast as a whole row group of long rows.
_BLOCK_CHARACTERS = 1 << 21

# Bytes that occur in no problem represent the special pieces while a row is still text.
_PAD_BYTE, _BLANK_BYTE = b"\x01", b"\x02"


@dataclass(frozen=True)
class EncodeTask:
    """One corpus shard to encode."""

    number: int
    shard: ShardRecord

    @property
    def paths(self) -> list[str]:
        return [self.shard.path.removeprefix("data/")]

    @property
    def rows(self) -> int:
        return self.shard.rows


@dataclass(frozen=True)
class EncodeJob:
    """The common values of all tasks of one encoding."""

    corpus: Location
    folder: Location
    tokenizer: Tokenizer
    layouts: dict[str, TokenLayout]
    former: bool = False
    """Passed to the shards' `ContentHash`."""


def encode_tasks(shards: tuple[ShardRecord, ...]) -> list[EncodeTask]:
    """One task per shard, in the manifest's order."""
    return [EncodeTask(number, shard) for number, shard in enumerate(shards)]


def encode_shard(job: EncodeJob, task: EncodeTask) -> list[ShardRecord]:
    """Encodes one shard; raises `RunFailure` if it is damaged or the ids differ from SentencePiece's."""
    source = task.shard
    with _opened(job.corpus, source) as parquet:
        tokens_layout = job.layouts[source.stratum]
        layout = shard_layout(parquet.schema_arrow, tokens_layout, job.tokenizer.id_type)
        samples = _SAMPLE_ROWS // parquet.num_row_groups + 1
        (path,) = task.paths
        with open_shard(
            job.folder, path, split=source.split, stratum=source.stratum, layout=layout, former=job.former
        ) as shard:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, use_threads=False)
                encoded = pa.concat_tables(_encoded_blocks(table, job.tokenizer, tokens_layout, samples))
                for first in range(0, encoded.num_rows, _ROW_GROUP):
                    shard.write(encoded.slice(first, _ROW_GROUP))
    return [shard.record._replace(problem_length=source.problem_length, answer_digits=source.answer_digits)]


def in_tokens(corpus: Location, tokenizer: Tokenizer, shard: ShardRecord) -> ShardRecord:
    """The record of a corpus shard with the lengths of its longest problem and answer in tokens, from one pass.

    Raises `RunFailure` if the shard is damaged.
    """
    longest = dict.fromkeys(_TEXT, 1)
    with _opened(corpus, shard) as parquet:
        for table in map(pa.table, parquet.iter_batches(_ROW_GROUP, columns=list(_TEXT), use_threads=False)):
            for name, text in (("problem", table["problem"]), ("answer", pc.ascii_ltrim(table["answer"], "-"))):
                _, counts = pieces_of(text.combine_chunks(), tokenizer)
                longest[name] = max(longest[name], int(counts.max()))
    return shard._replace(problem_length=longest["problem"], answer_digits=longest["answer"])


@contextmanager
def _opened(corpus: Location, shard: ShardRecord) -> Iterator[pq.ParquetFile]:
    pa.set_cpu_count(1)
    source = corpus / shard.path
    if source.size() == shard.bytes:
        with source.opened(whole=True) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                file.seek(0)
                yield pq.ParquetFile(file)
                return
    raise RunFailure(
        f"shard {source} is missing or damaged: delete it and run the same 'numerate corpus generate' command "
        "again to regenerate it"
    )


def _encoded_blocks(table: pa.Table, tokenizer: Tokenizer, layout: TokenLayout, samples: int) -> Iterator[pa.Table]:
    """Yields the table block by block with tokens instead of text; about `samples` rows are compared."""
    step = max(1, _BLOCK_CHARACTERS // layout.width)
    for first in range(0, table.num_rows, step):
        block = table.slice(first, step)
        tokens = encode_rows(block, tokenizer, layout)
        _compare(block, tokens, samples * block.num_rows // table.num_rows + 1, tokenizer, layout)
        yield with_tokens(block, tokens)


def with_tokens(table: pa.Table, tokens: np.ndarray) -> pa.Table:
    """The table's columns without its text, followed by the token rows."""
    values = tokens.view(np.uint8)
    field = pa.field(TOKENS, pa.binary(values.shape[1]), nullable=False)
    return table.drop_columns(list(_TEXT)).append_column(field, fixed_width_array(values))


def shard_layout(source: pa.Schema, tokens: TokenLayout, kind: np.dtype) -> Layout:
    """Schema and Parquet options of a token shard: all columns but the text, and a row of token ids of type `kind`."""
    kept = [field for field in source if field.name not in _TEXT]
    return Layout(
        pa.schema([*kept, pa.field(TOKENS, pa.binary(tokens.width * kind.itemsize), nullable=False)]),
        dictionary=tuple(field.name for field in kept if field.name != "id" and field.type != pa.bool_()),
        encodings={"id": "DELTA_BINARY_PACKED"},
        # Zstandard is nearly twice as fast on pages above 256 KiB as on smaller ones.
        page_bytes=1 << 19,
    )


def encode_rows(table: pa.Table, tokenizer: Tokenizer, layout: TokenLayout) -> np.ndarray:
    """Token ids [n, width], of the tokenizer's type, of a table with the columns `problem` and `answer`.

    Raises `RunFailure` if a row is wider than the layout.
    """
    problem, answer = (table.column(name).combine_chunks() for name in _TEXT)
    signs = pc.starts_with(answer, "-")
    negative: NDArray[np.bool_] | bool = False
    if pc.any(signs).as_py():
        negative = signs.to_numpy(zero_copy_only=False)
        answer = pc.ascii_ltrim(answer, characters="-")
    if tokenizer.group != 1:
        return _rows_of_pieces(problem, answer, negative, tokenizer, layout)
    buffer = bytearray(table.num_rows * layout.width)
    characters = np.frombuffer(buffer, np.uint8).reshape(table.num_rows, layout.width)
    characters[:, : layout.problem] = _right_aligned(problem, layout.problem, _PAD_BYTE)
    characters[:, layout.problem] = ord(EQUALS)
    characters[:, layout.problem + 1] = np.where(negative, ord("-"), _BLANK_BYTE[0])
    characters[:, layout.problem + 2 :] = _right_aligned(answer, layout.answer - 1, _BLANK_BYTE)
    ids = bytearray(tokenizer.character_ids())
    ids[_PAD_BYTE[0]] = tokenizer.id_of(PAD)
    ids[_BLANK_BYTE[0]] = tokenizer.id_of(BLANK)
    return np.frombuffer(buffer.translate(bytes(ids)), np.uint8).reshape(characters.shape)


def _rows_of_pieces(
    problem: pa.Array, answer: pa.Array, negative: NDArray[np.bool_] | bool, tokenizer: Tokenizer, layout: TokenLayout
) -> np.ndarray:
    """The result of `encode_rows` for pieces of several characters; `answer` has no sign."""
    blank = tokenizer.id_of(BLANK)
    rows = np.empty((len(problem), layout.width), tokenizer.id_type)
    _put_right_aligned(rows[:, : layout.problem], *pieces_of(problem, tokenizer), tokenizer.id_of(PAD))
    rows[:, layout.problem] = tokenizer.id_of(EQUALS)
    rows[:, layout.problem + 1] = np.where(negative, tokenizer.id_of("-"), blank)
    _put_right_aligned(rows[:, layout.problem + 2 :], *pieces_of(answer, tokenizer), blank)
    return rows


def _put_right_aligned(target: np.ndarray, ids: np.ndarray, counts: np.ndarray, filler: int) -> None:
    """Writes `counts` [n] ids into each row [n, width], after as many `filler` as needed."""
    width = target.shape[1]
    if (counts > width).any():
        raise RunFailure(f"a text has {counts.max()} tokens, more than the {width} of the layout")
    target[:] = filler
    target[np.arange(width) >= width - counts[:, None]] = ids


def _right_aligned(text: pa.Array, width: int, filler: bytes) -> np.ndarray:
    """Characters, uint8 [n, width], of strings [n], after as many `filler` as needed."""
    data, offsets = string_buffers(text)
    if len(data) != len(text) * width or (np.diff(offsets) != width).any():
        text = pc.ascii_lpad(text, width, filler.decode())
        data, offsets = string_buffers(text)
        if (np.diff(offsets) != width).any():
            raise RunFailure(f"a text is longer than the {width} tokens of the layout")
    return data.reshape(len(text), width)


def _compare(table: pa.Table, tokens: np.ndarray, size: int, tokenizer: Tokenizer, layout: TokenLayout) -> None:
    """Raises `RunFailure` if `size` rows, spread over the table, differ from SentencePiece's result."""
    rows = np.unique(np.linspace(0, len(tokens) - 1, size).astype(np.intp))
    sample = table.select(_TEXT).take(rows)
    for row, problem, answer in zip(rows, *(sample.column(name).to_pylist() for name in _TEXT), strict=True):
        expected = [*tokenizer.row(problem, layout)[: layout.problem + 1], *tokenizer.slots(answer, layout)]
        if expected != tokens[row].tolist():
            raise RunFailure(f"the ids of {problem}={answer} differ from SentencePiece's: report this as a bug")
