"""Probes: what a linear or a circular reading of a state tells of a label, on numbers and lengths it never saw.

The linear one is scikit-learn's logistic regression; the circular one reads a point on a circle by least squares and
takes the nearest class. What they can read a model need not use: that is what `interventions` are for.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.probing.examples import UNKNOWN, Examples
from model.probing.geometry import circle
from model.probing.kappa import Kappa, kappa_of, resamples
from model.probing.states import State

Probe = Literal["linear", "circular"]
Control = Literal["trained", "untrained", "random"]

# Labels with a period, which stand on a circle if anything does.
_PERIODS = {"digit": 10, "mod 5": 5, "mod 10": 10}
# Labels of more classes are told in ten parts of equal size.
_MOST_CLASSES, _PARTS = 24, 10
# Fewer examples of a label, to train on or to ask, say nothing.
_LEAST = 40
_ITERATIONS = 60
_RIDGE = 0.02


class Split(NamedTuple):
    """Which examples a probe learns from and which it is asked, [m] each."""

    name: Literal["numbers", "lengths"]
    train: NDArray[np.bool_]
    asked: NDArray[np.bool_]


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
    shuffles: int = 5,
) -> Iterator[Reading]:
    """κ of every label, state, split and probe.

    For held-out numbers beside those of untrained states and, where the best stands, of probes that learnt labels at
    random (those of other examples), drawn `shuffles` times: their mean, least and most.
    """
    for label in labels or examples.labels:
        for split in splits:
            known = examples.labels[label] != UNKNOWN
            train, asked = np.flatnonzero(known & split.train), np.flatnonzero(known & split.asked)
            if min(len(train), len(asked)) < _LEAST:
                continue
            truth = _in_parts(examples.labels[label], train)
            open_ = _undecided(truth, examples.group, train)
            train, asked = train[open_[train]], asked[open_[asked]]
            if min(len(train), len(asked)) < _LEAST:
                continue
            # Classes that were never shown can't be told: they are not asked.
            asked = asked[np.isin(truth[asked], truth[train])]
            if len(asked) < _LEAST or len(np.unique(truth[train])) < 2 or len(np.unique(truth[asked])) < 2:
                continue
            ways: list[tuple[Control, Mapping[State, NDArray[np.float32]]]] = [("trained", trained)]
            # Longer ones are asked beside these: what no training tells is told once.
            if controlled := split.name == "numbers":
                ways.append(("untrained", untrained))
            weights = resamples(examples.problem[asked], examples.numbers[asked])
            numbers = np.unique(examples.numbers[asked])
            counts = len(np.unique(examples.problem[asked])), int((numbers >= 0).sum())
            found = [
                Reading(
                    label, state, split.name, probe, control, kappa_of(truth[asked], said, weights),
                    len(np.unique(truth[train])), len(asked), *counts,
                )
                for control, seen in ways
                for state, values in seen.items()
                for probe, said in _said(values, truth, train, asked, _period(label, truth))
            ]  # fmt: skip
            yield from found
            linear = [each for each in found if (each.probe, each.control) == ("linear", "trained")]
            if controlled and shuffles:
                best = max(linear, key=lambda each: each.kappa.value)
                yield _by_heart(examples, trained, truth, train, asked, best, shuffles)


def _by_heart(
    examples: Examples, states: Mapping[State, NDArray[np.float32]], truth: NDArray[np.int64],
    train: NDArray[np.intp], asked: NDArray[np.intp], best: Reading, shuffles: int,
) -> Reading:  # fmt: skip
    """What probes come to, where the best one stands, that learnt the labels of other examples."""
    found = []
    for seed in range(shuffles):
        target = truth.copy()
        target[train] = np.random.default_rng(seed).permutation(truth[train])
        _, said = next(_said(states[best.state], target, train, asked, 0))
        found.append(kappa_of(truth[asked], said, np.empty((0, len(asked)))).value)
    return best._replace(control="random", kappa=Kappa(float(np.mean(found)), min(found), max(found)))


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
        # Stopped early, it is held back from learning by heart.
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
