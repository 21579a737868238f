"""Counterfactual pairs of problems for interventions: one digit changed, or one additional carry.

Exact arithmetic gives the expected outcome of each edit. Only pairs are kept for which the model answers all problems
correctly, so that a failure is due to the edit.
"""

import random
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


def digit_pairs(model: TrainedEncoder, problems: Sequence[Problem], layout: TokenLayout) -> Pairs:
    """Pairs in which one digit is shifted by +1 … +9 modulo 10, in equal proportions before filtering."""
    found: list[_Pair] = []
    chance = random.Random(derive_key("moved digits"))
    for number, problem in enumerate(problems):
        tokens = problem.tokens
        at = chance.choice([place for place, token in enumerate(tokens) if token.number >= 0])
        old = int(tokens[at].text)
        new = (old + 1 + number % 9) % 10
        text = "".join(str(new) if place == at else token.text for place, token in enumerate(tokens))
        if _as_long(problem.text, text):
            column = layout.problem - len(tokens) + at
            found.append(_Pair((problem.text, text), column, old, new))
    return Pairs(layout, **_common(*_answered(model, layout, found, 2)))


def carry_pairs(model: TrainedEncoder, problems: Sequence[Problem], layout: TokenLayout) -> CarryPairs:
    """Pairs of sums or differences: two changed digits of a column give one more carry; one answer digit changes.

    The patched states come from donors that also have another digit in the next higher column. This distinguishes a
    copied answer digit from a transferred carry.
    """
    found: list[_Pair] = []
    chance = random.Random(derive_key("patched carries"))
    for problem in problems:
        if not problem.columns or "*" in problem.text or len(problem.numbers) < 2:
            continue
        tokens = problem.tokens
        place = chance.randrange(max(1, len(problem.columns) - 1))
        here = [at for at, token in enumerate(tokens) if token.place == place]
        if len(here) < 2:
            continue
        pair = tuple(sorted(chance.sample(here, 2)))
        signs = [-1 if problem.operators[tokens[at].number] == OPERATORS.index("-") else 1 for at in pair]
        turned = -1 if problem.value < 0 else 1
        before = sum(sign * int(tokens[at].text) for sign, at in zip(signs, pair, strict=True))
        every = [(one, other) for one in range(10) for other in range(10)]
        chance.shuffle(every)
        own = tuple(int(tokens[at].text) for at in pair)
        totals = {digits: signs[0] * digits[0] + signs[1] * digits[1] for digits in every}
        carried = _replaced(problem, pair, [digits for digits in every if totals[digits] == before + 10 * turned])
        same = _replaced(problem, pair, [digits for digits in every if totals[digits] == before and digits != own])
        if not carried or not same or not _one_digit_more(problem.value, value_of(carried), place + 1):
            continue
        donors = _others_above(problem, place + 1, carried, same, chance)
        if not donors:
            continue
        first = layout.problem - len(tokens)
        slot = layout.width - 1 - (place + 1)
        digits = [abs(value) // 10 ** (place + 1) % 10 for value in (problem.value, value_of(carried))]
        lower = first + pair[0], first + pair[1]
        found.append(_Pair((problem.text, carried, *donors), slot, digits[0], digits[1], lower))
    kept, rows, answers = _answered(model, layout, found, 4)
    common = _common(kept, rows, answers)
    slots = common["column"] - (layout.width - layout.answer)
    return CarryPairs(
        layout,
        **common,
        lower=np.array([pair.lower for pair in kept], np.intp).reshape(-1, 2),
        donor=rows[2],
        same=rows[3],
        copied=np.stack([answer[np.arange(len(kept)), slots] for answer in answers[2:]], 1),
    )


class _Pair(NamedTuple):
    """One counterfactual pair in text form."""

    texts: tuple[str, ...]
    """The problem, its counterfactual and, for carries, the donor and the problem with the same carry."""
    column: int
    old: int
    new: int
    lower: tuple[int, int] = (0, 0)


def _as_long(problem: str, other: str) -> bool:
    """Whether `other` has the length of `problem` and no number with leading zeros."""
    numbers = "".join(c if c.isdigit() else " " for c in other).split()
    return len(problem) == len(other) and all(len(str(int(number))) == len(number) for number in numbers)


def _replaced(problem: Problem, pair: tuple[int, ...], choices: list[tuple[int, int]]) -> str:
    """The problem with the first choice of two digits that keeps the lengths of its numbers; empty if there is none."""
    for choice in choices:
        digits = dict(zip(pair, choice, strict=True))
        text = "".join(str(digits.get(at, token.text)) for at, token in enumerate(problem.tokens))
        if _as_long(problem.text, text):
            return text
    return ""


def _others_above(
    problem: Problem, place: int, carried: str, same: str, chance: random.Random
) -> tuple[str, str] | None:
    """`carried` and `same` with one changed digit in the column `place`, or None if no digit fits.

    Their answer digits at `place` then differ from those of `problem` and `carried`.
    """
    before, after = (abs(value) // 10**place % 10 for value in (problem.value, value_of(carried)))
    choices = [(at, digit) for at, token in enumerate(problem.tokens) if token.place == place for digit in range(10)]
    chance.shuffle(choices)
    for at, digit in choices:
        donors = tuple(text[:at] + str(digit) + text[at + 1 :] for text in (carried, same))
        values = [value_of(text) for text in donors]
        if (
            all(_as_long(problem.text, text) for text in donors)
            and all((value < 0) == (problem.value < 0) for value in values)
            and all(abs(value) // 10**place % 10 not in (before, after) for value in values)
        ):
            return donors[0], donors[1]
    return None


def _one_digit_more(before: int, after: int, place: int) -> bool:
    """Whether `after` differs from `before` only in the digit at `place`, which both have and which is one larger."""
    return (
        (before < 0) == (after < 0)
        and len(str(before)) == len(str(after)) > place
        and abs(after) - abs(before) == 10**place
        and abs(before) // 10**place % 10 != 9
    )


def _answered(
    model: TrainedEncoder, layout: TokenLayout, found: list[_Pair], sides: int
) -> tuple[list[_Pair], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """The k pairs whose problems all have this layout and are answered correctly by the model.

    Also returns the token rows [k, width] and the answers [k, slots] of each side.
    """
    pairs = [pair for pair in found if all(model.layout_of(text) == layout for text in pair.texts)]
    rows = [
        np.array([model.tokenizer.row(pair.texts[side], layout) for pair in pairs], np.int64).reshape(-1, layout.width)
        for side in range(sides)
    ]
    answers = [
        np.array([model.tokenizer.slots(str(value_of(pair.texts[side])), layout) for pair in pairs], np.int64).reshape(
            -1, layout.answer
        )
        for side in range(sides)
    ]
    right = np.ones(len(pairs), np.bool_)
    if pairs:
        for side, answer in zip(rows, answers, strict=True):
            predicted = logits_of(model.encoder, ids_of(model.encoder, side), layout.answer).argmax(-1).cpu().numpy()
            right &= (predicted == answer).all(1)
    kept = [pair for pair, fine in zip(pairs, right.tolist(), strict=True) if fine]
    return kept, [each[right] for each in rows], [each[right] for each in answers]


def _common(
    kept: list[_Pair], rows: list[NDArray[np.int64]], answers: list[NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """The arrays that all kinds of pairs share."""
    column, old, new = (np.array([getattr(pair, name) for pair in kept], np.intp) for name in ("column", "old", "new"))
    sides = {"rows": rows[0], "counterfactual": rows[1], "before": answers[0], "after": answers[1]}
    return {**sides, "column": column, "old": old, "new": new}
