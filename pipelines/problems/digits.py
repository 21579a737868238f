"""Digits: a fixed number of operands of one to N digits each, with operators between them.

Every combination of lengths and operators is equally frequent, and no problem repeats before all problems of its
lengths are used (`lengths`). Arithmetic uses limbs of eight digits (`arithmetic`). A share of hard rows is rewritten so
that many columns can propagate a carry or borrow; in half of them one occurs.
"""

import itertools
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import (
    LIMB_DIGITS,
    Flags,
    carried,
    digit_columns,
    limb_count,
    multiplied,
    product_carries,
    sum_carries,
)
from pipelines.problems.family import (
    Arrays,
    Block,
    Family,
    answer_columns,
    layout_for,
    pattern_column,
    random_limbs,
    schema_of,
    with_text_operators,
)
from pipelines.problems.lengths import Cells, Deal, capacity
from pipelines.problems.text import number_words
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical
from storage.datasets.arrow_buffers import blank_words, to_strings
from storage.order import UInt64s, derive_key, halves, keyed_hash, mix64, permuted

_DRAWN_DIGITS = 18
# A dictionary of more patterns would cost more than it saves.
_MOST_PATTERNS = 1 << 10
_POWERS = np.array([10**power for power in range(_DRAWN_DIGITS + 2)], np.uint64)
_CAPACITIES = np.array([1, *(capacity(length) for length in range(1, _DRAWN_DIGITS + 1))], np.uint64)
_BASE = _POWERS[LIMB_DIGITS]


