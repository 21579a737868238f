"""Probes: what a linear or a circular reading of a state tells of a label, on numbers and lengths it never saw.

The linear one is scikit-learn's logistic regression; the circular one reads a point on a circle by least squares and
takes the nearest class. What they can read a model need not use: that is what `interventions` are for.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.probing.geometry import circle
from model.probing.hooks import State
from model.probing.kappa import Kappa, Samples, kappa_of, resamples
from model.probing.token_dataset import UNKNOWN, Examples

Probe = Literal["linear", "circular"]
Control = Literal["trained", "untrained", "random"]

# Labels with a period, which stand on a circle if anything does.
_PERIODS = {"digit": 10, "mod 5": 5, "mod 10": 10}
# Labels of more classes are told in ten parts of equal size.
_MOST_CLASSES, _PARTS = 24, 10
# Fewer examples of a label, to train on or to ask, say nothing.
_LEAST = 40
_ITERATIONS = 60
# Draws of labels for one that has two of them, at most.
_TRIES = 8
_RIDGE = 0.02


class Split(NamedTuple):
    """Which examples a probe learns from and which it is asked, [m] each."""

    name: Literal["numbers", "lengths", "columns"]
    train: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    labels: frozenset[str] = frozenset()
    """Which labels are asked so; all if empty."""


class Reading(NamedTuple):
    """What a probe came to."""

    label: str
    state: State
    split: str
    probe: Probe
    control: Control
    kappa: Kappa
    classes: int
    examples: int
    problems: int
    numbers: int
    """Different numbers of two digits and more in these problems."""


def readings(
    examples: Examples,
    splits: Sequence[Split],
    trained: Mapping[State, NDArray[np.float32]],
    untrained: Mapping[State, NDArray[np.float32]],
    labels: Sequence[str] = (),
    *,
    draws: int = 5,
) -> Iterator[Reading]:
    """κ of every label, state, split and probe.

    Beside those of untrained states, for longer operands of the one where the best stands, and there also of a control
    task: each type of token has a label at random (J. Hewitt and P. Liang, arXiv 1909.03368), drawn `draws` times;
    their mean, least and most. A probe that knows types by heart does well at it, and κ less this one is its
    selectivity.
    """
    for label in labels or examples.labels:
        for split in splits:
            if label not in (split.labels or examples.labels) or not (asked := _question(examples, label, split)):
                continue
            found = [*asked.readings("trained", trained)]
            yield from found
            best = max((each for each in found if each.probe == "linear"), key=lambda each: each.kappa.value)
            if split.name != "lengths":
                yield from asked.readings("untrained", untrained)
            elif best.state in untrained:
                yield from asked.readings("untrained", {best.state: untrained[best.state]})
            if draws and (control := asked.control_task(best, trained[best.state], draws)):
                yield control


@dataclass(frozen=True)
class _Question:
    """What probes are asked of a label."""

    examples: Examples
    label: str
    split: str
    truth: NDArray[np.int64]
    """Of all examples, [m]."""
    train: NDArray[np.intp]
    asked: NDArray[np.intp]

    @cached_property
    def samples(self) -> Samples:
        """What intervals are told by."""
        return resamples(self.examples.problem[self.asked], self.examples.numbers[self.asked])

    def readings(self, control: Control, seen: Mapping[State, NDArray[np.float32]]) -> Iterator[Reading]:
        """What probes of each state come to."""
        problems, numbers = self.examples.problem[self.asked], self.examples.numbers[self.asked]
        counts = len(np.unique(self.truth[self.train])), len(self.asked), len(np.unique(problems))
        of_numbers = int((np.unique(numbers) >= 0).sum())
        for state, values in seen.items():
            for probe, said in _said(values, self.truth, self.train, self.asked, _period(self.label, self.truth)):
                found = kappa_of(self.truth[self.asked], said, self.samples)
                yield Reading(self.label, state, self.split, probe, control, found, *counts, of_numbers)

    def control_task(self, best: Reading, values: NDArray[np.float32], draws: int) -> Reading | None:
        """What probes come to, where the best one stands, that learn and are asked a random label for each type.

        None where too few types are known for two labels.
        """
        found: list[float] = []
        types, member = np.unique(self.examples.types, return_inverse=True)
        for seed in range(_TRIES * draws):
            # As often as the true labels are.
            target = np.random.default_rng(seed).choice(self.truth[self.train], len(types))[member]
            if len(np.unique(target[self.train])) > 1 < len(np.unique(target[self.asked])):
                _, said = next(_said(values, target, self.train, self.asked, 0))
                found.append(kappa_of(target[self.asked], said, self.samples).value)
            if len(found) == draws:
                return best._replace(control="random", kappa=Kappa(float(np.mean(found)), min(found), max(found)))
        return None


def _question(examples: Examples, label: str, split: Split) -> _Question | None:
    """What a label is asked by; None where too little is known of it."""
    known = examples.labels[label] != UNKNOWN
    train, asked = np.flatnonzero(known & split.train), np.flatnonzero(known & split.asked)
    if min(len(train), len(asked)) < _LEAST:
        return None
    truth = _in_parts(examples.labels[label], train)
    open_ = _undecided(truth, examples.group, train)
    train, asked = train[open_[train]], asked[open_[asked]]
    if min(len(train), len(asked)) < _LEAST:
        return None
    # Classes that were never shown can't be told: they are not asked.
    asked = asked[np.isin(truth[asked], truth[train])]
    if len(asked) < _LEAST or len(np.unique(truth[train])) < 2 or len(np.unique(truth[asked])) < 2:
        return None
    return _Question(examples, label, split.name, truth, train, asked)


def _period(label: str, truth: NDArray[np.int64]) -> int:
    """The period of a label that may stand on a circle; else 0."""
    period = _PERIODS.get(label, 0)
    return period if int(truth.max()) < period else 0


def _undecided(truth: NDArray[np.int64], groups: NDArray[np.int64], train: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which examples, [m], stand where their label isn't decided by the place alone, as the units' carry is."""
    least, most = dict[int, int](), dict[int, int]()
    for group, value in zip(groups[train].tolist(), truth[train].tolist(), strict=True):
        least[group] = min(value, least.get(group, value))
        most[group] = max(value, most.get(group, value))
    met = np.array([group for group in least if least[group] < most[group]], np.int64)
    # A place that no example was trained on decides nothing.
    return np.isin(groups, met) | ~np.isin(groups, np.array(list(least), np.int64))


