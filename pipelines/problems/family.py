"""The interface of every problem family: blocks of problems from row positions, and their columns.

All methods are vectorised over a block and pure. The result for a row does not depend on its block.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS, Flags, Limbs, digit_counts, limb_count
from pipelines.problems.text import decimal_text
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical
from storage.datasets.shard import Layout
from storage.order import UInt64s, derive_key, mix64

Arrays = dict[str, NDArray[Any]]

# Columns that describe a problem. Integers are wide, because SQL adds values in the column's type.
FACTS = {
    "operators": pa.dictionary(pa.int32(), pa.string()),
    "terms": pa.int32(),
    "digits": pa.int32(),
    "answer_digits": pa.int32(),
    "carries": pa.int32(),
    "depth": pa.int32(),
    "negative": pa.bool_(),
}


@dataclass(frozen=True)
class Block:
    """A block of n problems as named arrays, each with the rows on its last axis."""

    arrays: Arrays

    @property
    def rows(self) -> int:
        return int(next(iter(self.arrays.values())).shape[-1])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def take(self, rows: NDArray[np.integer]) -> "Block":
        return Block({name: array.take(rows, axis=-1) for name, array in self.arrays.items()})

    @staticmethod
    def concatenate(blocks: Sequence["Block"]) -> "Block":
        if len(blocks) == 1:
            return blocks[0]
        names = blocks[0].arrays
        return Block({name: np.concatenate([block[name] for block in blocks], axis=-1) for name in names})


class Family(ABC):
    """One family of problems with its parameters; `key` gives the order of its `rows` problems."""

    layout: Layout
    """Schema and Parquet options of its shards."""

    block_rows: int
    """Rows of a block whose arrays fit in the cache."""

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        self.spec = spec
        self._canonical = canonical
        self._key = key
        self._limbs = limb_count(spec.digits)

    @abstractmethod
    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions` [n] of the permuted order."""

    @abstractmethod
    def canonical(self, problems: Block) -> UInt64s:
        """Hashes of the canonical forms, uint64 [n]; equal for all orders of a sum or a product."""

    @abstractmethod
    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        """Characters of each problem [n], or one upper bound if all problems have the same width class."""

    def table(self, ids: UInt64s, problems: Block) -> pa.Table:
        """The corpus columns for a block; `ids` [n]."""
        return pa.table({"id": ids.view(np.int64), **self._columns(problems)}, schema=self.layout.schema)

    def _operand(self, problems: Block, number: int) -> NDArray[np.uint32]:
        """Limbs [limbs, n] of one operand, if the block has `limbs` [operands · limbs, n]."""
        limbs: NDArray[np.uint32] = problems["limbs"][number * self._limbs : (number + 1) * self._limbs]
        return limbs

    @abstractmethod
    def _columns(self, problems: Block) -> dict[str, Any]:
        """All corpus columns except `id`: numpy or Arrow arrays [n] by name."""


def answer_columns(magnitudes: Limbs, negative: Flags) -> dict[str, Any]:
    """The columns that describe answers, from the limbs of their magnitudes and their signs, each [n]."""
    counts = digit_counts(magnitudes)
    return {"answer": decimal_text(magnitudes, counts, negative), "answer_digits": counts, "negative": negative}


def schema_of(numbers: dict[str, pa.DataType]) -> pa.Schema:
    """The columns of a family: id, its numbers, the texts, and `FACTS`."""
    types = {"id": pa.int64(), **numbers, "problem": pa.string(), "answer": pa.string(), **FACTS}
    return pa.schema([pa.field(name, kind, nullable=name == "carries") for name, kind in types.items()])


def with_text_operators(schema: pa.Schema) -> pa.Schema:
    """The schema with `operators` as plain text, for families with too many patterns for a dictionary."""
    return schema.set(schema.names.index("operators"), pa.field("operators", pa.string(), nullable=False))


def layout_for(schema: pa.Schema, encodings: Mapping[str, str] | None = None, page_bytes: int = 1 << 19) -> Layout:
    """Parquet options: delta-encoded ids, length-encoded text, and dictionaries for the rest.

    `encodings` overrides single columns; an empty value selects a dictionary. Long texts are smaller and faster to
    write in large pages; the texts of a grid are not.
    """
    chosen = {"id": "DELTA_BINARY_PACKED", **dict.fromkeys(("problem", "answer"), "DELTA_LENGTH_BYTE_ARRAY")}
    chosen = {name: encoding for name, encoding in {**chosen, **(encodings or {})}.items() if encoding}
    dictionary = tuple(name for name in schema.names if name not in chosen and schema.field(name).type != pa.bool_())
    return Layout(schema, dictionary=dictionary, encodings=chosen, page_bytes=page_bytes)


def pattern_column(codes: NDArray[np.integer] | int, patterns: list[str], rows: int) -> pa.Array:
    """Text with few distinct values as a dictionary array [rows]; `codes` are indices into `patterns`."""
    indices = np.full(rows, codes, np.int32) if isinstance(codes, int) else codes.astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(patterns, pa.string()))


def random_limbs(
    seeds: UInt64s, key: int, lengths: NDArray[np.integer], size: int, skipped: int = 0
) -> Iterator[tuple[int, UInt64s]]:
    """Yields the limbs of random numbers of `lengths` [n] digits, lowest first, each with its index, up to `size`.

    Zero is a one-digit number. The lowest `skipped` limbs are left out.
    """
    fewest = int(lengths.min(initial=size * LIMB_DIGITS))
    for number in range(skipped, size):
        # Eight digits use half of a hash.
        if number % 2 == 0 or number == skipped:
            bits = mix64(seeds + np.uint64(derive_key(key, number // 2 * 2)))
        half = bits & np.uint64(0xFFFFFFFF) if number % 2 else bits >> np.uint64(32)
        below = number * LIMB_DIGITS
        if fewest > below + LIMB_DIGITS:
            yield number, half * _POWERS[LIMB_DIGITS] >> np.uint64(32)
            continue
        shown = np.clip(lengths.astype(np.int32) - below, 0, LIMB_DIGITS)
        leading = (shown + below == lengths) & (shown > 0) & (lengths > 1)
        # The leading digit of a number is not zero.
        least = np.where(leading, _POWERS.take(np.maximum(shown - 1, 0)), np.uint64(0))
        yield number, (half * (_POWERS.take(shown) - least) >> np.uint64(32)) + least


_POWERS = np.array([10**power for power in range(LIMB_DIGITS + 1)], np.uint64)
