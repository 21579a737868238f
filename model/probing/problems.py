"""The problems that a run is probed with: drawn from what its corpus holds, with numbers and lengths held out.

A number is held out of a probe's training by a hash of its own, so that no problem of one part holds a number of the
other. Lengths are drawn so that short problems are not drowned by long ones.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from model.run import RunConfig
from storage.errors import UserError
from storage.order import derive_key

# One in this many numbers is held out.
_HELD_ONE_IN = 4
_TRIES = 1_000
_LONGEST_NUMBERS = 12
"""Digits of the longest operands: what is asked of longer ones is told by these."""


class Drawn(NamedTuple):
    """Problems in text."""

    train: list[str]
    """Of numbers that are not held out."""
    held: list[str]
    """Of held-out numbers alone."""


def is_held(number: int) -> bool:
    """Whether a number is held out of the training of probes."""
    return derive_key("held out of probes", str(number)) % _HELD_ONE_IN == 0


def draw(config: RunConfig, problems: int, seed: int = 0) -> Drawn:
    """Problems of a run's corpus: `problems` to train probes on, and a third as many of held-out numbers.

    Raises `UserError` where the corpus has too few numbers for some to be held out.
    """
    found = []
    for held, count in ((False, problems), (True, problems // 3)):
        chance = random.Random(derive_key("probed problems", seed, int(held)))
        weights = [float(part.get("weight", 1)) for part in config.parts]
        parts = chance.choices(config.parts, weights, k=count)
        found.append([_problem(chance, part, held) for part in parts])
    return Drawn(*found)


def longest_operand(problem: str) -> int:
    """Digits of the longest operand."""
    return max(len(number) for number in "".join(c if c.isdigit() else " " for c in problem).split())


def _problem(chance: random.Random, part: Mapping[str, Any], held: bool) -> str:
    """One problem of a family of problems."""
    grid = part["family"] == "grid"
    terms = part["terms"] if grid else chance.randint(part["min_terms"], part["terms"])
    least, most = (len(str(part[end])) for end in ("low", "high")) if grid else (part["min_digits"], part["digits"])
    # Long ones more often than short ones, as there are more of them.
    lengths = range(min(least, _LONGEST_NUMBERS), min(most, _LONGEST_NUMBERS) + 1)
    longest = chance.choices(lengths, lengths)[0]
    full = chance.randrange(terms)
    numbers = [
        str(_number(chance, part, longest if term == full else chance.randint(lengths[0], longest), held))
        for term in range(terms)
    ]
    operators = [chance.choice(list(part["operators"])) for _ in range(terms - 1)]
    if part["family"] == "expression":
        return _tree(chance, numbers, operators, part["depth"])
    return numbers[0] + "".join(operator + number for operator, number in zip(operators, numbers[1:], strict=True))


def _number(chance: random.Random, part: Mapping[str, Any], length: int, held: bool) -> int:
    low, high = 10 ** (length - 1) if length > 1 else 0, 10**length - 1
    if part["family"] == "grid":
        low, high = max(low, part["low"]), min(high, part["high"])
    for _ in range(_TRIES):
        number = chance.randint(low, high)
        if is_held(number) == held:
            return number
    raise UserError(
        f"the corpus has too few numbers of {length} digits ({low} to {high}) to hold some out of the probes: "
        "probe a run of another one"
    )


def _tree(chance: random.Random, numbers: Sequence[str], operators: Sequence[str], depth: int) -> str:
    """Numbers bracketed at random, as deep as is allowed, without a bracket that could be left out."""
    for _ in range(_TRIES):
        text, _ = _node(chance, numbers, operators)
        if _depth(text) <= depth:
            return text
    return numbers[0] + "".join(operator + number for operator, number in zip(operators, numbers[1:], strict=True))


def _node(chance: random.Random, numbers: Sequence[str], operators: Sequence[str]) -> tuple[str, int]:
    """The text of a node, and how strongly it binds: 1 a sum, 2 a product, 3 a number."""
    if len(numbers) == 1:
        return numbers[0], 3
    middle = chance.randrange(1, len(numbers))
    left, left_binds = _node(chance, numbers[:middle], operators[: middle - 1])
    right, right_binds = _node(chance, numbers[middle:], operators[middle:])
    operator = operators[middle - 1]
    binds = 2 if operator == "*" else 1
    if left_binds < binds:
        left = f"({left})"
    if right_binds < binds or (operator == "-" and right_binds == 1):
        right = f"({right})"
    return left + operator + right, binds


def _depth(text: str) -> int:
    depth, deepest = 0, 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest
