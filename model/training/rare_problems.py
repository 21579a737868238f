"""SQL predicate for the rare problems of a grid of sums: its corners, and sums in which a carry decides the hundreds.

Uniform sampling rarely draws them: of 10⁸ sums of four numbers 0–99, one in 5,000 has only small or only large
numbers. Without oversampling, 2 to 12 % of them are answered wrongly (EXPERIMENTS.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

RARE = "rare"
# If corners hold more than this share of a grid, uniform sampling draws enough of them.
_SPARSE = 0.01


def corner_ranges(part: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Operand ranges of a grid's corners, its lowest and highest tenth; empty for other families and small grids."""
    if part["family"] != "grid":
        return []
    low, high, size = part["low"], part["high"], (part["high"] - part["low"] + 1) // 10
    return [(low, low + size - 1), (high - size + 1, high)] if size else []


def rare_problems(parts: Sequence[Mapping[str, Any]]) -> str:
    """SQL predicate for the rare problems of all grids of sums in a corpus; empty if there are none.

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
