"""Exact integer arithmetic on arrays of any length: numbers as limbs of eight decimal digits.

A block of n numbers is a sequence of limbs, lowest first, each an array [n] with values below 10⁸. It uses no floats
and no Python integer per row. Source of the methods: Knuth, The Art of Computer Programming, volume 2, section 4.3.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMB_DIGITS = 8
BASE = 10**LIMB_DIGITS

Int64s = NDArray[np.int64]
Limbs = Sequence[NDArray[Any]] | NDArray[Any]
Flags = NDArray[np.bool_]

_BASE = np.int64(BASE)
_COLUMN_ROWS = 1 << 12


def limb_count(digits: int) -> int:
    """Number of limbs for a number of `digits` digits."""
    return -(-digits // LIMB_DIGITS)


def limbs_of(values: NDArray[np.integer], most: int) -> list[Int64s]:
    """Limbs of non-negative integers [n], none above `most`."""
    limbs, rest = list[Int64s](), values.astype(np.int64)
    for _ in range(limb_count(len(str(most))) - 1):
        quotient = rest // _BASE
        limbs.append(rest - quotient * _BASE)
        rest = quotient
    return [*limbs, rest]


def carried(limbs: Limbs) -> tuple[list[Int64s], Flags]:
    """Normalises limbs of any sign and size up to 2⁶²: returns the limbs of the magnitudes, and the negative flags [n].

    The last limb must have room for the carry into it.
    """
    digits, over = _carry(limbs)
    negative = over < 0
    rows = np.flatnonzero(negative)
    if rows.size:
        negated, _ = _carry([-limb.take(rows) for limb in limbs])
        for limb, values in zip(digits, negated, strict=True):
            limb[rows] = values
    return digits, negative


def multiplied(left: Limbs, right: Limbs, size: int) -> list[Int64s]:
    """The lowest `size` limbs of the products of non-negative numbers, with carries resolved."""
    rows = len(left[0])
    columns = [np.zeros(rows, np.int64) for _ in range(size)]
    wide = [limb.astype(np.int64) for limb in right]
    # A column can sum 900 products below 10¹⁶ within 63 bits.
    assert min(len(left), len(right)) <= 900, "numbers of more than 7,200 digits are not possible"
    for i, limb in enumerate(left):
        factor = limb.astype(np.int64)
        for j in range(min(len(wide), size - i)):
            columns[i + j] += factor * wide[j]
    return _carry(columns)[0]


def exact_quotients(dividends: Limbs, divisors: Limbs) -> list[Int64s]:
    """Quotients of non-negative numbers, as many limbs as the dividends; zero unless the division is exact.

    A quotient by zero is zero.
    """
    if len(dividends) <= 2:
        low, *high = (limb.astype(np.int64) for limb in dividends)
        dividend = low + high[0] * _BASE if high else low
        divisor = divisors[0].astype(np.int64)
        for number, limb in enumerate(divisors[1:], 1):
            # A divisor above the dividends gives zero, whatever its highest limbs are.
            divisor += np.where(limb != 0, limb.astype(np.int64) * _BASE if number == 1 else _BASE**2, 0)
        divisor += divisor == 0
        quotient = dividend // divisor
        quotient *= (quotient * divisor == dividend) & (_is_positive(divisors))
        return limbs_of(quotient, BASE**2 - 1)[: len(dividends)]
    return _long_quotients(dividends, divisors)


def digit_counts(limbs: Limbs) -> NDArray[np.int32]:
    """Number of decimal digits of non-negative numbers [n]; zero has one."""
    highest = limbs[0].astype(np.uint32)
    below = np.zeros(len(highest), np.int32)
    for number, limb in enumerate(limbs[1:], 1):
        there = limb != 0
        np.copyto(highest, limb, where=there, casting="unsafe")
        np.copyto(below, np.int32(number * LIMB_DIGITS), where=there)
    return below + integer_digits(highest)


def integer_digits(values: NDArray[np.integer]) -> NDArray[np.int32]:
    """Number of decimal digits of non-negative integers [n]; zero has one."""
    counts = np.ones(len(values), np.uint8)
    for digits in range(1, len(str(int(values.max(initial=0))))):
        counts += values >= 10**digits
    return counts.astype(np.int32)


def digit_columns(limbs: Limbs, digits: int) -> NDArray[np.uint8]:
    """The lowest `digits` decimal digits, uint8 [digits, n], lowest first."""
    columns = np.zeros((digits, len(limbs[0])), np.uint8)
    for number, limb in enumerate(limbs):
        rest, ten = limb, limb.dtype.type(10)
        for place in range(number * LIMB_DIGITS, min(digits, (number + 1) * LIMB_DIGITS)):
            quotient = rest // ten
            columns[place] = rest - quotient * ten
            rest = quotient
    return columns


def sum_carries(columns: NDArray[np.signedinteger]) -> NDArray[np.int32]:
    """Longest run of adjacent columns that carry or borrow, int32 [n], from signed column sums [digits, n].

    The total must be non-negative.
    """
    carry = np.zeros(columns.shape[1], columns.dtype)
    run = np.zeros(columns.shape[1], np.int16)
    longest = np.zeros(columns.shape[1], np.int16)
    for column in columns:
        carry = (column + carry) // columns.dtype.type(10)
        run += np.int16(1)
        run *= carry != 0
        np.maximum(longest, run, out=longest)
    return longest.astype(np.int32)


def product_carries(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Longest run of carries over the column sums of long multiplication, from both factors' digits [digits, n]."""
    rows = left.shape[1]
    longest = np.empty(rows, np.int32)
    for first in range(0, rows, _COLUMN_ROWS):
        part = slice(first, min(rows, first + _COLUMN_ROWS))
        a, b = left[:, part].astype(np.int16), right[:, part].astype(np.int16)
        # Each digit pair adds at most 81 to a column; with the incoming carry the bound is 90.
        small = 90 * min(len(a), len(b)) <= np.iinfo(np.int16).max
        columns = np.zeros((len(a) + len(b), a.shape[1]), np.int16 if small else np.int32)
        product = np.empty_like(b)
        for place, digit in enumerate(a):
            np.multiply(b, digit, out=product)
            columns[place : place + len(b)] += product
        longest[part] = sum_carries(columns)
    return longest


