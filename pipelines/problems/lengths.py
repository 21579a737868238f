"""Assigns operand lengths to rows: every combination of lengths is equally frequent, and no problem repeats.

A cell is a combination of operators and lengths. Row numbers are dealt to the cells in turn. A cell without further
problems is exhausted: all of its problems are used, and its remaining rows go to other cells. Cells of equal capacity
form classes. Only exhausted classes, whose problems have about 19 digits at most, are enumerated. All other rows are
computed from the row number, so many operands of many lengths cost the same as two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.order import LARGEST_SIZE, Permutation, UInt64s, derive_key, keyed_hash

Lengths = NDArray[np.uint16]
# One-digit operands, and the total of the other operands' digits beyond their first.
State = tuple[int, int]
Parts = tuple[Lengths, UInt64s, UInt64s, UInt64s]

# Exhausted cells hold fewer problems than a corpus has rows, so their operands have few digits beyond the first.
_MOST_EXTRA = 18
# The state from which no exhausted class can be reached.
_OTHER = (-1, -1)


def capacity(length: int) -> int:
    """Count of numbers with `length` digits; zero is a one-digit number."""
    return 10 if length == 1 else 9 * 10 ** (length - 1)


@dataclass(frozen=True)
class Deal:
    """The cells of a block's rows; for `exhausted` rows, `rest` is the problem's index within its lengths.

    Arrays [n], `lengths` [terms, n]. For other rows, `rest` is the draw from the cell, and `cell` identifies the cell.
    """

    lengths: Lengths
    pattern: UInt64s
    rest: UInt64s
    cell: UInt64s
    exhausted: NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """Deals rows over all lengths from `shortest` to `longest` of `terms` operands, times `patterns` of operators."""

    terms: int
    shortest: int
    longest: int
    patterns: int
    rows: int
    key: int

    def __call__(self, positions: UInt64s) -> Deal:
        """Lengths and draws of the rows at `positions` [n], in permuted order."""
        rows = Permutation(self.rows, derive_key(self.key, "rows"))(positions)
        limit = np.uint64(self._exhausted_rows)
        exhausted = rows < limit
        if not limit:
            return Deal(*self._dealt(rows), exhausted)
        lengths = np.empty((self.terms, len(rows)), np.uint16)
        pattern, rest, cell = (np.empty(len(rows), np.uint64) for _ in range(3))
        for flags, part, offset in ((exhausted, self._enumerated, np.uint64(0)), (~exhausted, self._dealt, limit)):
            chosen = np.flatnonzero(flags)
            if chosen.size:
                parts = part(rows.take(chosen) - offset)
                targets: tuple[NDArray[Any], ...] = (lengths, pattern, rest, cell)
                for target, values in zip(targets, parts, strict=True):
                    target[..., chosen] = values
        return Deal(lengths, pattern, rest, cell, exhausted)

    def _enumerated(self, rows: UInt64s) -> Parts:
        """Rows of exhausted cells: `rest` is the mixed-radix number of the operands, with the first operand highest."""
        rest, pattern = np.divmod(rows, np.uint64(self.patterns))
        state = np.zeros(len(rows), np.intp)
        lengths = np.empty((self.terms, len(rows)), np.uint16)
        number = np.zeros(len(rows), np.uint64)
        for place in range(self.terms):
            bounds, units, following = self._weights[place]
            choice = (rest[:, None] >= bounds.take(state, axis=0)).sum(1) - 1
            flat = state * bounds.shape[1] + choice
            rest -= bounds.take(flat)
            lengths[place] = choice + self.shortest
            unit = units.take(flat)
            value = rest // unit
            rest -= value * unit
            number = number * self._capacities.take(choice) + value
            state = following.take(flat)
        return lengths, pattern, number, np.zeros(len(rows), np.uint64)

    def _dealt(self, rows: UInt64s) -> Parts:
        """Rows of the other cells: each round gives every cell one row, in a permuted order of the cells."""
        cells = self._open_cells * self.patterns
        if cells > LARGEST_SIZE:
            return self._drawn(rows)
        rest = rows // np.uint64(cells)
        cell = Permutation(cells, derive_key(self.key, "cells"))(rows - rest * np.uint64(cells))
        left, pattern = np.divmod(cell, np.uint64(self.patterns))
        state = np.zeros(len(rows), np.intp)
        lengths = np.empty((self.terms, len(rows)), np.uint16)
        for place in range(self.terms):
            # Short lengths, after which a cell can be exhausted, have individual counts; all other lengths share one
            # count.
            bounds, following = self._counts[place]
            choice = np.zeros(len(rows), np.intp)
            for number in range(1, bounds.shape[1]):
                choice += left >= bounds[:, number].take(state)
            left = left - bounds.take(state * bounds.shape[1] + choice)
            unit = np.uint64(self._choices ** (self.terms - 1 - place))
            many = choice == bounds.shape[1] - 1
            more = np.where(many, left // unit, np.uint64(0))
            left = left - more * unit
            lengths[place] = choice + more.astype(np.intp) + self.shortest
            state = following.take(state * bounds.shape[1] + choice)
        return lengths, pattern, rest, cell

    def _drawn(self, rows: UInt64s) -> Parts:
        """For more than 2⁶² cells: no cell repeats in practice, so lengths and operators are drawn at random."""
        lengths = np.empty((self.terms, len(rows)), np.uint16)
        for place in range(self.terms):
            bits = keyed_hash(derive_key(self.key, "length", place), rows) >> np.uint64(32)
            lengths[place] = (bits * np.uint64(self._choices) >> np.uint64(32)) + np.uint64(self.shortest)
        pattern = keyed_hash(derive_key(self.key, "pattern"), rows) % np.uint64(min(self.patterns, LARGEST_SIZE))
        return lengths, pattern, rows, pattern

    @property
    def _choices(self) -> int:
        return self.longest - self.shortest + 1

    @cached_property
    def _classes(self) -> dict[State, int]:
        """Number of length combinations per class of cells, which is the state after the last operand."""
        counts = {(0, 0): 1}
        for _ in range(self.terms):
            following: dict[State, int] = {}
            for (ones, extra), count in counts.items():
                for length in self._short_lengths(extra):
                    state = _with_operand(ones, extra, length)
                    following[state] = following.get(state, 0) + count
            counts = following
        return counts

    def _short_lengths(self, extra: int) -> range:
        return range(self.shortest, min(self.longest, _MOST_EXTRA - extra + 1) + 1)

    @cached_property
    def _exhausted(self) -> frozenset[State]:
        """Classes whose cells are used completely."""
        classes: set[State] = set()
        rows, cells = self.rows, self._choices**self.terms * self.patterns
        ranked = sorted((_class_capacity(self.terms, *state), state) for state in self._classes)
        for size, state in ranked:
            if size * cells > rows:
                break
            classes.add(state)
            rows -= size * self._classes[state] * self.patterns
            cells -= self._classes[state] * self.patterns
        return frozenset(classes)

    @cached_property
    def _exhausted_rows(self) -> int:
        sizes = (_class_capacity(self.terms, *state) * self._classes[state] for state in self._exhausted)
        return sum(sizes) * self.patterns

    @cached_property
    def _open_cells(self) -> int:
        return self._choices**self.terms - sum(self._classes[state] for state in self._exhausted)

    @cached_property
    def _capacities(self) -> UInt64s:
        lengths = range(self.shortest, min(self.longest, _MOST_EXTRA + 1) + 1)
        return np.array([capacity(length) for length in lengths], np.uint64)

    def _states(self, place: int) -> list[State]:
        """States after `place` operands from which an exhausted class is reachable, and one state for all others."""
        reached = {(0, 0)}
        for step in range(place):
            following = {_with_operand(*state, length) for state in reached for length in self._short_lengths(state[1])}
            reached = {state for state in following if _completions(self, self.terms - step - 1, *state, False)}
        return [*sorted(reached), _OTHER]

    def _steps(self) -> Iterator[tuple[int, list[State], dict[State, int]]]:
        """For each operand: how many follow it, the states before it, and the index of each state after it."""
        for place in range(self.terms):
            index = {state: number for number, state in enumerate(self._states(place + 1))}
            yield self.terms - place - 1, self._states(place), index

    @cached_property
    def _weights(self) -> list[tuple[UInt64s, UInt64s, NDArray[np.intp]]]:
        """Per operand, [states, lengths]: where a length's problems begin, how many follow, and the next state."""
        tables = []
        width = len(self._capacities)
        for left, before, index in self._steps():
            bounds = np.full((len(before), width), np.iinfo(np.uint64).max, np.uint64)
            units = np.ones((len(before), width), np.uint64)
            following = np.zeros((len(before), width), np.intp)
            for row, (ones, extra) in enumerate(before[:-1]):
                total = 0
                for column, length in enumerate(self._short_lengths(extra)):
                    state = _with_operand(ones, extra, length)
                    unit = _completions(self, left, *state, True)
                    bounds[row, column] = total
                    units[row, column] = max(1, unit)
                    following[row, column] = index.get(state, 0)
                    total += unit * capacity(length)
                # A length that leads to no exhausted class has the same start as the next one, so it is never chosen.
                bounds[row, len(self._short_lengths(extra)) :] = total
            tables.append((bounds, units, following))
        return tables

    @cached_property
    def _counts(self) -> list[tuple[UInt64s, NDArray[np.intp]]]:
        """Per operand, [states, short lengths + 1]: where a length's open cells begin, and the next state."""
        most = max((extra for _, extra in self._exhausted), default=-1)
        short = [length for length in range(self.shortest, self.longest + 1) if length - 1 <= most]
        tables = []
        columns = min(len(short), self._choices - 1) + 1
        for left, before, index in self._steps():
            everything = self._choices**left
            bounds = np.zeros((len(before), columns), np.uint64)
            following = np.full((len(before), columns), index[_OTHER], np.intp)
            for row, (ones, extra) in enumerate(before):
                total = 0
                for column in range(columns):
                    bounds[row, column] = total
                    state = _OTHER if ones < 0 else _with_operand(ones, extra, self.shortest + column)
                    if state in index:
                        following[row, column] = index[state]
                        total -= _completions(self, left, *state, False)
                    total += everything
            tables.append((bounds, following))
        return tables


@lru_cache(maxsize=1 << 16)
def _completions(cells: Cells, left: int, ones: int, extra: int, weighted: bool) -> int:
    """Number of ways (with `weighted`, problems) in which `left` more operands reach an exhausted class."""
    if ones < 0:
        return 0
    if not left:
        return int((ones, extra) in cells._exhausted)
    return sum(
        (capacity(length) if weighted else 1)
        * _completions(cells, left - 1, *_with_operand(ones, extra, length), weighted)
        for length in cells._short_lengths(extra)
    )


def _with_operand(ones: int, extra: int, length: int) -> State:
    """The state after one more operand of `length` digits."""
    return ones + (length == 1), extra + length - 1


def _class_capacity(terms: int, ones: int, extra: int) -> int:
    return int(10 ** (ones + extra) * 9 ** (terms - ones))


def shares_by_terms(rows: int, sizes: list[int]) -> list[int]:
    """Divides `rows` equally over the numbers of operands; rows that exceed a size go to the others."""
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    shares = [0] * len(sizes)
    for taken, place in enumerate(order):
        shares[place] = min(sizes[place], rows // (len(order) - taken))
        rows -= shares[place]
    return shares
