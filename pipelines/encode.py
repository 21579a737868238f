"""A corpus's text to fixed-width rows of token ids, shard by shard, as Parquet that DuckDB streams.

The ids are looked up in one table; on a sample of every shard they are compared with
SentencePiece's own, and a difference stops the work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.tokenizer import BLANK, EQUALS, PAD, Tokenizer, TokenLayout
from storage.columns import fixed_width_array, string_buffers
from storage.errors import RunFailure
from storage.location import Location
from storage.manifest import ShardRecord
from storage.shard import Layout, file_hash, open_shard

ENCODER_VERSION = 2
TOKENS = "tokens"

_TEXT = ("problem", "answer")
_SAMPLE_ROWS = 200
_ROW_GROUP = 1 << 16
# Characters of a block, which then fits the cache: twice as fast as a whole row group of long rows.
_BLOCK_CHARACTERS = 1 << 21

# Bytes that no problem holds stand for the special pieces while a row is still text.
_PAD_BYTE, _BLANK_BYTE = b"\x01", b"\x02"


@dataclass(frozen=True)
class EncodeTask:
    """One corpus shard to encode."""

    number: int
    shard: ShardRecord
    shard_path: str

    @property
    def paths(self) -> list[str]:
        """The shard that this task writes."""
        return [self.shard_path]

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return self.shard.rows


@dataclass(frozen=True)
class EncodeJob:
    """What all tasks of one encoding share."""

    corpus: Location
    folder: Location
    tokenizer: Tokenizer
    layouts: dict[str, TokenLayout]


def encode_tasks(shards: tuple[ShardRecord, ...]) -> list[EncodeTask]:
    """One task a shard, in the manifest's order."""
    return [EncodeTask(number, shard, shard.path.removeprefix("data/")) for number, shard in enumerate(shards)]


def encode_shard(job: EncodeJob, task: EncodeTask) -> list[ShardRecord]:
    """Encode one shard; raises `RunFailure` if it is damaged or the ids differ from SentencePiece's."""
    pa.set_cpu_count(1)
    source = job.corpus / task.shard.path
    if source.size() != task.shard.bytes or file_hash(source) != task.shard.sha256:
        raise RunFailure(
            f"shard {source} is missing or damaged: delete it and run the 'numerate corpus generate' that made it "
            "again, it makes that shard anew"
        )
    with pq.ParquetFile(source.path) as parquet:
        tokens_layout = job.layouts[task.shard.stratum]
        layout = shard_layout(parquet.schema_arrow, tokens_layout)
        samples = _SAMPLE_ROWS // parquet.num_row_groups + 1
        with open_shard(
            job.folder, task.shard_path, split=task.shard.split, stratum=task.shard.stratum, layout=layout
        ) as shard:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, use_threads=False)
                encoded = pa.concat_tables(_encoded_blocks(table, job.tokenizer, tokens_layout, samples))
                for first in range(0, encoded.num_rows, _ROW_GROUP):
                    shard.writer.write(encoded.slice(first, _ROW_GROUP))
    lengths = {"problem_length": task.shard.problem_length, "answer_digits": task.shard.answer_digits}
    return [shard.record.model_copy(update=lengths)]


def _encoded_blocks(table: pa.Table, tokenizer: Tokenizer, layout: TokenLayout, samples: int) -> Iterator[pa.Table]:
    """The table with tokens for text, a block at a time; about `samples` rows of it are compared."""
    step = max(1, _BLOCK_CHARACTERS // layout.width)
    for first in range(0, table.num_rows, step):
        block = table.slice(first, step)
        tokens = encode_rows(block, tokenizer, layout)
        _compare(block, tokens, samples * block.num_rows // table.num_rows + 1, tokenizer, layout)
        yield with_tokens(block, tokens)


def with_tokens(table: pa.Table, tokens: np.ndarray) -> pa.Table:
    """The table's columns without its text, and its rows of tokens behind them."""
    field = pa.field(TOKENS, pa.binary(tokens.shape[1]), nullable=False)
    return table.drop_columns(list(_TEXT)).append_column(field, fixed_width_array(tokens))


def shard_layout(source: pa.Schema, tokens: TokenLayout) -> Layout:
    """Schema and Parquet choices of a token shard: all columns but text, and the row of tokens."""
    kept = [field for field in source if field.name not in _TEXT]
    return Layout(
        pa.schema([*kept, pa.field(TOKENS, pa.binary(tokens.width), nullable=False)]),
        dictionary=tuple(field.name for field in kept if field.name not in ("id", "negative")),
        encodings={"id": "DELTA_BINARY_PACKED"},
        # Zstandard is nearly twice as fast on pages above 256 KiB as on smaller ones.
        page_bytes=1 << 19,
    )


def encode_rows(table: pa.Table, tokenizer: Tokenizer, layout: TokenLayout) -> np.ndarray:
    """Token ids, uint8 [n, width], of a table with the columns `problem` and `answer`.

    Raises `RunFailure` where a row is wider than the layout.
    """
    problem, answer = (table.column(name).combine_chunks() for name in _TEXT)
    negative = pc.starts_with(answer, "-")
    if pc.any(negative).as_py():
        sign: np.ndarray | int = np.where(negative.to_numpy(zero_copy_only=False), ord("-"), _BLANK_BYTE[0])
        answer = pc.ascii_ltrim(answer, characters="-")
    else:
        sign = _BLANK_BYTE[0]
    buffer = bytearray(table.num_rows * layout.width)
    characters = np.frombuffer(buffer, np.uint8).reshape(table.num_rows, layout.width)
    characters[:, : layout.problem] = _right_aligned(problem, layout.problem, _PAD_BYTE)
    characters[:, layout.problem] = ord(EQUALS)
    characters[:, layout.problem + 1] = sign
    characters[:, layout.problem + 2 :] = _right_aligned(answer, layout.answer - 1, _BLANK_BYTE)
    ids = bytearray(tokenizer.character_ids())
    ids[_PAD_BYTE[0]] = tokenizer.id_of(PAD)
    ids[_BLANK_BYTE[0]] = tokenizer.id_of(BLANK)
    return np.frombuffer(buffer.translate(bytes(ids)), np.uint8).reshape(characters.shape)


def _right_aligned(text: pa.Array, width: int, filler: bytes) -> np.ndarray:
    """Characters, uint8 [n, width], of strings [n], behind as much of `filler` as each needs."""
    data, offsets = string_buffers(text)
    if len(data) != len(text) * width or (np.diff(offsets) != width).any():
        text = pc.ascii_lpad(text, width, filler.decode())
        data, offsets = string_buffers(text)
        if (np.diff(offsets) != width).any():
            raise RunFailure(f"a text is longer than the {width} tokens that the layout gives it")
    return data.reshape(len(text), width)


def _compare(table: pa.Table, tokens: np.ndarray, size: int, tokenizer: Tokenizer, layout: TokenLayout) -> None:
    """Raise `RunFailure` if `size` rows, spread over the table, differ from what SentencePiece makes of them."""
    rows = np.unique(np.linspace(0, len(tokens) - 1, size).astype(np.intp))
    sample = table.select(_TEXT).take(rows)
    for row, problem, answer in zip(rows, *(sample.column(name).to_pylist() for name in _TEXT), strict=True):
        expected = [*tokenizer.row(problem, layout)[: layout.problem + 1]]
        expected += tokenizer.slots(answer, layout)
        if expected != tokens[row].tolist():
            raise RunFailure(f"the ids of {problem}={answer} differ from SentencePiece's: report this as a bug")
