"""Oracles of single steps: what a step is by its text, and what its columns carry, by loops over Python's integers."""

import re
from itertools import groupby
from typing import Any, NamedTuple

LITERAL = r"-?(?:0|[1-9]\d*)"


class Step(NamedTuple):
    """A step as read from its text; `register` and `digit` are None for a sum."""

    a: int
    operator: str
    b: str
    register: int | None
    size: int = 1

    @property
    def group(self) -> str:
        """The digits of b that the step consumes, so that a multiple of `size` remains."""
        digits = self.b.lstrip("-")
        return digits[: (len(digits) - 1) % self.size + 1]

    @property
    def digit(self) -> int:
        assert self.size == 1
        return int(self.group)

    @property
    def apart(self) -> bool:
        """Whether the magnitudes of a sum are subtracted."""
        return (self.a < 0) ^ self.b.startswith("-") ^ (self.operator == "-")

    @property
    def answer(self) -> int:
        if self.register is None:
            return self.a + int(self.b) if self.operator == "+" else self.a - int(self.b)
        sign = -1 if (self.a < 0) ^ self.b.startswith("-") else 1
        return sign * (10**self.size * self.register + abs(self.a) * int(self.group))


def read(text: str, size: int = 1) -> Step:
    if match := re.fullmatch(rf"({LITERAL})\*(-?\d+):(0|[1-9]\d*)", text):
        return Step(int(match[1]), "*", match[2], int(match[3]), size)
    match = re.fullmatch(rf"({LITERAL})([-+])({LITERAL})", text)
    assert match, text
    return Step(int(match[1]), match[2], match[3], None)


class Columns(NamedTuple):
    """What the oracle says of the columns of a step."""

    carries: int
    total: int
    carry: int
    bound: int


def columns_of(step: Step) -> Columns:
    a, b = str(abs(step.a))[::-1], step.b.lstrip("-")[::-1]
    if step.register is not None:
        register = str(step.register)[::-1]
        parts = [[int(digit) * int(d) for digit in a] for d in reversed(step.group)]
        size = max(len(a), len(register)) + step.size + 1
        totals = [
            sum(digit_at(part, k - j) % 10 + digit_at(part, k - j - 1) // 10 for j, part in enumerate(parts))
            + digit_at(register, k - step.size)
            for k in range(size)
        ]
        return added(totals, 2 * step.size)
    size = max(len(a), len(b))
    if not step.apart:
        return added([digit_at(a, k) + digit_at(b, k) for k in range(size)] + [0], 1)
    return compared([digit_at(a, k) - digit_at(b, k) for k in range(size)])


def digit_at(digits: Any, place: int) -> int:
    return int(digits[place]) if 0 <= place < len(digits) else 0


def added(totals: list[int], most: int) -> Columns:
    carries = [0]
    for total in totals:
        carries.append((total + carries[-1]) // 10)
    # Bounds on the carry into each column, tightened by all columns at once.
    low, high = [0] * len(totals), [0] + [most] * (len(totals) - 1)
    bound = 0
    while low != high:
        bound += 1
        low, high = (
            [0, *[(total + c) // 10 for total, c in zip(totals, side, strict=True)][:-1]] for side in (low, high)
        )
    assert low == carries[:-1]
    return Columns(longest_run(carries[1:]), max(totals), max(carries), bound)


def compared(differences: list[int]) -> Columns:
    sign = -1 if sum(d * 10**k for k, d in enumerate(differences)) < 0 else 1
    borrow, borrows = 0, []
    for difference in differences:
        borrow = int(sign * difference - borrow < 0)
        borrows.append(borrow)
    # Moves after which it is known which number is larger up to and with each column.
    moves = list[int]()
    for difference in differences:
        moves.append(1 + moves[-1] if moves and not difference else 1)
    # A digit needs what is known below its column, and one move after the comparison of the whole numbers.
    bound = max(*moves, moves[-1] + 1)
    return Columns(longest_run(borrows), max(map(abs, differences)), max(borrows), bound)


def longest_run(carries: list[int]) -> int:
    return max((len(list(run)) for some, run in groupby(carries, bool) if some), default=0)
