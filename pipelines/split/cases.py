"""Listed problems of two operands, and products of special numbers, which are a list that is not reserved."""

import random
from functools import lru_cache
from typing import NamedTuple

# Edge cases are reserved since this generator version; later ones state their version.
_FIRST = 2
# Pairs of special factors, and their most digits.
_PRODUCT_PAIRS, _PRODUCT_DIGITS = 150_000, 12


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