class Operands(Family):
    """Rows of problems with `spec.terms` operands."""

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        super().__init__(spec, canonical, key, rows)
        self._choices = len(spec.operators)
        self._cells = Cells(
            spec.terms, spec.min_digits, spec.digits, self._choices ** (spec.terms - 1), rows, derive_key(key, "cells")
        )
        self._answer_digits = spec.terms * spec.digits if "*" in spec.operators else spec.digits + len(str(spec.terms))
        self._answer_limbs = limb_count(self._answer_digits) + 1
        words = spec.terms * self._limbs + self._answer_limbs
        self.block_rows = max(1 << 10, min(1 << 16, 1 << ((1 << 20) // words).bit_length() - 1))
        self._has_patterns = self._choices ** (spec.terms - 1) <= _MOST_PATTERNS
        self.layout = layout_for(schema_of({}) if self._has_patterns else with_text_operators(schema_of({})))

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions`: `limbs` [terms · limbs, n], `lengths` [terms, n], `operators` [terms − 1, n]."""
        deal = self._cells(positions)
        counters = mix64(positions * np.uint64(0x9E3779B97F4A7C15) + np.uint64(derive_key(self._key, "digits")))
        limbs = self._numbers(deal, counters)
        arrays: Arrays = {"limbs": limbs, "lengths": deal.lengths}
        if self._choices > 1:
            arrays["operators"] = np.empty((self.spec.terms - 1, len(positions)), np.uint8)
            rest = deal.pattern
            for gap in range(self.spec.terms - 1):
                quotient = rest // np.uint64(self._choices)
                arrays["operators"][gap] = rest - quotient * np.uint64(self._choices)
                rest = quotient
        block = Block(arrays)
        if self.spec.hard:
            self._harden(block, deal, positions)
        return block

    def canonical(self, problems: Block) -> UInt64s:
        hashes = [self._canonical.number(self._operand(problems, term)) for term in range(self.spec.terms)]
        return self._canonical.flat(hashes, self._gaps(problems, "*"), self._gaps(problems, "-"))

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        longest = self.spec.terms * (self.spec.digits + 1) - 1
        if longest <= 16:
            return longest
        return problems["lengths"].sum(0, dtype=np.int32) + np.int32(self.spec.terms - 1)

    def answers(self, problems: Block) -> tuple[list[NDArray[np.int64]], Flags]:
        """Exact answers: the limbs of their magnitudes, each [n], and the negative ones as flags [n]."""
        operands = [self._operand(problems, term) for term in range(self.spec.terms)]
        times, minus = self._gaps(problems, "*"), self._gaps(problems, "-")
        size, rows = self._answer_limbs, problems.rows
        if self.spec.operators == ("*",) and self.spec.terms == 2:
            return multiplied(operands[0], operands[1], size), np.zeros(rows, np.bool_)
        total = np.zeros((size, rows), np.int64)
        if "*" not in self.spec.operators:
            total[: self._limbs] = operands[0]
            for operand, is_minus in zip(operands[1:], minus, strict=True):
                total[: self._limbs] += operand if is_minus is False else operand * np.where(is_minus, -1, 1)
            return carried([*total])
        term = np.zeros((size, rows), np.int64)
        term[: self._limbs] = operands[0]
        sign = np.ones(rows, np.int64)
        for operand, is_times, is_minus in zip(operands[1:], times, minus, strict=True):
            joined = np.flatnonzero(np.broadcast_to(is_times, rows))
            product = multiplied(term.take(joined, axis=1), operand.take(joined, axis=1), size) if joined.size else None
            total += np.where(is_times, 0, sign) * term
            term[:] = 0
            term[: self._limbs] = operand
            if product is not None:
                term[:, joined] = product
            sign = np.where(is_times, sign, np.where(is_minus, -1, 1))
        return carried([*(total + sign * term)])

    def _carries(self, problems: Block, negative: Flags) -> pa.Array:
        """Longest run of columns that carry or borrow [n]; null for three or more operands with a product."""
        rows, terms = problems.rows, self.spec.terms
        many = np.zeros(rows, np.uint8)
        for gap in self._gaps(problems, "*"):
            many += np.broadcast_to(gap, rows)
        values = np.zeros(rows, np.int32)
        sums = np.flatnonzero(many == 0)
        if sums.size == rows:
            values = self._sum_carries(problems, negative)
        elif sums.size:
            values[sums] = self._sum_carries(problems.take(sums), negative.take(sums))
        products = np.flatnonzero(many == 1) if terms == 2 else np.zeros(0, np.intp)
        if products.size:
            part = problems.take(products)
            columns = [digit_columns(self._operand(part, term), self.spec.digits) for term in range(2)]
            values[products] = product_carries(*columns)
        unknown = (many > 0) & (terms > 2)
        return pa.array(values, mask=unknown if unknown.any() else None)

    def _columns(self, problems: Block) -> dict[str, Any]:
        magnitudes, negative = self.answers(problems)
        return {
            **answer_columns(magnitudes[: limb_count(self._answer_digits)], negative),
            "problem": self._problem_text(problems),
            "operators": self._operators_text(problems),
            "terms": np.full(problems.rows, self.spec.terms, np.int32),
            "digits": problems["lengths"].max(0).astype(np.int32),
            "carries": self._carries(problems, negative),
            "depth": np.zeros(problems.rows, np.int32),
        }

    def _gaps(self, problems: Block, operator: str) -> list[Flags | bool]:
        if self._choices == 1 or operator not in self.spec.operators:
            return [self.spec.operators == (operator,)] * (self.spec.terms - 1)
        code = self.spec.operators.index(operator)
        return [gap == code for gap in problems["operators"]]

    def _numbers(self, deal: Deal, counters: UInt64s) -> NDArray[np.uint32]:
        """Limbs of all operands: low digits from a permutation without repetition, higher digits at random."""
        drawn, pieces = self._draw(deal)
        limbs = np.zeros((self.spec.terms * self._limbs, len(counters)), np.uint32)
        for term in range(self.spec.terms):
            own = limbs[term * self._limbs : (term + 1) * self._limbs]
            length = deal.lengths[term]
            rest = pieces[term]
            for number in range(min(self._limbs, -(-_DRAWN_DIGITS // LIMB_DIGITS))):
                quotient = rest // _BASE
                own[number] = rest - quotient * _BASE
                rest = quotient
            # Limbs above the drawn digits are random.
            open_rows = length > drawn[term]
            if open_rows.any():
                key, skipped = derive_key(self._key, "limb", term), int(drawn[term].min()) // LIMB_DIGITS
                for number, values in random_limbs(counters, key, length, self._limbs, skipped):
                    fill = open_rows & (drawn[term] <= number * LIMB_DIGITS)
                    np.copyto(own[number], values, where=fill, casting="unsafe")
        return limbs

    def _draw(self, deal: Deal) -> tuple[list[NDArray[np.uint16]], list[UInt64s]]:
        """How many low digits of each operand are drawn without repetition, and their values, each [n]."""
        rows = len(deal.rest)
        budget = np.full(rows, _DRAWN_DIGITS, np.uint16)
        tens, nines = np.zeros(rows, np.uint16), np.zeros(rows, np.uint16)
        drawn, complete = [], []
        for length in deal.lengths[::-1]:
            fits = length <= budget
            digits = np.where(fits, length, budget // LIMB_DIGITS * LIMB_DIGITS).astype(np.uint16)
            budget = budget - digits
            leading = fits & (length > 1)
            tens += digits - leading
            nines += leading
            drawn.append(digits)
            complete.append(fits)
        values = self._permuted(deal, tens, nines)
        pieces = []
        for digits, fits in zip(drawn, complete, strict=True):
            radix = np.where(fits, _CAPACITIES.take(digits), _POWERS.take(digits))
            quotient = values // radix
            piece = values - quotient * radix
            piece += np.where(fits & (digits > 1), _POWERS.take(digits - (digits > 0)), np.uint64(0))
            pieces.append(piece)
            values = quotient
        return drawn[::-1], pieces[::-1]

    def _permuted(self, deal: Deal, tens: NDArray[np.uint16], nines: NDArray[np.uint16]) -> UInt64s:
        sizes, high, low = self._halves
        classes = tens * np.uint16(sizes.shape[1]) + nines
        salt = (keyed_hash(derive_key(self._key, "draw"), deal.cell) >> np.uint64(32)).astype(np.uint32)
        size = sizes.take(classes)
        values = permuted(
            deal.rest % size, size, high.take(classes), low.take(classes), derive_key(self._key, "values"), salt
        )
        # Problems of exhausted cells are already enumerated, and each one is used.
        return np.where(deal.exhausted, deal.rest, values)

    @cached_property
    def _halves(self) -> tuple[UInt64s, UInt64s, UInt64s]:
        """Sizes 10^tens · 9^nines and their halves, each [tens, nines]; entries that are too large are unused."""
        shape = (_DRAWN_DIGITS + 1, _DRAWN_DIGITS + 1)
        sizes, high, low = (np.ones(shape, np.uint64) for _ in range(3))
        for tens in range(shape[0]):
            for nines in range(shape[1] - tens):
                size = 10**tens * 9**nines
                sizes[tens, nines] = size
                high[tens, nines], low[tens, nines] = halves(size)
        return sizes, high, low

    def _harden(self, problems: Block, deal: Deal, positions: UInt64s) -> None:
        """Rewrites low digits of the first two operands in a share of the rows and keeps the leading digits."""
        bits = keyed_hash(derive_key(self._key, "hard"), positions)
        room = np.minimum(deal.lengths[0], deal.lengths[1]).astype(np.int64) - 1
        share = np.uint64(self.spec.hard * (1 << 24))
        chosen = np.flatnonzero((bits & np.uint64(0xFFFFFF) < share) & ~deal.exhausted & (room > 0))
        if not chosen.size:
            return
        # From one digit to all but the leading one; long chains are as likely as short ones.
        chain = (bits.take(chosen) >> np.uint64(24) & np.uint64(0xFFFF)).astype(np.int64) % room.take(chosen) + 1
        plain = (bits.take(chosen) >> np.uint64(40) & np.uint64(1)).astype(np.bool_)
        times, minus = (np.broadcast_to(self._gaps(problems, operator)[0], problems.rows) for operator in "*-")
        times, minus = times.take(chosen), minus.take(chosen)
        # In half of the rows no carry enters the chain. Otherwise a model could learn that every long run of nines
        # carries.
        begun = (bits.take(chosen) >> np.uint64(41) & np.uint64(1)).astype(np.int64)
        carry = begun
        limbs = problems["limbs"]
        # A difference borrows in the digits of the smaller operand: its low digits must be smaller.
        swapped = minus & self._smaller(problems, chosen)
        for number in range(self._limbs):
            below = number * LIMB_DIGITS
            modulus = _POWERS.take(np.clip(chain - below, 0, LIMB_DIGITS)).astype(np.int64)
            first, second = (limbs[term * self._limbs + number] for term in range(2))
            left, right = (limb.take(chosen).astype(np.int64) for limb in (first, second))
            a, b = np.where(swapped, right, left), np.where(swapped, left, right)
            low_a, low_b = a % modulus, b % modulus
            nines, one = modulus - 1, np.where((number == 0) & (modulus > 1), begun, 0)
            # Complements add up to a power of ten; subtracting b from b − 1 borrows through all of its digits.
            complement = nines - low_a + carry
            less = low_b - carry
            carry = np.where(minus, less < 0, complement >= modulus).astype(np.int64)
            complement, less = complement % modulus, less % modulus
            new_a = np.where(times, nines, np.where(minus, np.where(plain, 0, less), np.where(plain, nines, low_a)))
            new_b = np.where(times, nines, np.where(plain, one, np.where(minus, low_b, complement)))
            a, b = a - low_a + new_a, b - low_b + new_b
            first[chosen] = np.where(swapped, b, a)
            second[chosen] = np.where(swapped, a, b)

    def _smaller(self, problems: Block, chosen: NDArray[np.intp]) -> Flags:
        """Whether the first operand is less than the second, [chosen]."""
        below = np.zeros(len(chosen), np.bool_)
        for number in range(self._limbs):
            one, other = (problems["limbs"][term * self._limbs + number].take(chosen) for term in range(2))
            below = np.where(one == other, below, one < other)
        return below

    def _sum_carries(self, problems: Block, negative: Flags) -> NDArray[np.int32]:
        digits = self.spec.digits + len(str(self.spec.terms))
        total = digit_columns(self._operand(problems, 0), digits).astype(np.int16)
        for term, gap in zip(range(1, self.spec.terms), self._gaps(problems, "-"), strict=True):
            column = digit_columns(self._operand(problems, term), digits)
            total += column if gap is False else column * np.where(gap, np.int16(-1), np.int16(1))
        if "-" in self.spec.operators:
            total *= np.where(negative, np.int16(-1), np.int16(1))
        return sum_carries(total)

    def _problem_text(self, problems: Block) -> pa.Array:
        terms, size = self.spec.terms, self._limbs
        # An operator uses the first character of the next operand's highest word, or a word of its own if that is full.
        step = size + (self.spec.digits == size * LIMB_DIGITS)
        buffer, words = blank_words(problems.rows, terms * step)
        symbols = np.array([ord(operator) for operator in self.spec.operators], np.uint64)
        for term in range(terms):
            last = (term + 1) * step
            number_words(self._operand(problems, term), problems["lengths"][term], words[:, last - size : last])
            if term:
                words[:, last - step] |= (
                    symbols[0] if self._choices == 1 else symbols.take(problems["operators"][term - 1])
                )
        return to_strings(buffer, problems["lengths"].sum(0, dtype=np.int32) + np.int32(terms - 1))

    def _operators_text(self, problems: Block) -> pa.Array:
        gaps = self.spec.terms - 1
        if self._choices == 1:
            return pattern_column(0, [self.spec.operators[0] * gaps], problems.rows)
        if not self._has_patterns:
            symbols = np.array([ord(operator) for operator in self.spec.operators], np.uint8)
            characters = symbols.take(problems["operators"]).T.tobytes()
            return to_strings(characters, np.full(problems.rows, gaps, np.int32))
        code = np.zeros(problems.rows, np.int32)
        for gap in reversed(problems["operators"]):
            code = code * np.int32(self._choices) + gap
        return pattern_column(code, self._patterns, problems.rows)

    @cached_property
    def _patterns(self) -> list[str]:
        """Operators of a problem by their code, with the first operator as the lowest digit."""
        gaps = itertools.product(self.spec.operators, repeat=self.spec.terms - 1)
        return ["".join(reversed(pattern)) for pattern in gaps]