def _in_parts(values: NDArray[np.int64], train: NDArray[np.intp]) -> NDArray[np.int64]:
    """Labels as they are, or where they are many, in ten parts of equal size."""
    if len(np.unique(values[train])) <= _MOST_CLASSES:
        return values
    edges = np.quantile(values[train], np.arange(1, _PARTS) / _PARTS)
    return np.searchsorted(np.unique(edges), values, side="right").astype(np.int64)


def _said(
    states: NDArray[np.float32],
    target: NDArray[np.int64],
    train: NDArray[np.intp],
    asked: NDArray[np.intp],
    period: int,
) -> Iterator[tuple[Probe, NDArray[np.int64]]]:
    """What probes that learnt from `train` say of those asked: the linear one and, with a period, the circular."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    spread = states[train].std(0)
    # Coordinates that don't vary, as in the embeddings of one kind of token, are no evidence.
    alive = spread > 1e-6 * max(float(spread.max()), 1e-30)
    if not alive.any():
        values, counts = np.unique(target[train], return_counts=True)
        yield "linear", np.full(len(asked), values[counts.argmax()])
        return
    scaled = (states[:, alive] - states[train][:, alive].mean(0)) / spread[alive]
    # Several threads wait for each other longer than such small products take: two were up to 80 times slower than one.
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        # More change κ by 0.03 at most.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=1.0, max_iter=_ITERATIONS).fit(scaled[train], target[train])
    yield "linear", found.predict(scaled[asked])
    if period:
        inputs = scaled[train].astype(np.float64)
        weights = np.linalg.solve(
            inputs.T @ inputs + _RIDGE * len(train) * np.eye(inputs.shape[1]), inputs.T @ circle(target[train], period)
        )
        points = scaled[asked] @ weights
        angle = np.arctan2(points[:, 1], points[:, 0]) * period / (2 * np.pi)
        yield "circular", np.round(angle).astype(np.int64) % period
