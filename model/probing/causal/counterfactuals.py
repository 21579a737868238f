"""Counterfactual pairs of problems for interventions: one digit changed, or one additional carry.

Exact arithmetic gives the expected outcome of each edit. Only pairs are kept for which the model answers all problems
correctly, so that a failure is due to the edit.
"""

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from model.evaluation.predictor import TrainedEncoder
from model.probing.hooks import logits_of
from model.probing.labels import OPERATORS, Problem, value_of
from model.probing.token_dataset import ids_of
from model.tokenizer import TokenLayout
from storage.order import derive_key


@dataclass(frozen=True)
class Pairs:
    """Counterfactual pairs of one layout; the model answers all their problems correctly."""

    layout: TokenLayout
    rows: NDArray[np.integer]
    """Token rows of the problem that is edited, [n, width]."""
    counterfactual: NDArray[np.integer]
    """Token rows of its counterfactual, [n, width]."""
    before: NDArray[np.integer]
    """Answer of the edited problem, [n, slots]."""
    after: NDArray[np.integer]
    """Answer of the counterfactual, [n, slots]."""
    column: NDArray[np.intp]
    """Column of the changed digit, or of the answer's slot that receives the carry, [n]."""
    old: NDArray[np.intp]
    """Digit in this column before the edit, [n]."""
    new: NDArray[np.intp]
    """Digit in this column after the edit, [n]."""

    @property
    def count(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> Self:
        """The first `count` pairs, or all if there are fewer."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "layout"}
        return replace(self, **{name: values[:count] for name, values in arrays.items()})


@dataclass(frozen=True)
class CarryPairs(Pairs):
    """Pairs that differ in one carry, with the source problems for patching into the first problem."""

    lower: NDArray[np.intp]
    """Columns of the two operand digits that produce the carry, [n, 2]."""
    donor: NDArray[np.integer]
    """Rows of a problem with the additional carry and other digits in the next higher column, [n, width]. Its answer
    digit there differs from both problems of the pair."""
    same: NDArray[np.integer]
    """Control rows: the donor's digits in the higher column, other digits below, but the old carry, [n, width]."""
    copied: NDArray[np.integer]
    """Answer digit of `donor` and of `same` in the slot that receives the carry, [n, 2]."""


class _Pair(NamedTuple):
    """One counterfactual pair in text form."""

    texts: tuple[str, ...]
    """The problem, its counterfactual and, for carries, the donor and the problem with the same carry."""
    column: int
    old: int
    new: int
    lower: tuple[int, ...] = ()


def digit_pairs(model: TrainedEncoder, problems: Sequence[Problem], layout: TokenLayout) -> Pairs:
    """Pairs in which one digit is shifted by +1 … +9 modulo 10, in equal proportions before filtering."""
    found: list[_Pair] = []
    chance = random.Random(derive_key("moved digits"))
    for number, problem in enumerate(problems):
        tokens = problem.tokens
        at = chance.choice([column for column, token in enumerate(tokens) if token.number >= 0])
        old = int(tokens[at].text)
        new = (old + 1 + number % 9) % 10
        text = _with_digits(problem.text, {at: new})
        if _same_lengths(problem.text, text):
            found.append(_Pair((problem.text, text), layout.problem - len(tokens) + at, old, new))
    _, arrays, _, _ = _answered(model, layout, found, 2)
    return Pairs(layout, **arrays)


def carry_pairs(model: TrainedEncoder, problems: Sequence[Problem], layout: TokenLayout) -> CarryPairs:
    """Pairs of sums or differences: two changed digits of a column give one more carry; one answer digit changes.

    The patched states come from donors that also have another digit in the next higher column. This distinguishes a
    copied answer digit from a transferred carry.
    """
    chance = random.Random(derive_key("patched carries"))
    sums = [problem for problem in problems if problem.columns and "*" not in problem.text and len(problem.numbers) > 1]
    found = [pair for problem in sums if (pair := _carry_pair(problem, layout, chance))]
    kept, arrays, rows, answers = _answered(model, layout, found, 4)
    slots = arrays["column"] - (layout.width - layout.answer)
    return CarryPairs(
        layout,
        **arrays,
        lower=np.array([pair.lower for pair in kept], np.intp).reshape(-1, 2),
        donor=rows[2],
        same=rows[3],
        copied=answers[2:, np.arange(len(kept)), slots].T,
    )


def _carry_pair(problem: Problem, layout: TokenLayout, chance: random.Random) -> _Pair | None:
    """A pair for a random column and two random digits of it; None if no other digits fit."""
    tokens = problem.tokens
    place = chance.randrange(max(1, len(problem.columns) - 1))
    of_place = [at for at, token in enumerate(tokens) if token.place == place]
    if len(of_place) < 2:
        return None
    pair = sorted(chance.sample(of_place, 2))
    signs = [-1 if problem.operators[tokens[at].number] == OPERATORS.index("-") else 1 for at in pair]
    own = tuple(int(tokens[at].text) for at in pair)
    choices = list(itertools.product(range(10), repeat=2))
    chance.shuffle(choices)
    totals = {digits: signs[0] * digits[0] + signs[1] * digits[1] for digits in choices}
    more = totals[own] + (-10 if problem.value < 0 else 10)
    carried = _first_fitting(problem, pair, [digits for digits in choices if totals[digits] == more])
    same = _first_fitting(
        problem, pair, [digits for digits in choices if totals[digits] == totals[own] and digits != own]
    )
    if not carried or not same or not _one_digit_more(problem.value, value_of(carried), place + 1):
        return None
    donors = _donors(problem, place + 1, carried, same, chance)
    if not donors:
        return None
    first = layout.problem - len(tokens)
    old, new = (_digit_at(value, place + 1) for value in (problem.value, value_of(carried)))
    lower = tuple(first + at for at in pair)
    return _Pair((problem.text, carried, *donors), layout.width - 1 - (place + 1), old, new, lower)


def _same_lengths(problem: str, other: str) -> bool:
    """Whether `other` has the length of `problem` and no number with leading zeros."""
    return len(problem) == len(other) and not re.search(r"(?<![0-9])0[0-9]", other)


def _with_digits(text: str, digits: dict[int, int]) -> str:
    return "".join(str(digits.get(at, character)) for at, character in enumerate(text))


def _first_fitting(problem: Problem, pair: Sequence[int], choices: Sequence[tuple[int, ...]]) -> str:
    """The problem with the first choice of two digits that keeps the lengths of its numbers; empty if there is none."""
    texts = (_with_digits(problem.text, dict(zip(pair, choice, strict=True))) for choice in choices)
    return next((text for text in texts if _same_lengths(problem.text, text)), "")


def _donors(problem: Problem, place: int, carried: str, same: str, chance: random.Random) -> tuple[str, str] | None:
    """`carried` and `same` with one changed digit in the column `place`, or None if no digit fits.

    Their answer digits at `place` then differ from those of `problem` and `carried`.
    """
    taken = [_digit_at(value, place) for value in (problem.value, value_of(carried))]
    choices = [(at, digit) for at, token in enumerate(problem.tokens) if token.place == place for digit in range(10)]
    chance.shuffle(choices)
    for at, digit in choices:
        donors = _with_digits(carried, {at: digit}), _with_digits(same, {at: digit})
        if all(_same_lengths(problem.text, text) for text in donors):
            values = [value_of(text) for text in donors]
            if all((value < 0) == (problem.value < 0) and _digit_at(value, place) not in taken for value in values):
                return donors
    return None


def _digit_at(value: int, place: int) -> int:
    return abs(value) // 10**place % 10


def _one_digit_more(before: int, after: int, place: int) -> bool:
    """Whether `after` differs from `before` only in the digit at `place`, which both have and which is one larger."""
    return (
        (before < 0) == (after < 0)
        and len(str(before)) == len(str(after)) > place
        and abs(after) - abs(before) == 10**place
        and _digit_at(before, place) != 9
    )


def _answered(
    model: TrainedEncoder, layout: TokenLayout, found: list[_Pair], sides: int
) -> tuple[list[_Pair], dict[str, NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]]:
    """The k pairs whose problems all have this layout and are answered correctly by the model.

    Also returns the arrays that all kinds of pairs have, the token rows [sides, k, width] and the answers
    [sides, k, slots].
    """
    pairs = [pair for pair in found if all(model.layout_of(text) == layout for text in pair.texts)]
    texts = [pair.texts[side] for side in range(sides) for pair in pairs]
    rows = np.array([model.tokenizer.row(text, layout) for text in texts], np.int64)
    answers = np.array([model.tokenizer.slots(str(value_of(text)), layout) for text in texts], np.int64)
    rows, answers = rows.reshape(sides, -1, layout.width), answers.reshape(sides, -1, layout.answer)
    right = np.ones(len(pairs), np.bool_)
    if pairs:
        for side, answer in zip(rows, answers, strict=True):
            predicted = logits_of(model.encoder, ids_of(model.encoder, side), layout.answer).argmax(-1).cpu().numpy()
            right &= (predicted == answer).all(1)
    kept = [pair for pair, is_right in zip(pairs, right.tolist(), strict=True) if is_right]
    rows, answers = rows[:, right], answers[:, right]
    arrays = {name: np.array([getattr(pair, name) for pair in kept], np.intp) for name in ("column", "old", "new")}
    arrays |= {"rows": rows[0], "counterfactual": rows[1], "before": answers[0], "after": answers[1]}
    return kept, arrays, rows, answers
