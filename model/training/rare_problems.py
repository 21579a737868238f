"""The rare problems of a grid of sums, as SQL: its corners, and sums in which a carry decides the hundreds.

Uniform sampling hardly shows them. Of 10⁸ sums of four numbers 0–99 one in 5,000 has only small or only large numbers.
Without rows of their own these are wrong in 2 to 12 % (EXPERIMENTS.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

RARE = "rare"
# Where corners hold more than this share, chance shows enough of them.
_SPARSE = 0.01


def corner_ranges(part: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Smallest and largest operand of each corner of a grid (its lowest and highest tenth); none of other families."""
    if part["family"] != "grid":
        return []
    low, high, size = part["low"], part["high"], (part["high"] - part["low"] + 1) // 10
    return [(low, low + size - 1), (high - size + 1, high)] if size else []


def rare_problems(parts: Sequence[Mapping[str, Any]]) -> str:
    """SQL that keeps the rare problems of the grids of sums among a corpus's parts; empty where there are none.

    They are the corners of each grid, and a quarter as many sums that end in 99 or 00.
    """
    found = []
    for part in parts:
        ranges = corner_ranges(part)
        if not ranges or tuple(part["operators"]) != ("+",):
            continue
        terms, width = part["terms"], part["high"] - part["low"] + 1
        share = sum(((last - first + 1) / width) ** terms for first, last in ranges)
        if share > _SPARSE:
            continue
        operands = ", ".join(chr(ord("a") + number) for number in range(terms))
        kinds = [f"least({operands}) >= {first} AND greatest({operands}) <= {last}" for first, last in ranges]
        kinds.append(f"sum % 100 IN (0, 99) AND id % {max(1, round(0.08 / share))} = 0")
        found.append(f"(family = 'grid' AND terms = {terms} AND ({' OR '.join(f'({kind})' for kind in kinds)}))")
    return " OR ".join(found)
