"""What every family of problems offers: blocks of problems from row positions, and their columns.

All methods are vectorised over a block, pure, and give the same for a row in whatever block
it stands.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS
from storage.datasets.shard import Layout
from storage.order import UInt64s, derive_key, mix64

Arrays = dict[str, NDArray[Any]]

# What every row says of itself besides problem and answer; wide integers, as SQL adds in their own type.
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
    """A block of n problems as named arrays, each with its rows on the last axis."""

    arrays: Arrays

    @property
    def rows(self) -> int:
        """Number of problems."""
        return int(next(iter(self.arrays.values())).shape[-1])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def take(self, rows: NDArray[np.integer]) -> "Block":
        """The problems at `rows`, in their order."""
        return Block({name: array.take(rows, axis=-1) for name, array in self.arrays.items()})

    @staticmethod
    def concatenate(blocks: Sequence["Block"]) -> "Block":
        """All blocks, one behind the other."""
        if len(blocks) == 1:
            return blocks[0]
        names = blocks[0].arrays
        return Block({name: np.concatenate([block[name] for block in blocks], axis=-1) for name in names})


class Family(Protocol):
    """One family of problems with its parameters."""

    @property
    def layout(self) -> Layout:
        """Schema and Parquet choices of its shards."""
        ...

    @property
    def block_rows(self) -> int:
        """Rows of a block whose arrays fit the cache."""
        ...

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions` [n] of the permuted order."""
        ...

    def canonical(self, problems: Block) -> UInt64s:
        """Hashes of the canonical forms, uint64 [n]; equal for all orders of a sum or a product."""
        ...

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        """Characters of each problem [n], or one number that none exceeds where their width class is the same."""
        ...

    def table(self, ids: UInt64s, problems: Block) -> pa.Table:
        """The corpus's columns for a block, `ids` [n]."""
        ...


def schema_of(numbers: dict[str, pa.DataType]) -> pa.Schema:
    """The columns of a family: id, its numbers, the text, and the facts."""
    types = {"id": pa.int64(), **numbers, "problem": pa.string(), "answer": pa.string(), **FACTS}
    return pa.schema([pa.field(name, kind, nullable=name == "carries") for name, kind in types.items()])


def layout_for(schema: pa.Schema, encodings: Mapping[str, str] | None = None, page_bytes: int = 1 << 19) -> Layout:
    """Parquet choices: ids by differences, text by lengths, the rest by dictionary.

    `encodings` names others; an empty one means by dictionary. Long texts are smaller and faster
    to write in large pages, those of a grid are not.
    """
    chosen = {"id": "DELTA_BINARY_PACKED", **dict.fromkeys(("problem", "answer"), "DELTA_LENGTH_BYTE_ARRAY")}
    chosen = {name: encoding for name, encoding in {**chosen, **(encodings or {})}.items() if encoding}
    dictionary = tuple(name for name in schema.names if name not in chosen and name != "negative")
    return Layout(schema, dictionary=dictionary, encodings=chosen, page_bytes=page_bytes)


def pattern_column(codes: NDArray[np.integer] | int, patterns: list[str], rows: int) -> pa.Array:
    """Text that takes few values, as a dictionary array [rows]; `codes` number the patterns."""
    indices = np.full(rows, codes, np.int32) if isinstance(codes, int) else codes.astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(patterns, pa.string()))


def random_limbs(
    seeds: UInt64s, key: int, lengths: NDArray[np.integer], size: int, skipped: int = 0
) -> Iterator[tuple[int, UInt64s]]:
    """The limbs of random numbers of `lengths` [n] digits, the lowest first, each with its place, up to `size`.

    Zero is a number of one digit. The lowest `skipped` limbs are left out.
    """
    fewest = int(lengths.min(initial=size * LIMB_DIGITS))
    for number in range(skipped, size):
        # Eight digits take half of a hash.
        if number % 2 == 0 or number == skipped:
            bits = mix64(seeds + np.uint64(derive_key(key, number // 2 * 2)))
        half = bits & np.uint64(0xFFFFFFFF) if number % 2 else bits >> np.uint64(32)
        below = number * LIMB_DIGITS
        if fewest > below + LIMB_DIGITS:
            yield number, half * _POWERS[LIMB_DIGITS] >> np.uint64(32)
            continue
        shown = np.clip(lengths.astype(np.int32) - below, 0, LIMB_DIGITS)
        leading = (shown + below == lengths) & (shown > 0) & (lengths > 1)
        # The highest digit of a number is not zero.
        least = np.where(leading, _POWERS.take(np.maximum(shown - 1, 0)), np.uint64(0))
        yield number, (half * (_POWERS.take(shown) - least) >> np.uint64(32)) + least


_POWERS = np.array([10**power for power in range(LIMB_DIGITS + 1)], np.uint64)
