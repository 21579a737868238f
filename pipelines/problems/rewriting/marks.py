"""States of a rewriting: expressions with signs and redundant brackets anywhere, whose answers are marks.

The trees are those of `pipelines.problems.expression`. Every leaf and node can also have brackets that it does not
need, minuses before brackets, and chains of minuses. Some rows are a single number. No minus is directly before a zero.
`pipelines.problems.rewriting.mark_rules` defines the operations that an answer marks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import Flags, digit_counts
from pipelines.problems.expression import DrawnNodes, Expressions, Openings, Rows, Small
from pipelines.problems.family import Arrays, Block, layout_for, schema_of, with_text_operators
from pipelines.problems.rewriting.mark_rules import marks_and_counts
from pipelines.problems.text import decimal_text
from pipelines.spec.corpus import LONGEST_CHAIN, MOST_BRACKETS, ProblemSpec
from pipelines.split.canonical import Canonical
from storage.order import UInt64s, derive_key, mix64

# Columns that only this family has.
_MARK_COLUMNS = {"value": pa.string(), "marked": pa.int32(), "signs": pa.int32(), "finished": pa.bool_()}

# Shares of rows, of 1,024: a single literal, and a single number with more around it.
_FINISHED, _LONE = 31, 20
# Shares of rows, of 256: without minuses, with many of them, and with redundant brackets.
_UNSIGNED, _RICH, _LOOSE = 77, 68, 100
# Shares of the leaves and nodes, of 256: with a minus in rows with few and with many, and with redundant brackets.
_FEW_SIGNS, _MANY_SIGNS, _BRACKETS = 16, 102, 56
# One number in this many has the fewest digits.
_SHORT_ONE_IN = 3
# Share of the chains that have more than 1, 2 … minuses, of 256: most are short, and all lengths occur.
_LONGER_CHAINS = (64, 24, 14, 9, 5, 2)
assert len(_LONGER_CHAINS) == LONGEST_CHAIN - 1
# Minuses of a chain, by a random byte.
_CHAINS = (1 + (np.arange(256)[:, None] < _LONGER_CHAINS).sum(1)).astype(np.uint8)

Codes = NDArray[np.uint16]


class _Rates(NamedTuple):
    """How often the leaves and nodes of each row have minuses and redundant brackets, shares of 256, [n]."""

    signs: Small
    brackets: Small


class _Bytes:
    """Independent random bytes of one leaf or node in each row, each [n]."""

    def __init__(self, bits: UInt64s) -> None:
        columns = bits.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8).T
        self.sign, self.chain, self.bracket, self.more, self.outer, self.outer_chain, self.between, self.choice = (
            columns
        )


class Wrapping(NamedTuple):
    """Minuses and brackets around one leaf or node in each row, uint8 [n].

    In the order of the text: `outer` minuses, a bracket, `between` minuses, the other brackets, `inner` minuses. Only
    a leaf has `inner` minuses, and only a wrapping with brackets has others.
    """

    brackets: Small
    outer: Small
    between: Small
    inner: Small

    @property
    def codes(self) -> Codes:
        """Indices into the tables of wrappings."""
        high = self.brackets.astype(np.uint16) << _BRACKET_BITS
        return high + (self.outer << _OUTER_BITS) + (self.between << _BETWEEN_BIT) + self.inner


def _text(code: int) -> str:
    """The characters before the leaf or node."""
    brackets, outer = code >> _BRACKET_BITS, code >> _OUTER_BITS & _CHAIN
    between, inner = code >> _BETWEEN_BIT & 1, code & _CHAIN
    groups = ["-" * outer, "-" * between, ""][:brackets]
    return "".join(f"{minuses}(" for minuses in groups) + "-" * inner


# The bits of a chain, and where the other parts of a code begin.
_BETWEEN_BIT = LONGEST_CHAIN.bit_length()
_CHAIN, _OUTER_BITS, _BRACKET_BITS = (1 << _BETWEEN_BIT) - 1, _BETWEEN_BIT + 1, 2 * _BETWEEN_BIT + 1
_TEXTS = [_text(code).encode() for code in range((MOST_BRACKETS + 1) << _BRACKET_BITS)]
_WIDEST = max(map(len, _TEXTS))
_CHARACTERS = np.array(_TEXTS, f"S{_WIDEST}").view(np.uint8).reshape(-1, _WIDEST)
_LENGTHS = np.array([*map(len, _TEXTS)], np.uint8)
# With the closing brackets.
_BOTH_LENGTHS = _LENGTHS + np.array([text.count(b"(") for text in _TEXTS], np.uint8)
_SIGNS = np.array([text.count(b"-") for text in _TEXTS], np.uint8)


class Marks(Expressions):
    """Rows of expressions as they occur while they are rewritten, with the marks of the next operations."""

    _node_fields: Mapping[str, type[np.generic]] = {"bracket": np.uint8, "minus": np.bool_, "wrapping": np.uint16}

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        super().__init__(spec, canonical, key, rows)
        self._has_minus = "-" in spec.operators
        counts = np.arange(1, spec.terms - spec.min_terms + 2) ** 2
        # The number of leaves by its place on a scale, on which larger numbers have larger shares.
        self._term_counts = np.repeat(np.arange(spec.min_terms, spec.terms + 1), counts)
        schema = schema_of({})
        schema = with_text_operators(schema.remove(schema.names.index("carries")))
        for name, kind in _MARK_COLUMNS.items():
            schema = schema.append(pa.field(name, kind, nullable=False))
        self.layout = layout_for(schema, {"value": "DELTA_LENGTH_BYTE_ARRAY"})

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions`, with the arrays of `Expressions.problems`, and in addition:

        `wrapping` [leaves − 1, n] of the nodes and `leaf_wrapping` [leaves, n], as codes of `Wrapping`; `extra`
        characters around operands and `signs` [1, n]. `bracket` counts brackets.
        """
        block = super().problems(positions)
        codes = np.concatenate([block["wrapping"], block["leaf_wrapping"]])
        extra = _BOTH_LENGTHS.take(codes).sum(0, dtype=np.int32)
        signs = _SIGNS.take(codes).sum(0, dtype=np.int32)
        return Block({**block.arrays, "extra": extra[None], "signs": signs[None]})

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        digits = problems["lengths"].sum(0, dtype=np.int32)
        return digits + problems["terms"][0] + problems["extra"][0] - np.int32(1)

    def _columns(self, problems: Block) -> dict[str, Any]:
        magnitudes, negative = self.answers(problems)
        text = self._problem_text(problems)
        marks, marked = marks_and_counts(text, self.spec.whole_brackets)
        return {
            "problem": text,
            "answer": marks,
            "answer_digits": self.text_lengths(problems),
            "negative": np.zeros(problems.rows, np.bool_),
            **self._shape_columns(problems),
            "value": decimal_text(magnitudes, digit_counts(magnitudes), negative),
            "marked": marked,
            "signs": problems["signs"][0],
            "finished": marked == 0,
        }

    def _terms(self, seeds: UInt64s) -> NDArray[np.int64]:
        scale = np.uint64(len(self._term_counts))
        places = (seeds >> np.uint64(40)) * scale >> np.uint64(24)
        kind = _kind(seeds)
        return np.where(kind < _FINISHED + _LONE, 1, self._term_counts.take(places.astype(np.intp)))

    def _lengths(self, seeds: UInt64s, leaf: int) -> NDArray[np.int64]:
        least, most = self.spec.min_digits, self.spec.digits
        if least == most:
            return np.full(len(seeds), most)
        spread = self._spread(seeds, "length", leaf, 0, _SHORT_ONE_IN * (most - least) - 1)
        # A third of the scale is for the fewest digits, the rest is divided equally between the others.
        return np.where(spread < most - least, least, least + 1 + (spread - (most - least)) // (_SHORT_ONE_IN - 1))

    def _wrapped(self, nodes: DrawnNodes, deep: bool) -> Arrays:
        rates, chance = self._rates(nodes.row_seeds), _Bytes(mix64(nodes.seed))
        room = np.uint8(self.spec.depth) - nodes.around
        # A minus needs a bracket here, so it is less frequent than before a leaf.
        signed = (chance.sign < rates.signs >> 1) & (room > 0)
        least = (nodes.is_sum & (nodes.tight > 0) | signed).view(np.uint8)
        wrapping = _wrapping(chance, rates, least, room, signed, np.zeros_like(room))
        codes = wrapping.codes
        return {"bracket": wrapping.brackets, "minus": (_SIGNS.take(codes) & 1).view(np.bool_), "wrapping": codes}

    def _sign(self, block: Arrays, seeds: UInt64s) -> None:
        """Draws what is around the leaves: `leaf_wrapping` and `turned` [leaves, n]; updates `depth`."""
        rates, terms = self._rates(seeds), block["terms"][0]
        signed = (seeds >> np.uint64(26) & np.uint64(0x3FFF)) * terms >> np.uint64(14)
        block["leaf_wrapping"] = np.zeros((self.spec.terms, len(seeds)), np.uint16)
        opened, closed = self._node_openings(block), super()._closings(Block(block))
        around, deepest = np.zeros(len(seeds), np.uint8), block["depth"][0].copy()
        for leaf in range(self.spec.terms):
            chance = _Bytes(mix64(seeds + np.uint64(derive_key(self._key, "wrapping", leaf))))
            around += opened[leaf]
            there = terms > leaf
            nonzero = (block["lengths"][leaf] > 1) | (block["limbs"][leaf * self._limbs] > 0)
            # Rows with minuses have one before at least one leaf.
            some = (chance.sign < rates.signs) | (signed == leaf) & (rates.signs > 0)
            inner = _chain(some & nonzero, chance.chain)
            room = np.uint8(self.spec.depth) - around
            wrapping = _wrapping(chance, rates, np.zeros_like(room), room, np.zeros_like(there), inner)
            codes = wrapping.codes * there
            if leaf == 0:
                self._wrap_single_numbers(codes, seeds, chance, nonzero)
            block["leaf_wrapping"][leaf] = codes
            np.maximum(deepest, around + (codes >> _BRACKET_BITS).astype(np.uint8), out=deepest)
            around -= closed[leaf]
        block["depth"] = deepest[None]
        block["turned"] = (_SIGNS.take(block["leaf_wrapping"]) & 1).view(np.bool_)

    def _wrap_single_numbers(self, codes: Codes, seeds: UInt64s, chance: _Bytes, nonzero: Flags) -> None:
        """Replaces the wrappings in rows of one number, so that they are finished or not, as drawn."""
        kind = _kind(seeds)
        finished = np.flatnonzero(kind < _FINISHED)
        signed = nonzero.take(finished) & (chance.choice.take(finished) < 128)
        codes[finished] = signed & self._has_minus
        lone = np.flatnonzero((kind >= _FINISHED) & (kind < _FINISHED + _LONE))
        has_sign = nonzero.take(lone) & self._has_minus
        bracket = (codes.take(lone) < 1 << _BRACKET_BITS) & (self.spec.depth > 0)
        bracket &= ~has_sign | (chance.choice.take(lone) < 128) | (self._rates(seeds.take(lone)).signs == 0)
        added = codes.take(lone) + (bracket << np.uint16(_BRACKET_BITS))
        # Two minuses are not finished either.
        codes[lone] = np.where((added < 1 << _BRACKET_BITS) & has_sign, np.maximum(added, 2), added)

    def _rates(self, seeds: UInt64s) -> _Rates:
        kind, loose = seeds.astype(np.uint8), (seeds >> np.uint64(8)).astype(np.uint8) < _LOOSE
        signs = np.where(kind >= 256 - _RICH, np.uint8(_MANY_SIGNS), np.uint8(_FEW_SIGNS))
        return _Rates(signs * ((kind >= _UNSIGNED) & self._has_minus), loose * np.uint8(_BRACKETS))

    def _node_openings(self, block: Arrays) -> Small:
        """Number of brackets of nodes that open before each leaf, [leaves, n]."""
        opened = np.zeros((self.spec.terms, block["bracket"].shape[1]), np.uint8)
        for node in range(self.spec.terms - 1):
            rows = np.flatnonzero(block["bracket"][node])
            opened[block["first"][node].take(rows), rows] += block["bracket"][node].take(rows)
        return opened

    @property
    def _opening_room(self) -> int:
        # A node's first bracket can have a chain of minuses, and so can a leaf.
        return (1 + LONGEST_CHAIN) * self.spec.depth + LONGEST_CHAIN

    def _write_openings(self, problems: Block, openings: Openings) -> None:
        for node in range(self.spec.terms - 1):
            rows = np.flatnonzero(problems["wrapping"][node])
            _write_texts(problems["wrapping"][node].take(rows), rows, problems["first"][node].take(rows), openings)
        for leaf in range(self.spec.terms):
            rows = np.flatnonzero(problems["leaf_wrapping"][leaf])
            _write_texts(problems["leaf_wrapping"][leaf].take(rows), rows, leaf, openings)

    def _closings(self, problems: Block) -> Small:
        return super()._closings(problems) + (problems["leaf_wrapping"] >> _BRACKET_BITS).astype(np.uint8)


def _kind(seeds: UInt64s) -> NDArray[np.uint16]:
    """Numbers below 1,024 that select the rows of a single number, [n]."""
    return (seeds >> np.uint64(16)).astype(np.uint16) & np.uint16(1023)


def _chain(some: Flags, chance: Small) -> Small:
    """Numbers of minuses, 1 to `LONGEST_CHAIN` where `some` and otherwise 0."""
    return some * _CHAINS.take(chance)


def _wrapping(chance: _Bytes, rates: _Rates, least: Small, room: Small, signed: Flags, inner: Small) -> Wrapping:
    """Draws what is around leaves or nodes: at least `least` brackets, at most `room`, and minuses where `signed`."""
    redundant = (chance.bracket < rates.brackets) * (np.uint8(1) + (chance.more < 80) + (chance.more < 32))
    brackets = np.minimum(least + redundant, np.minimum(room, np.uint8(MOST_BRACKETS)))
    outer = _chain((signed | (chance.outer < rates.signs)) & (brackets > 0), chance.outer_chain)
    between = (chance.between < rates.signs) & (brackets > 1)
    return Wrapping(brackets, outer, between.view(np.uint8), inner)


def _write_texts(codes: Codes, rows: Rows, leaves: NDArray[np.integer] | int, openings: Openings) -> None:
    """Writes the wrappings with these codes before the leaves of `rows`, each [n]."""
    lengths = _LENGTHS.take(codes)
    places = openings.reserve(rows, leaves, lengths)
    for number in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > number)
        openings.characters[places.take(longer) + number] = _CHARACTERS[codes.take(longer), number]
