"""Causal edits of the encoder that rewrites: the digit that a product consumes, a carry, and the next operator.

Each edit takes states from another problem, the donor, whose outcome exact arithmetic predicts. Every loop computes
states again, so they are replaced after each loop. A control takes them from a donor with the same digit, carry or
operators, but other numbers: nothing should change.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.evaluation.intervals import exact_match_interval
from model.evaluation.predictor import TrainedRewriter
from model.evaluation.rewriting.outputs import results_of
from model.probing.causal.interventions import Experiment, Outcome
from model.probing.hooks import State
from model.probing.rewriting.operations import exact_result, number
from model.tokenizer import REGISTER
from storage.order import derive_key

_DIGITS = range(4, 9)


class Edited(NamedTuple):
    """A problem, and the donors of an edit and of its control; equally long."""

    text: str
    donor: str
    control: str
    sites: dict[str, int]
    """Indices of the states that are replaced, one site at a time; −1 is the hub, 0 the lower border."""
    place: int = 0
    """The place that the carry arrives at; for other edits, 0."""


def consumed_digit(model: TrainedRewriter, count: int, seed: int) -> Iterator[Outcome]:
    """Replace the hub, or the slot that holds the digit, by that of a step which consumes another digit."""
    draw = random.Random(derive_key("consumed digit", str(seed)))
    yield from _edited(model, [_consuming(draw) for _ in range(count)], "consumed digit", "same digit")


def carried(model: TrainedRewriter, count: int, seed: int) -> Iterator[Outcome]:
    """Replace the slot below a place by that of a sum with another carry; the digits that both see add up to nine."""
    draw = random.Random(derive_key("carry between places", str(seed)))
    yield from _edited(model, [_carrying(draw) for _ in range(count)], "carry between places", "same carry")


def precedence(model: TrainedRewriter, count: int, seed: int) -> Iterator[Outcome]:
    """Let one loop read a+b+c instead of a+b*c, and see whether a+b is marked.

    The control reads a+b*c with other numbers.
    """
    draw, encoder = random.Random(derive_key("next operator", str(seed))), model.encoder
    numbers = [[number(draw, draw.choice(_DIGITS)) for _ in range(6)] for _ in range(count)]
    texts = {
        "before": [f"{a}+{b}*{c}" for a, b, c, *_ in numbers],
        "next operator": [f"{a}+{b}+{c}" for a, b, c, *_ in numbers],
        "same operator": [f"{d}+{e}*{f}" for *_, d, e, f in numbers],
    }
    units = {way: model.units(each) for way, each in texts.items()}

    def marked(ways: Sequence[str]) -> NDArray[np.bool_]:
        """Marks of a, +, b, *, c, bool [n, 5], if each loop reads the units of one of the ways."""
        states: Tensor | float = 0.0
        for way in ways:
            states = next(encoder.marking(units[way], states))
        assert isinstance(states, Tensor)
        found: NDArray[np.bool_] = (encoder.mark_logits(units["before"], states)[:, 1:6] > 0).cpu().numpy()
        return found

    loops = encoder.config.mark_loops
    with torch.inference_mode():
        before = marked(["before"] * loops)
        for loop in range(loops):
            for way in ("next operator", "same operator"):
                after = marked([way if loop == each else "before" for each in range(loops)])
                # The first three units are those of the sum.
                expected = np.array([row.all() for row in after[:, :3]])
                unchanged = np.array([*map(np.array_equal, after, before)])
                yield _outcome("precedence", State(loop + 1, 0), "all units", way, expected, unchanged, 0.0)


def _edited(model: TrainedRewriter, pairs: Sequence[Edited], experiment: Experiment, control: str) -> Iterator[Outcome]:
    """Outcomes of replacing the states at each of the sites after every loop."""
    encoder = model.encoder
    operations = model.operations([pair.text for pair in pairs])
    rows = torch.arange(len(pairs), device=operations.places.device)
    loops = 2 * operations.fields.shape[2]
    donors = {
        "donor": model.operations([pair.donor for pair in pairs]),
        control: model.operations([pair.control for pair in pairs]),
    }
    expected = [(exact_result(pair.text), exact_result(pair.donor)) for pair in pairs]
    with torch.inference_mode():
        for site in pairs[0].sites:
            index = torch.tensor([pair.sites[site] for pair in pairs], device=rows.device)
            for way, donor in donors.items():
                running, source = encoder.fill(operations), encoder.fill(donor)
                states = _patched(next(running), next(source), rows, index)
                for _ in range(loops - 1):
                    states = _patched(running.send(states), next(source), rows, index)
                results = results_of(operations, encoder.logits(operations, states))
                found = [(result.digits, *each) for result, each in zip(results, expected, strict=True)]
                # Digits below the place belong to the problem itself.
                cut = [pair.place for pair in pairs]
                tops = [[_from(digits, place) for digits in each] for each, place in zip(found, cut, strict=True)]
                follows = np.array([after == donor for after, _, donor in tops])
                unchanged = np.array([after == before for after, before, _ in tops])
                # The replaced slot is the one just below the place.
                lower = [
                    _below(after, place - 1) != _below(before, place - 1)
                    for (after, before, _), place in zip(found, cut, strict=True)
                ]
                state = State(0, encoder.config.layers)
                name = experiment if way == "donor" else way
                yield _outcome(experiment, state, site, name, follows, unchanged, float(np.mean(lower)))


def _patched(states: Tensor, source: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """States [n, L, d] with those of `source` at one index of each row."""
    return states.index_put((rows, index), source[rows, index])


def _outcome(
    experiment: Experiment,
    state: State,
    site: str,
    way: str,
    follows: NDArray[np.bool_],
    unchanged: NDArray[np.bool_],
    spilt: float,
) -> Outcome:
    (low, high), _, _ = exact_match_interval(follows, np.arange(len(follows)))
    other = float((~follows & ~unchanged).mean())
    shares = float(follows.mean()), low, high, float(unchanged.mean()), other
    return Outcome(experiment, state, site, way, 0, len(follows), *shares, spilt)


def _consuming(draw: random.Random) -> Edited:
    """Steps of products that differ only in the digit that they consume, and one with the same digit."""
    lengths = [draw.choice(_DIGITS) for _ in range(3)]
    first, second, register = (number(draw, length) for length in lengths)
    digit = draw.choice([each for each in "123456789" if each != second[0]])
    other_first, _, other_register = (number(draw, length) for length in lengths)
    return Edited(
        f"{first}*{second}{REGISTER}{register}",
        f"{first}*{digit}{second[1:]}{REGISTER}{register}",
        f"{other_first}*{second}{REGISTER}{other_register}",
        {"hub": -1, "slot of the digit": lengths[1]},
    )


def _carrying(draw: random.Random) -> Edited:
    """Sums with equal digits from one below the place upwards, which add up to nine there, and other lower digits."""
    length = draw.choice(_DIGITS)
    place = draw.randrange(2, length)
    high = [number(draw, length - place) for _ in range(2)]
    nine = draw.randrange(10)
    carries = draw.random() < 0.5

    def low(carry: bool) -> tuple[str, str]:
        while True:
            first, second = (f"{draw.randrange(10 ** (place - 1)):0{place - 1}d}" for _ in range(2))
            if (int(first) + int(second) >= 10 ** (place - 1)) == carry:
                return first, second

    def text(carry: bool) -> str:
        first, second = low(carry)
        return f"{high[0]}{nine}{first}+{high[1]}{9 - nine}{second}"

    # The lower border has the first state, so the slot below the place has the index of the place.
    return Edited(text(carries), text(not carries), text(carries), {"lower slot": place}, place)


def _from(digits: str, place: int) -> str:
    """The digits from a place upwards."""
    return digits[: len(digits) - place] if place else digits


def _below(digits: str, place: int) -> str:
    """The digits below a place."""
    return digits[len(digits) - place :] if place > 0 else ""
