"""Expressions: random trees of +, −, × and unary minus, written without redundant brackets.

A row's tree is drawn from the root by a hash of its number: a node covers leaves [first, last), takes an operator and
splits them. Nodes are in pre-order, so children follow their parents: text is generated forwards, and values and
canonical hashes backwards. Row numbers do not enumerate problems, so short expressions repeat.

A subclass can draw other numbers of leaves, lengths, brackets and minuses, as the family of marks does.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS, Flags, carried, limb_count, limbs_of, multiplied
from pipelines.problems.family import (
    Arrays,
    Block,
    Family,
    answer_columns,
    layout_for,
    random_limbs,
    schema_of,
    with_text_operators,
)
from pipelines.problems.text import number_words
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical, Terms
from storage.datasets.arrow_buffers import blank_words, to_strings
from storage.order import UInt64s, derive_key, mix64

# One in this many leaves, and of the sums that can have one, has a unary minus.
_MINUS_ONE_IN = 8

Small = NDArray[np.uint8]
Rows = NDArray[np.intp]


class _Nodes(NamedTuple):
    """One node in each of n trees, with flat indices into [leaves, rows] of its operands' first leaves; arrays [n]."""

    first: Rows
    middle: Rows
    operator: Small
    minus: Flags


class DrawnNodes(NamedTuple):
    """Nodes that are being drawn, at most one in each row; arrays [n]."""

    row_seeds: UInt64s
    seed: UInt64s
    is_sum: Flags
    tight: Small
    """Whether a sum needs brackets."""
    around: Small
    """Number of brackets around the node, without its own."""


class Openings:
    """The characters before the leaves in the text of n rows, in which each leaf has `step` characters."""

    def __init__(self, characters: Small, leaves: int, step: int) -> None:
        self.characters, self._step = characters.reshape(-1), step
        self._used = np.zeros((len(characters), leaves), np.uint8)

    def reserve(self, rows: Rows, leaves: NDArray[np.integer] | int, counts: Small | int) -> Rows:
        """Indices into `characters` of the next `counts` characters before one leaf of each of these rows."""
        used = self._used.reshape(-1)
        leaf = rows * self._used.shape[1] + leaves
        places = (leaf * self._step + used.take(leaf)).astype(np.intp, copy=False)
        used[leaf] += np.asarray(counts, np.uint8)
        return places


