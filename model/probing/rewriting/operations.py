"""Operations that are drawn for probing, and the labels of their places.

Operations are drawn at random, so some may have been trained on. Probes are tested on operations that they were not
fitted on, and on longer ones.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch

from model.network.rewriting.encoder import CARRIES
from model.network.rewriting.rows import MULTIPLY, Operations
from model.objectives.column_chains import column_chains
from model.probing.token_dataset import UNKNOWN, Examples, Labels, chosen_places
from model.tokenizer import REGISTER
from storage.order import derive_key

# Kinds of drawn operations; half are steps of products.
_OPERATORS = "**+-"
_BLANKS = str.maketrans(f"+-*{REGISTER}", "    ")


def drawn_operations(count: int, digits: range, seed: int) -> list[str]:
    """`count` different sums, differences and steps of products of numbers of `digits` digits."""
    draw = random.Random(derive_key("probed operations", str(seed), str(digits)))
    found: dict[str, None] = {}
    while len(found) < count:
        operator = draw.choice(_OPERATORS)
        first, second, register = (number(draw, draw.choice(digits)) for _ in range(3))
        found[f"{first}{operator}{second}" + f"{REGISTER}{register}" * (operator == "*")] = None
    return [*found]


def number(draw: random.Random, digits: int) -> str:
    """A random number of so many digits."""
    return str(draw.randrange(10 ** (digits - 1), 10**digits))


def examples_of_places(texts: Sequence[str], operations: Operations) -> Examples:
    """At most two places of each operation, below the result's length, with their labels.

    Labels are the result's digit, the carry into the place, or for a difference of magnitudes the comparison of all
    lower digits, the sum of the column, and the digit that a product's step consumes.
    """
    results = [exact_result(text) for text in texts]
    labels = _labels(results, operations)
    chosen = [
        (problem, place) for problem, result in enumerate(results) for place in chosen_places(problem, len(result))
    ]
    problem, place = np.array(chosen, np.intp).T
    contents = operations.fields.cpu().numpy()
    types = [
        derive_key("column", *map(str, (contents[row, 0, at], contents[row, 1, at], contents[row, 2, at - 1]))) >> 1
        for row, at in zip(problem, place + 1, strict=True)
    ]
    numbers = [[_key(number) for number in text.translate(_BLANKS).split()] for text in texts]
    table = np.full((len(texts), 3), -1, np.int64)
    for row, keys in enumerate(numbers):
        table[row, : len(keys)] = keys
    return Examples(
        "slot",
        problem,
        # The lower border has the first state.
        place + 1,
        place.astype(np.int64),
        {name: values[problem, place] for name, values in labels.items()},
        table[problem],
        np.full((len(problem), 2), -1, np.int64),
        np.array(types, np.int64),
    )


def exact_result(text: str) -> str:
    """The digits of an operation's exact result, without its sign."""
    if REGISTER in text:
        first, second, register = text.replace(REGISTER, "*").split("*")
        return str(10 * int(register) + int(first) * int(second[0]))
    operator = "+" if "+" in text else "-"
    first, second = text.split(operator)
    return str(abs(int(first) + int(operator + second)))


def _labels(results: Sequence[str], operations: Operations) -> Labels:
    """The labels of all places, int64 [n, W] each; `UNKNOWN` where one does not apply."""
    columns = column_chains(operations)
    chains = columns.chains.cpu().numpy()
    lengths = operations.lengths[:, 1]
    places = torch.arange(chains.shape[1], device=lengths.device)
    consumed = operations.fields[:, 1].gather(1, lengths[:, None]).expand(-1, len(places))
    times = (operations.kind == MULTIPLY).cpu().numpy()[:, None]
    compared = chains >= CARRIES
    digits = np.full(chains.shape, UNKNOWN, np.int64)
    for row, result in enumerate(results):
        digits[row, : len(result)] = [int(digit) for digit in reversed(result)]
    return {
        "digit": digits,
        "carry in": np.where(compared, UNKNOWN, chains),
        "comparison": np.where(compared, chains, UNKNOWN),
        "column sum": np.where(compared, UNKNOWN, columns.totals.cpu().numpy()),
        "consumed digit": np.where(times, consumed.cpu().numpy(), UNKNOWN),
    }


def _key(text: str) -> int:
    """A number of any length as an int64 key; -1 for a single digit, which many operations share."""
    return derive_key("number", text) >> 1 if len(text) > 1 else -1
