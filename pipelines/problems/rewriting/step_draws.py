"""Draws the operands and registers of single rewriting steps, as digits [columns, n] with the units first.

Random digits alone hardly contain what an encoder gets wrong: long carry chains and large column totals. So a share of
the rows is drawn for these. `steps` describes the rows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS, Flags, exact_quotients, limb_count, multiplied
from storage.order import UInt64s, derive_key, mix64

Digits = NDArray[np.uint8]
Int32s = NDArray[np.int32]
Rows = NDArray[np.intp]

DRAWS = ("plain", "edge", "tie", "trajectory", "dense", "random", "literal")
_PLAIN, _EDGE, _TIE, _TRAJECTORY, _DENSE, _RANDOM, LITERAL = range(len(DRAWS))

# For each digit d of the second factor, a digit whose product with d has the largest units.
_LARGE_UNITS = np.array([max(range(1, 10), key=lambda digit: (digit * d % 10, -digit)) for d in range(10)], np.uint8)


class Lanes:
    """Small random draws of n rows: each one takes the next sixteen bits of a keyed hash of the row.

    The order of the calls decides the draws. So it must not depend on the rows.
    """

    def __init__(self, seeds: UInt64s, key: int) -> None:
        self._seeds, self._key, self._hashes = seeds, key, 0
        self._lanes = list[NDArray[np.uint32]]()

    def take(self, rows: Rows) -> "Lanes":
        """Draws of some of the rows, independent of these and of those of other calls."""
        self._hashes += 1
        return Lanes(self._seeds.take(rows), derive_key(self._key, "rows", self._hashes))

    def below(self, most: Int32s | int) -> Int32s:
        """Uniform integers from 0 to `most` − 1, int32 [n]."""
        return (self._next() * np.asarray(most, np.uint32) >> np.uint32(16)).astype(np.int32)

    def chance(self, share: float) -> Flags:
        """Flags [n] that are set in a share of the rows."""
        return self._next() < round(share * (1 << 16))

    def digits(self, columns: int) -> Digits:
        """Uniform decimal digits, uint8 [columns, n]."""
        digits = np.empty((-(-columns // 8) * 8, len(self._seeds)), np.uint8)
        for first in range(0, columns, 8):
            lanes = self._hash().view("<u2").astype(np.uint32) * np.uint32(10)
            # A second digit per lane is biased by less than 0.2 %.
            rest = (lanes & np.uint32(0xFFFF)) * np.uint32(10)
            for offset, values in ((first, lanes), (first + 4, rest)):
                digits[offset : offset + 4] = (values >> np.uint32(16)).astype(np.uint8).reshape(-1, 4).T
        return digits[:columns]

    def _next(self) -> NDArray[np.uint32]:
        if not self._lanes:
            self._lanes = [*np.ascontiguousarray(self._hash().view("<u2").reshape(-1, 4).T).astype(np.uint32)]
        return self._lanes.pop()

    def _hash(self) -> UInt64s:
        self._hashes += 1
        return mix64(self._seeds + np.uint64(derive_key(self._key, self._hashes)))


class Drawn(NamedTuple):
    """Rows of one kind: digits of `a` and `b` [digits, n], and their `draws` [n] as indices of `DRAWS`.

    For a product, `lengths` [n] is the number of digits of b that are not consumed. `register` and `consumed` are the
    limbs of R and of the consumed digits, each [limbs, n]; `consumed` is zero if R is no multiple of |a|.
    """

    a: Digits
    b: Digits
    draws: NDArray[np.uint8]
    lengths: Int32s
    register: NDArray[np.integer]
    consumed: NDArray[np.integer]


@dataclass(frozen=True)
class StepDraws:
    """Draws of steps whose operands have at most `digits` digits; `room` [n] is the number of columns, from 3.

    A step of a product consumes `per_step` digits. If these are several, it has up to `per_step` more columns.
    """

    digits: int
    per_step: int = 1

    def sums(self, lanes: Lanes, room: Int32s, apart: Flags) -> Drawn:
        """Operands of a sum; `apart` marks the rows whose magnitudes are subtracted."""
        longest = np.minimum(room - 1, self.digits)
        mode = lanes.below(100)
        edge, tie = mode < 20, (mode >= 20) & (mode < 55)
        top = lanes.chance(0.5)
        first = 1 + lanes.below(longest)
        second = np.where(lanes.chance(0.5), first, 1 + lanes.below(longest))
        # A window that reaches the top needs operands of equal lengths.
        both = np.maximum(first, second)
        first, second = (np.where(tie & top, both, length) for length in (first, second))
        a, b = self._number(lanes, first, edge), self._number(lanes, second, edge & lanes.chance(0.7))
        rows = np.flatnonzero(tie)
        window = _Window(first.take(rows), second.take(rows), top.take(rows), apart.take(rows))
        a[:, rows], b[:, rows] = _tied(lanes.take(rows), a.take(rows, 1), b.take(rows, 1), window)
        draws = np.where(edge, _EDGE, np.where(tie, _TIE, _PLAIN)).astype(np.uint8)
        none = np.zeros((limb_count(self.digits + 1), len(room)), np.uint32)
        return Drawn(a, b, draws, np.zeros(len(room), np.int32), none, none)

    def trajectories(self, lanes: Lanes, room: Int32s) -> Drawn:
        """States of real products: R = |a|·c, where c are the consumed leading digits of a full factor."""
        unused = lanes.chance(0.15)
        length = 1 + lanes.below(np.minimum(np.where(unused, room - 1, room - 2), self.digits))
        used = np.where(unused, 0, 1 + lanes.below(np.maximum(room - 1 - length, 1)))
        # In half of the rows, the whole product fits in the room.
        whole = lanes.chance(0.5)
        left = 1 + lanes.below(np.minimum(np.where(whole, np.maximum(room - length - used, 1), room - 1), self.digits))
        left = np.where(unused, left, self._whole_steps(left))
        edge = lanes.chance(0.3)
        a = self._number(lanes, length, edge)
        # The register of a product with zero does not show what is consumed.
        a[0] += (a == 0).all(0) & ~unused
        digits = lanes.digits(2 * self.digits)
        rows = np.flatnonzero(edge)
        digits[:, rows] = _edge_factor(lanes.take(rows), digits.take(rows, 1), used.take(rows), left.take(rows))
        consumed, b = digits[: self.digits], digits[self.digits :]
        _lead(lanes, consumed, used, used > 0)
        _lead(lanes, b, left, unused & ((left > 1) | lanes.chance(0.8)))
        consumed, b = _cut(consumed, used), _cut(b, left)
        limbs = self._limbs(consumed)
        register = np.array(multiplied(joined(a), limbs, len(limbs)))
        draws = np.where(edge, _EDGE, _TRAJECTORY).astype(np.uint8)
        return Drawn(a, b, draws, left, register, limbs)

    def registers(self, lanes: Lanes, room: Int32s) -> Drawn:
        """Products with a random register of at most `room` − 2 digits, so that the result fits in the room."""
        length, left, size = self._lengths(lanes, room)
        left = self._whole_steps(left)
        dense, tie = lanes.chance(0.5), lanes.chance(1 / 3)
        a, b, register = (lanes.digits(self.digits) for _ in range(3))
        first = (left - 1, np.arange(len(room)))
        d = b[first]
        rows = np.flatnonzero(dense)
        a[:, rows], d[rows], register[:, rows] = _made_dense(
            lanes.take(rows), a.take(rows, 1), d.take(rows), register.take(rows, 1)
        )
        # The columns of a repeated digit are equal, so long chains of every kind are possible.
        repeated = np.flatnonzero(tie & lanes.chance(0.4))
        a[:, repeated], d[repeated] = _repeated(lanes.take(repeated), d.take(repeated))
        b[first] = d
        for place in range(2, self.per_step + 1):
            other = (left - place, first[1])
            b[other] = np.where(dense & lanes.chance(0.5), d, b[other])
        group = np.stack([b[left - place, first[1]] for place in range(self.per_step, 0, -1)])
        _lead(lanes, a, length, np.ones(len(room), np.bool_))
        a, b, register = _cut(a, length), _cut(b, left), _cut(register, size)
        rows = np.flatnonzero(tie)
        parts = (a.take(rows, 1), length.take(rows), group.take(rows, 1), register.take(rows, 1), room.take(rows) - 2)
        a[:, rows], register[:, rows] = _tied_register(lanes.take(rows), *parts)
        # A register of zero would mean that nothing is consumed.
        register[0] += (register == 0).all(0) * (1 + lanes.below(9).astype(np.uint8))
        limbs = self._limbs(register)
        draws = np.where(tie, _TIE, np.where(dense, _DENSE, _RANDOM)).astype(np.uint8)
        return Drawn(a, b, draws, left, limbs, np.array(exact_quotients(limbs, joined(a))))

    def _lengths(self, lanes: Lanes, room: Int32s) -> tuple[Int32s, Int32s, Int32s]:
        """Digits of a, of b and of a random register."""
        half = room // 2
        length = np.where(lanes.chance(0.7), half + lanes.below(room - half), 1 + lanes.below(room - 1))
        left = np.where(lanes.chance(0.2), 1, 1 + lanes.below(np.minimum(room - 1, self.digits)))
        size = np.where(lanes.chance(0.5), room - 2, 1 + lanes.below(room - 2))
        return np.minimum(length, self.digits), left, size

    def _whole_steps(self, left: Int32s) -> Int32s:
        """Numbers of remaining digits [n] as whole steps, at least one: only the first may consume fewer digits."""
        return np.maximum(left // self.per_step * self.per_step, self.per_step).astype(np.int32)

    def _limbs(self, digits: Digits) -> NDArray[np.uint32]:
        """Limbs of numbers of up to `digits` digits, as many as a register has."""
        limbs = np.zeros((limb_count(self.digits + 1), digits.shape[1]), np.uint32)
        limbs[: limb_count(self.digits)] = joined(digits)
        return limbs

    def _number(self, lanes: Lanes, length: Int32s, edge: Flags) -> Digits:
        """Numbers of `length` [n] digits, with edge cases where `edge` is set; some one-digit numbers are zero."""
        digits = lanes.digits(self.digits)
        rows = np.flatnonzero(edge)
        digits[:, rows] = _edge_number(lanes.take(rows), digits.take(rows, 1), length.take(rows))
        _lead(lanes, digits, length, (length > 1) | lanes.chance(0.75))
        return _cut(digits, length)


def joined(digits: Digits) -> NDArray[np.uint32]:
    """Limbs, uint32 [limbs, n], of numbers given by their digits [columns, n], units first."""
    limbs = np.zeros((limb_count(len(digits)), digits.shape[1]), np.uint32)
    for place in reversed(range(len(digits))):
        limb = limbs[place // LIMB_DIGITS]
        limb *= np.uint32(10)
        limb += digits[place]
    return limbs


class _Window(NamedTuple):
    """Where the columns of a chain can be: lengths of both operands, whether the window reaches the top, all [n]."""

    first: Int32s
    second: Int32s
    top: Flags
    apart: Flags


def _tied(lanes: Lanes, a: Digits, b: Digits, window: _Window) -> tuple[Digits, Digits]:
    """Operands with a window of columns that pass a carry or borrow on, and a column below that starts one or not."""
    common = np.minimum(window.first, window.second)
    low, enters = lanes.chance(0.4), lanes.chance(0.5)
    start = np.where(low, lanes.below(2), lanes.below(common))
    start = np.minimum(np.where(enters, np.maximum(start, 1), start), common - 1)
    stop = np.where(window.top, common, start + 1 + lanes.below(common - start))
    # In some rows one operand ends below the window, such as 99950+60 and 10002-3.
    short, swapped = lanes.chance(0.2), lanes.chance(0.5)
    stop = np.where(short, np.where(window.apart, np.maximum(window.first - 1, start), window.first), stop)
    place = _places(a)
    inside = (place >= _small(start, place)) & (place < _small(stop, place))
    nines = np.where(window.apart, np.uint8(0), np.uint8(9))
    a = np.where(inside & short, nines, a)
    b = np.where(inside, np.where(window.apart, a, 9 - a), b)
    b *= ~(short & (place >= _small(start, place)))
    below, rows = np.maximum(start - 1, 0), np.arange(a.shape[1])
    first, second = _entering(lanes, a[below, rows].astype(np.int32), window.apart, enters)
    there = start > 0
    a[below, rows] = np.where(there, first, a[below, rows])
    b[below, rows] = np.where(there, second, b[below, rows])
    turned = short & swapped
    return np.where(turned, b, a), np.where(turned, a, b)


def _entering(lanes: Lanes, digit: Int32s, apart: Flags, enters: Flags) -> tuple[Int32s, Int32s]:
    """The two digits of a column [n] that carries or, where `apart`, has the smaller digit first if it `enters`."""
    small = apart == enters
    digit = np.where(small, np.minimum(digit, 8), np.maximum(digit, 1))
    more = lanes.below(np.where(small, 9 - digit, digit))
    lowest = np.where(enters, np.where(apart, digit + 1, 10 - digit), 0)
    return digit, lowest + more


def _edge_number(lanes: Lanes, digits: Digits, length: Int32s) -> Digits:
    """Digits of edge cases: 9/0 mixes, 0/1 mixes, nines, one repeated digit, 10…0, mostly zeros."""
    kind, large = lanes.below(6), digits >= 5
    repeated = 1 + lanes.below(9).astype(np.uint8)
    found = digits * (lanes.digits(len(digits)) < 3)
    kinds: tuple[Any, ...] = (9 * large, large, 9, repeated, 0)
    for number, values in enumerate(kinds):
        np.copyto(found, values, where=kind == number, casting="unsafe")
    np.copyto(found[0], digits[0], where=lanes.chance(0.3))
    _lead(lanes, found, length, lanes.chance(0.5), one=True)
    return found


def _edge_factor(lanes: Lanes, digits: Digits, used: Int32s, left: Int32s) -> Digits:
    """Digits of edge cases, the `used` ones before the `left` ones: one repeated digit, nines, 10…0, 10…01, zeros."""
    kind, size = lanes.below(5), len(digits) // 2
    repeated = 1 + lanes.below(9).astype(np.uint8)
    found = digits * (lanes.digits(len(digits)) < 3)
    kinds: tuple[Any, ...] = (repeated, 9, 0, 0)
    for number, values in enumerate(kinds):
        np.copyto(found, values, where=kind == number, casting="unsafe")
    found[size] += kind == 3
    power, rows = (kind == 2) | (kind == 3), np.arange(len(kind))
    top = np.where(used > 0, used - 1, size + left - 1)
    found[top, rows] = np.where(power, 1, found[top, rows])
    return found


def _made_dense(lanes: Lanes, a: Digits, d: Digits, register: Digits) -> tuple[Digits, Digits, Digits]:
    """The larger of two draws of every digit; in half of the rows, digits whose products have large units or tens."""
    loaded = lanes.chance(0.5)
    a = np.maximum(a, lanes.digits(len(a)))
    register = np.maximum(register, lanes.digits(len(register)))
    d = np.maximum(d, lanes.below(10).astype(np.uint8))
    d = np.where(loaded, np.maximum(d, lanes.below(10).astype(np.uint8)), d)
    kind = lanes.digits(len(a))
    np.copyto(a, _LARGE_UNITS.take(d), where=loaded & (kind < 3))
    np.copyto(a, np.uint8(9), where=loaded & (kind >= 7))
    np.copyto(register, np.uint8(9), where=loaded & (lanes.digits(len(register)) < 3))
    return a, d, register


def _repeated(lanes: Lanes, d: Digits) -> tuple[Digits, Digits]:
    """A repeated digit of the first factor and a digit of the second one, mostly with large products, each [n]."""
    d = np.where(lanes.chance(0.4), 9, np.maximum(d, lanes.below(10))).astype(np.uint8)
    return np.where(lanes.chance(0.5), _LARGE_UNITS.take(d), 1 + lanes.below(9)).astype(np.uint8), d


def _tied_register(
    lanes: Lanes, a: Digits, length: Int32s, group: Digits, register: Digits, most: Int32s
) -> tuple[Digits, Digits]:
    """First factors of `length` [n] digits, and registers with a window of ties below `most` [n] digits.

    In the window, every column total plus its carry ends in 9, or in 0 in half of the rows.
    """
    ten = lanes.chance(0.5).astype(np.uint8)
    start = 1 + np.where(lanes.chance(0.4), lanes.below(2), lanes.below(most))
    # A large column below the window: without it, hardly a carry of one or two would enter.
    large = lanes.below(3)
    start = np.minimum(np.where(large > 0, np.maximum(start, 2), start), most)
    stop = np.where(lanes.chance(0.5), most, start + lanes.below(most - start + 1))
    rows = np.flatnonzero((large > 0) & (start > 1))
    register[start.take(rows) - 2, rows] = 9
    rows = np.flatnonzero((large > 1) & (start > 1) & (start < length))
    a[start.take(rows) - 1, rows] = _LARGE_UNITS.take(group[-1].take(rows))
    a[start.take(rows) - 2, rows] = 9
    place = _places(a, 1)
    inside = (place >= _small(start, place)) & (place <= _small(stop, place))
    per_step, totals = len(group), product_totals(a, group)
    most_carry = largest_carry(per_step)
    carry = np.zeros(a.shape[1], np.uint8)
    for column in range(len(a) + per_step):
        total = totals[column] + carry
        if (digit := column - per_step) >= 0:
            # The large number keeps the difference positive.
            wanted = (np.uint8(10 * most_carry + 19) + ten - total) % np.uint8(10)
            np.copyto(register[digit], wanted, where=inside[digit])
            total += register[digit]
        carry = carry_of(total, most_carry)
    return a, register


def largest_carry(per_step: int) -> int:
    """The largest carry of a step that consumes so many digits: totals are at most 17 for each digit, and 9."""
    return 2 * per_step


def carry_of(totals: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Tens of totals [n] of less than 10·(`most` + 1): comparisons are faster than a division."""
    carry = (totals >= 10).view(np.uint8)
    for tens in range(2, most + 1):
        carry = carry + (totals >= 10 * tens)
    return carry