class Expressions(Family):
    """Rows of expressions with up to `spec.terms` leaves and `spec.depth` nested brackets."""

    _node_fields: Mapping[str, type[np.generic]] = {"bracket": np.bool_, "minus": np.bool_}
    """What `_wrapped` draws around a node: at least its number of brackets, and whether it is negated."""

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        super().__init__(spec, canonical, key, rows)
        # No value exceeds the product of all leaves at their maximum; one more digit is for a carry.
        self._answer_digits = spec.terms * spec.digits + 1
        self._answer_limbs = limb_count(self._answer_digits) + 1
        self._small = self._answer_digits <= 18
        self._products = "*" in spec.operators
        words = spec.terms * (self._limbs + 4 + (1 if self._small else self._answer_limbs))
        self.block_rows = max(1 << 9, min(1 << 15, 1 << ((1 << 21) // words).bit_length() - 1))
        schema = schema_of({})
        self.layout = layout_for(with_text_operators(schema.remove(schema.names.index("carries"))))

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions`.

        For each leaf: `lengths` and `turned` [leaves, n], and `limbs` [leaves · limbs, n]. For each node in pre-order:
        `first`, `middle`, `last` (leaves), `operator`, `bracket` and `minus` [leaves − 1, n]. `gaps` [leaves − 1, n]
        are the operator characters between leaves; `terms` and `depth` are [1, n].
        """
        rows, leaves = len(positions), self.spec.terms
        seeds = mix64(positions * np.uint64(0x9E3779B97F4A7C15) + np.uint64(self._key))
        block: dict[str, NDArray[Any]] = {}
        terms = self._terms(seeds)
        block["lengths"] = np.empty((leaves, rows), np.uint8 if self.spec.digits < 256 else np.uint16)
        block["limbs"] = np.zeros((leaves * self._limbs, rows), np.uint32)
        for leaf in range(leaves):
            length = self._lengths(seeds, leaf)
            block["lengths"][leaf] = length * (leaf < terms)
            limbs = random_limbs(seeds, derive_key(self._key, "leaf", leaf), length, self._limbs)
            for number, limb in limbs:
                block["limbs"][leaf * self._limbs + number] = limb
        self._grow(block, seeds, terms)
        block["terms"] = terms[None].astype(np.uint8)
        self._sign(block, seeds)
        return Block(block)

    def canonical(self, problems: Block) -> UInt64s:
        leaves = []
        for leaf in range(self.spec.terms):
            number = self._canonical.number(self._operand(problems, leaf))
            leaves.append(self._canonical.leaf(number).negated(problems["turned"][leaf]))
        # The current subexpressions, indexed by their first leaf and row.
        terms = Terms.concatenate(leaves)
        for first, middle, operator, minus in self._upwards(problems):
            times = operator == ord("*")
            for chosen, product in ((np.flatnonzero(times), True), (np.flatnonzero(~times), False)):
                if not chosen.size:
                    continue
                left, right = terms.take(first.take(chosen)), terms.take(middle.take(chosen))
                if product:
                    result = self._canonical.multiplied(left, right)
                else:
                    right = right.negated(operator.take(chosen) == ord("-"))
                    result = self._canonical.added(left, right)
                terms.put(first.take(chosen), result.negated(minus.take(chosen)))
        return self._canonical.root(terms.take(np.arange(problems.rows)))

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        total = problems["lengths"].sum(0, dtype=np.int32) + problems["turned"].sum(0, dtype=np.int32)
        total += problems["terms"][0] - np.int32(1)
        return total + 2 * problems["bracket"].sum(0, dtype=np.int32) + problems["minus"].sum(0, dtype=np.int32)

    def answers(self, problems: Block) -> tuple[list[NDArray[np.int64]], Flags]:
        """Exact answers: the limbs of their magnitudes, each [n], and the negative ones as flags [n]."""
        return self._small_answers(problems) if self._small else self._large_answers(problems)

    def _columns(self, problems: Block) -> dict[str, Any]:
        return {
            **answer_columns(*self.answers(problems)),
            "problem": self._problem_text(problems),
            **self._shape_columns(problems),
        }

    def _shape_columns(self, problems: Block) -> dict[str, Any]:
        """The columns that describe the trees."""
        terms = problems["terms"][0].astype(np.int32)
        return {
            "operators": to_strings(problems["gaps"].T.tobytes(), terms - 1),
            "terms": terms,
            "digits": problems["lengths"].max(0).astype(np.int32),
            "depth": problems["depth"][0].astype(np.int32),
        }

    def _terms(self, seeds: UInt64s) -> NDArray[np.int64]:
        """Number of leaves, [n]."""
        return self._spread(seeds, "terms", 0, self.spec.min_terms, self.spec.terms)

    def _lengths(self, seeds: UInt64s, leaf: int) -> NDArray[np.int64]:
        """Digits of one leaf, [n]; rows with fewer leaves ignore it."""
        return self._spread(seeds, "length", leaf, self.spec.min_digits, self.spec.digits)

    def _sign(self, block: Arrays, seeds: UInt64s) -> None:
        """Draws the minuses before leaves: `turned` [leaves, n]."""
        leaves = self.spec.terms
        block["turned"] = np.zeros((leaves, len(seeds)), np.bool_)
        if "-" in self.spec.operators:
            for leaf in range(leaves):
                chosen = self._spread(seeds, "turned", leaf, 1, _MINUS_ONE_IN) == 1
                block["turned"][leaf] = chosen & (leaf < block["terms"][0])

    def _wrapped(self, nodes: DrawnNodes, deep: bool) -> Arrays:
        """The `_node_fields` of drawn nodes, each [n]; `deep` nodes have no minus."""
        minus = np.zeros(len(nodes.seed), np.bool_)
        if "-" in self.spec.operators and not deep:
            minus = nodes.is_sum & (nodes.around < self.spec.depth) & (nodes.seed >> np.uint64(61) == 0)
        return {"bracket": nodes.is_sum & ((nodes.tight > 0) | minus), "minus": minus}

    def _grow(self, block: dict[str, NDArray[Any]], seeds: UInt64s, terms: NDArray[np.int64]) -> None:
        """Draws the trees node by node in pre-order; each row has a stack of nodes that are still to be drawn."""
        rows, nodes = len(seeds), self.spec.terms - 1
        for name in ("first", "middle", "last", "operator", "gaps"):
            block[name] = np.zeros((nodes, rows), np.uint8)
        for name, kind in self._node_fields.items():
            block[name] = np.zeros((nodes, rows), kind)
        depth = np.zeros(rows, np.uint8)
        # Fields of a waiting node: first leaf, end of its leaves, brackets around it, and whether a sum needs its own
        # bracket.
        stack = np.zeros((self.spec.terms, 4, rows), np.uint8)
        stack[0, 1] = terms
        top = np.zeros(rows, np.intp)
        for node in range(nodes):
            active = np.flatnonzero(terms - 1 > node)
            if not active.size:
                break
            place = top.take(active)
            first, last, around, tight = (stack[place, field, active] for field in range(4))
            row_seeds = seeds.take(active)
            seed = mix64(row_seeds + np.uint64(derive_key(self._key, "node", node)))
            operator = self._operator(seed, (tight > 0) & (around >= self.spec.depth))
            if deep := node <= self.spec.min_depth and self.spec.min_depth > 0:
                operator = self._deep_operator(operator, node)
            is_sum = operator != ord("*")
            wrapped = self._wrapped(DrawnNodes(row_seeds, seed, is_sum, tight, around), deep)
            around = around + wrapped["bracket"]
            span = (last - first - 1).astype(np.uint64)
            middle = (first + 1 + ((seed & np.uint64(0xFFFFFF)) * span >> np.uint64(24))).astype(np.uint8)
            if not self._products:
                # After '-', a sum needs a bracket; if no more brackets are allowed, the right operand is one leaf.
                middle = np.where((operator == ord("-")) & (around >= self.spec.depth), last - 1, middle)
            if node < self.spec.min_depth:
                middle = first + np.uint8(1)
            drawn = {"first": first, "middle": middle, "last": last, "operator": operator, **wrapped}
            for name, values in drawn.items():
                block[name][node, active] = values
            block["gaps"][middle.astype(np.intp) - 1, active] = operator
            depth[active] = np.maximum(depth.take(active), around)
            left_tight, right_tight = ~is_sum, operator != ord("+")
            place = place - 1
            for begin, end, needs in ((middle, last, right_tight), (first, middle, left_tight)):
                inner = np.flatnonzero(end - begin > 1)
                place[inner] += 1
                target, row = place.take(inner), active.take(inner)
                for field, values in enumerate((begin, end, around, needs)):
                    stack[target, field, row] = values.take(inner)
            top[active] = place
        block["depth"] = depth[None]

    @staticmethod
    def _deep_operator(operator: Small, node: int) -> Small:
        """Operators for the first nodes, chosen so that each node except the root needs a bracket inside its parent's.

        A sum needs a bracket after '-' or '*'. Therefore the root is not '+', and the nodes after it are differences.
        All but the last have one leaf on the left and the rest nested on the right.
        """
        if node == 0:
            return np.where(operator == ord("+"), np.uint8(ord("-")), operator)
        return np.full_like(operator, ord("-"))

    def _operator(self, seed: UInt64s, no_sum: Flags) -> Small:
        symbols = np.array([ord(operator) for operator in self.spec.operators], np.uint8)
        operator = symbols.take(
            (seed >> np.uint64(24) & np.uint64(0xFFFFFF)) * np.uint64(len(symbols)) >> np.uint64(24)
        )
        return np.where(no_sum, np.uint8(ord("*")), operator) if self._products else operator

    def _spread(self, seeds: UInt64s, what: str, number: int, least: int, most: int) -> NDArray[np.int64]:
        """Uniform random integers from `least` to `most`, [n]."""
        bits = mix64(seeds + np.uint64(derive_key(self._key, what, number))) >> np.uint64(32)
        return (bits * np.uint64(most - least + 1) >> np.uint64(32)).astype(np.int64) + least

    def _upwards(self, problems: Block) -> Iterator[_Nodes]:
        """Yields the nodes from last to root, one per tree that has a node of this number."""
        rows = problems.rows
        for node in reversed(range(self.spec.terms - 1)):
            active = np.flatnonzero(problems["terms"][0] - 1 > node)
            if active.size:
                first, middle, operator, minus = (
                    problems[name][node].take(active) for name in ("first", "middle", "operator", "minus")
                )
                yield _Nodes(
                    first.astype(np.intp) * rows + active, middle.astype(np.intp) * rows + active, operator, minus
                )

    def _small_answers(self, problems: Block) -> tuple[list[NDArray[np.int64]], Flags]:
        """Answers that fit in 63 bits."""
        values = np.empty((self.spec.terms, problems.rows), np.int64)
        for leaf in range(self.spec.terms):
            values[leaf] = 0
            for number in reversed(range(self._limbs)):
                values[leaf] *= 10**LIMB_DIGITS
                values[leaf] += problems["limbs"][leaf * self._limbs + number]
        values *= np.where(problems["turned"], -1, 1)
        flat = values.reshape(-1)
        for first, middle, operator, minus in self._upwards(problems):
            left, right = flat.take(first), flat.take(middle)
            result = np.where(operator == ord("*"), left * right, left + np.where(operator == ord("-"), -right, right))
            flat[first] = np.where(minus, -result, result)
        return limbs_of(np.abs(values[0]), 10**self._answer_digits), values[0] < 0

    def _large_answers(self, problems: Block) -> tuple[list[NDArray[np.int64]], Flags]:
        """Answers of any size: limbs of the magnitudes, and signs."""
        leaves, size, rows = self.spec.terms, self._answer_limbs, problems.rows
        values = np.zeros((size, leaves * rows), np.int64)
        own = problems["limbs"].reshape(leaves, self._limbs, rows)
        for number in range(self._limbs):
            values[number] = own[:, number].reshape(-1)
        negative = problems["turned"].reshape(-1).copy()
        for first, middle, operator, minus in self._upwards(problems):
            for times in (True, False):
                chosen = np.flatnonzero((operator == ord("*")) == times)
                if not chosen.size:
                    continue
                place, other = first.take(chosen), middle.take(chosen)
                left, right = values.take(place, axis=1), values.take(other, axis=1)
                turned = negative.take(other) ^ (operator.take(chosen) == ord("-"))
                if times:
                    result, sign = multiplied(left, right, size), negative.take(place) ^ turned
                else:
                    signs = (np.where(flags, -1, 1) for flags in (negative.take(place), turned))
                    total = left * next(signs) + right * next(signs)
                    result, sign = carried([*total])
                for number, limb in enumerate(result):
                    values[number, place] = limb
                negative[place] = sign ^ minus.take(chosen)
        magnitudes = [limb[:rows] for limb in values]
        some = np.zeros(rows, np.bool_)
        for limb in magnitudes:
            some |= limb != 0
        return magnitudes, negative[:rows] & some

    def _problem_text(self, problems: Block) -> pa.Array:
        """A row of bytes with room for every leaf's brackets, digits and operator; zero bytes are skipped."""
        rows, leaves = problems.rows, self.spec.terms
        before = -(-self._opening_room // 8) * 8
        after = -(-(self.spec.depth + 1) // 8) * 8
        step = before + self._limbs * LIMB_DIGITS + after
        buffer, words = blank_words(rows, leaves * step // 8)
        characters = words.view(np.uint8)
        self._write_openings(problems, Openings(characters, leaves, step))
        closed = self._closings(problems)
        for leaf in range(leaves):
            first = (leaf * step + before) // 8
            number_words(
                self._operand(problems, leaf), problems["lengths"][leaf], words[:, first : first + self._limbs]
            )
            end = leaf * step + before + self._limbs * LIMB_DIGITS
            for bracket_number in range(int(closed[leaf].max(initial=0))):
                characters[:, end + bracket_number] = (closed[leaf] > bracket_number) * np.uint8(ord(")"))
            if leaf < leaves - 1:
                characters[:, end + self.spec.depth] = problems["gaps"][leaf]
        return to_strings(buffer, self.text_lengths(problems))  # type: ignore[arg-type]

    @property
    def _opening_room(self) -> int:
        """Maximum number of characters before a leaf: a bracket and a minus of each node, and its own minus."""
        return 2 * self.spec.depth + 1

    def _write_openings(self, problems: Block, openings: Openings) -> None:
        """Writes the minuses and brackets before all leaves, those of outer nodes first."""
        for node in range(self.spec.terms - 1):
            for name, character in (("minus", "-"), ("bracket", "(")):
                rows = np.flatnonzero(problems[name][node])
                places = openings.reserve(rows, problems["first"][node].take(rows), 1)
                openings.characters[places] = ord(character)
        for leaf in range(self.spec.terms):
            places = openings.reserve(np.flatnonzero(problems["turned"][leaf]), leaf, 1)
            openings.characters[places] = ord("-")

    def _closings(self, problems: Block) -> Small:
        """Number of closing brackets after each leaf, [leaves, n]."""
        closed = np.zeros((self.spec.terms, problems.rows), np.uint8)
        for node in range(self.spec.terms - 1):
            rows = np.flatnonzero(problems["bracket"][node])
            closed[problems["last"][node].take(rows).astype(np.intp) - 1, rows] += problems["bracket"][node].take(rows)
        return closed
