"""Draws the problems for probing from the families of a run's corpus, with held-out numbers.

A hash decides which numbers of two or more digits are held out, so no such number is in both parts. Held-out problems
contain no one-digit numbers. If a corpus has only one-digit numbers, problems are held out instead, by a hash that
ignores the order of their numbers. No problem is drawn twice. Lengths are drawn so that short problems stay
represented.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from model.probing.labels import Problem
from model.runs.run_config import RunConfig
from storage.errors import UserError
from storage.order import derive_key

# One in this many numbers is held out.
_HELD_ONE_IN = 4
_TRIES = 1_000
# Maximum number of draws per requested problem.
_DRAWS = 4
_LONGEST_NUMBERS = 12
"""Most digits of an operand; longer operands are not drawn."""


class Drawn(NamedTuple):
    """Problems in text form."""

    train: list[str]
    """Problems without held-out numbers."""
    held_out: list[str]
    """Problems with only held-out numbers; for families of one-digit numbers, held-out problems."""


def is_held_out(text: str) -> bool:
    """Whether a number or a problem is held out from the training of probes."""
    return derive_key("held out of probes", text) % _HELD_ONE_IN == 0


def draw(config: RunConfig, problems: int, seed: int = 0) -> Drawn:
    """Problems of a run's corpus: `problems` to train probes, and a third as many with held-out numbers.

    Small corpora give fewer. Raises `UserError` if the corpus has too few numbers or problems to hold some out.
    """
    found = []
    for held_out, count in ((False, problems), (True, problems // 3)):
        chance = random.Random(derive_key("probed problems", seed, int(held_out)))
        weights = [float(part.get("weight", 1)) for part in config.parts]
        # A dictionary keeps the order and removes duplicates.
        texts: dict[str, None] = {}
        for part in chance.choices(config.parts, weights, k=_DRAWS * count):
            if len(texts) == count:
                break
            texts[_problem(chance, part, held_out)] = None
        found.append(list(texts))
    return Drawn(*found)


def _problem(chance: random.Random, part: Mapping[str, Any], held_out: bool) -> str:
    """One problem of a family."""
    least, most = _lengths(part)
    if most > 1:
        return _text(chance, part, range(max(2, least) if held_out else least, most + 1), held_out)
    for _ in range(_TRIES):
        text = _text(chance, part, range(1, 2), None)
        if is_held_out("".join(sorted(text))) == held_out:
            return text
    raise UserError("the corpus has too few problems to hold some out from the probes: probe a run of another corpus")


def _lengths(part: Mapping[str, Any]) -> tuple[int, int]:
    """Digits of a family's shortest and longest numbers, limited to `_LONGEST_NUMBERS`."""
    if part["family"] == "grid":
        return len(str(part["low"])), min(len(str(part["high"])), _LONGEST_NUMBERS)
    return min(part["min_digits"], _LONGEST_NUMBERS), min(part["digits"], _LONGEST_NUMBERS)


def _text(chance: random.Random, part: Mapping[str, Any], lengths: range, held_out: bool | None) -> str:
    """A problem with numbers of these lengths, held out or not, or any if `held_out` is None."""
    terms = part["terms"] if part["family"] == "grid" else chance.randint(part["min_terms"], part["terms"])
    # In proportion to the length, because there are more long numbers than short ones.
    longest = chance.choices(lengths, lengths)[0]
    full = chance.randrange(terms)
    numbers = [
        str(_number(chance, part, longest if term == full else chance.randint(lengths[0], longest), held_out))
        for term in range(terms)
    ]
    operators = [chance.choice(list(part["operators"])) for _ in range(terms - 1)]
    if part["family"] in ("expression", "marks"):
        return _tree(chance, numbers, operators, part["depth"])
    return _chain(numbers, operators)


def _number(chance: random.Random, part: Mapping[str, Any], length: int, held_out: bool | None) -> int:
    low, high = 10 ** (length - 1) if length > 1 else 0, 10**length - 1
    if part["family"] == "grid":
        low, high = max(low, part["low"]), min(high, part["high"])
    for _ in range(_TRIES):
        number = chance.randint(low, high)
        if held_out is None or length == 1 or is_held_out(str(number)) == held_out:
            return number
    raise UserError(
        f"the corpus has too few numbers of {length} digits ({low} to {high}) to hold some out from the probes: "
        "probe a run of another corpus"
    )


def _tree(chance: random.Random, numbers: Sequence[str], operators: Sequence[str], depth: int) -> str:
    """Numbers with random brackets up to a depth, without redundant brackets."""
    for _ in range(_TRIES):
        text, _ = _node(chance, numbers, operators)
        if Problem(text).depth <= depth:
            return text
    return _chain(numbers, operators)


def _chain(numbers: Sequence[str], operators: Sequence[str]) -> str:
    """The text of a problem without brackets, such as 1+2-3."""
    return numbers[0] + "".join(operator + number for operator, number in zip(operators, numbers[1:], strict=True))


def _node(chance: random.Random, numbers: Sequence[str], operators: Sequence[str]) -> tuple[str, int]:
    """The text of a node, and its precedence: 1 for a sum, 2 for a product, 3 for a number."""
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
