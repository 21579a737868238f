"""Listed problems of two operands: products of special numbers, and chains of carries. Neither list is reserved."""

import random
from functools import lru_cache
from typing import NamedTuple

# Edge cases are reserved since this generator version; later ones state their version.
_FIRST = 2
# Pairs of special factors, and their most digits.
_PRODUCT_PAIRS, _PRODUCT_DIGITS = 150_000, 12
# Chains of each kind, so that the usual test share of 1 % has more than a thousand; their fewest and most digits.
_CHAINS, _CHAIN_LENGTHS = 115_000, (5, 60)


class Case(NamedTuple):
    """A listed problem of two operands, its kind, and the first generator version that reserves it."""

    left: int
    operator: str
    right: int
    kind: str
    since: int = _FIRST

    @property
    def text(self) -> str:
        return f"{self.left}{self.operator}{self.right}"

    @property
    def answer(self) -> int:
        if self.operator == "*":
            return self.left * self.right
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def digits(self) -> int:
        """Number of digits of the longer operand."""
        return len(str(max(self.left, self.right)))


@lru_cache(maxsize=1)
def special_products() -> tuple[Case, ...]:
    """Products of two special numbers, each of which is rare among random numbers; the kind is that of the first."""
    by_kind = {kind: sorted(found) for kind, found in _special_numbers().items()}
    numbers = [number for found in by_kind.values() for number in found]
    kinds, draw = [*by_kind], random.Random(2026)
    cases: dict[tuple[int, int], Case] = {}
    for index in range(_PRODUCT_PAIRS):
        kind = kinds[index % len(kinds)]
        left, right = draw.choice(by_kind[kind]), draw.choice(numbers)
        cases.setdefault((left, right), Case(left, "*", right, kind))
    return tuple(cases.values())


def _special_numbers() -> dict[str, set[int]]:
    """Numbers of up to `_PRODUCT_DIGITS` digits by kind."""
    lengths = range(2, _PRODUCT_DIGITS + 1)
    ones = [(10**length - 1) // 9 for length in lengths]
    powers = [10 ** (length - 1) for length in lengths]
    digits = range(1, 10)
    return {
        "repeated digit": {digit * number for digit in digits for number in ones},
        "nines": {9 * number - change * power for number in ones for power in (1, 10) for change in range(3)},
        "inner zeros": {first * power + last for first in digits for last in digits for power in powers[1:]},
        "near a power of ten": {power + change for power in powers for change in (-1, 0, 1)},
    }


@lru_cache(maxsize=1)
def carry_chains() -> tuple[Case, ...]:
    """Sums and differences in which a carry or a borrow passes through every column, and others that look alike.

    In a sum, every column but the lowest has the total 9. In a difference, all but the lowest and the highest have
    equal digits. The lowest column starts the carry or the borrow, or does not.
    """
    draw = random.Random(2027)
    cases: dict[tuple[int, str, int], Case] = {}
    for index in range(4 * _CHAINS):
        starts, chain = index % 2 == 0, _sum_chain if index % 4 < 2 else _difference_chain
        case = chain(draw, draw.randint(*_CHAIN_LENGTHS), starts)
        cases.setdefault((case.left, case.operator, case.right), case)
    return tuple(cases.values())


def _sum_chain(draw: random.Random, digits: int, starts: bool) -> Case:
    power = 10 ** (digits - 1)
    left = draw.randrange(power // 10, power) * 10 + draw.randint(1, 9)
    complement, unit = 10 * power - 1 - left, left % 10
    right = complement + draw.randint(1, unit) if starts else complement - draw.randint(0, 9 - unit)
    if draw.random() < 0.5:
        left, right = right, left
    return Case(left, "+", right, "carry chain" if starts else "chain without a carry")


def _difference_chain(draw: random.Random, digits: int, starts: bool) -> Case:
    power = 10 ** (digits - 1)
    low = draw.randrange(power // 10) * 10
    unit = draw.randint(0, 8) if starts else draw.randint(0, 9)
    other = draw.randint(unit + 1, 9) if starts else draw.randint(0, unit)
    first = draw.randint(1, 9)
    left, right = first * power + low + unit, draw.randrange(first) * power + low + other
    return Case(left, "-", right, "borrow chain" if starts else "chain without a borrow")