def product_totals(a: Digits, group: Digits) -> Digits:
    """Column totals, without carries, of |a| times the number with digits `group` [k, n], uint8 [columns + k, n].

    Each digit of the group adds the units of its product with a column's digit, and the tens of that one column below.
    """
    totals = np.zeros((len(a) + len(group), a.shape[1]), np.uint8)
    for place, digit in enumerate(group):
        products = a * digit
        tens = products // np.uint8(10)
        products -= tens * np.uint8(10)
        totals[place : place + len(a)] += products
        totals[place + 1 : place + 1 + len(a)] += tens
    return totals


def _lead(lanes: Lanes, digits: Digits, length: Int32s, where: Flags, *, one: bool = False) -> None:
    """Replaces leading zeros of numbers of `length` digits at the rows in `where`, at random or by one."""
    rows = np.arange(digits.shape[1])
    place = np.maximum(length - 1, 0)
    top = digits[place, rows]
    nonzero = 1 if one else 1 + lanes.below(9)
    digits[place, rows] = np.where(where & (top == 0), nonzero, top)


def _cut(digits: Digits, length: Int32s) -> Digits:
    """The digits without those above `length` [n]."""
    place = _places(digits)
    digits *= place < _small(length, place)
    return digits


def _places(digits: Digits, first: int = 0) -> NDArray[np.unsignedinteger]:
    """Numbers of the columns from `first`, [columns, 1], in a small type: comparisons are faster."""
    places = np.arange(first, first + len(digits))[:, None]
    return places.astype(np.uint8 if len(digits) < 250 else np.uint16)


def _small(values: Int32s, like: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    return values.astype(like.dtype)