def _is_positive(limbs: Limbs) -> Flags:
    positive: Flags = limbs[0] != 0
    for limb in limbs[1:]:
        positive = positive | (limb != 0)
    return positive


def _long_quotients(dividends: Limbs, divisors: Limbs) -> list[Int64s]:
    """`exact_quotients` by long division with signed quotient limbs.

    Three limbs of the divisor and five of the remainder estimate a limb of the quotient to the nearest integer. So each
    remainder is at most half of the shifted divisor, and the last one is zero if and only if the division is exact.
    """
    size, rows = len(dividends), len(dividends[0])
    wide = np.zeros((max(size, len(divisors)) + 2, rows), np.int64)
    for number, limb in enumerate(divisors):
        wide[number + 2] = limb
    # Two limbs below the units and two above the top are zero, so that every estimate has its limbs.
    rest = np.zeros((size + 4, rows), np.int64)
    for number, limb in enumerate(dividends):
        rest[number + 2] = limb
    highest = np.zeros(rows, np.intp)
    for number, limb in enumerate(divisors):
        highest[limb != 0] = number
    every = np.arange(rows)
    divisor = sum(wide[highest + offset, every] * float(BASE) ** (offset - 2) for offset in range(3))
    divisor = np.maximum(divisor, 1.0)
    quotient = np.zeros((size, rows), np.int64)
    for shift in reversed(range(size)):
        fits = highest + shift < size
        top = np.where(fits, highest + shift, 0)
        value = sum(rest[top + offset, every] * float(BASE) ** (offset - 2) for offset in range(5))
        estimate = np.rint(np.where(fits, value / divisor, 0)).astype(np.int64)
        quotient[shift] = estimate
        for number in range(min(len(divisors), size - shift)):
            rest[number + shift + 2] -= estimate * wide[number + 2]
        _normalise(rest[shift + 2 : size + 2])
    exact = ~_is_positive(rest) & _is_positive(divisors)
    return _carry(quotient * exact)[0]


def _normalise(limbs: NDArray[np.int64]) -> None:
    """Carries between limbs in place, to limbs from −BASE/2: a small negative number has no high limbs."""
    for number in range(len(limbs) - 1):
        carry = (limbs[number] + _BASE // 2) // _BASE
        limbs[number] -= carry * _BASE
        limbs[number + 1] += carry


def _carry(limbs: Limbs) -> tuple[list[Int64s], Int64s]:
    carry = np.zeros(len(limbs[0]), np.int64)
    digits = []
    for limb in limbs:
        value = limb + carry
        carry = value // _BASE
        digits.append(value - carry * _BASE)
    return digits, carry
