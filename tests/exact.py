"""The exact value of a problem of any family, by Python's integers."""

import re


def value_of(problem: str) -> int:
    """The answer of an expression, or of a step of a product, such as 345*2:2070."""
    if step := re.fullmatch(r"(-?\d+)\*(-?)(\d)\d*:(\d+)", problem):
        a, minus, digit, register = int(step[1]), step[2], int(step[3]), int(step[4])
        return (10 * register + abs(a) * digit) * (-1 if step[1].startswith("-") ^ bool(minus) else 1)
    return int(eval(problem))
