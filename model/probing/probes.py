"""Linear and circular probes that decode labels from hidden states, tested on held-out numbers and lengths.

The linear probe is scikit-learn's logistic regression. The circular probe predicts a point on a circle by least squares
and selects the nearest class. A model need not use what a probe decodes; `interventions` test that.
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
from model.probing.kappa import Samples, kappa_of, resamples
from model.probing.token_dataset import UNKNOWN, Examples

Probe = Literal["linear", "circular"]
Control = Literal["trained", "untrained", "random"]

# Labels with a period, for circular probes.
_PERIODS = {"digit": 10, "mod 5": 5, "mod 10": 10}
# Labels with more classes are binned into ten quantiles.
_MOST_CLASSES, _BINS = 24, 10
# Minimum number of examples of a label in training and in the test.
_LEAST = 40
_ITERATIONS = 60
# Maximum number of tries per random labelling, which needs at least two classes.
_TRIES = 8
_RIDGE = 0.02


class Split(NamedTuple):
    """Training and test examples of a probe, [m] each."""

    name: Literal["numbers", "lengths", "columns"]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    labels: frozenset[str] = frozenset()
    """The labels that use this split; all if empty."""


class Reading(NamedTuple):
    """Result of a probe."""

    label: str
    state: State
    split: str
    probe: Probe
    control: Control
    kappa: float
    low: float
    high: float
    """Ends of the 95 % interval of `kappa`."""
    classes: int
    """Number of different labels in training."""
    examples: int
    """Number of tested tokens."""
    problems: int
    """Number of problems that contain these tokens."""
    numbers: int
    """Number of different operands with two or more digits in these problems."""


def readings(
    examples: Examples,
    splits: Sequence[Split],
    trained: Mapping[State, NDArray[np.float32]],
    untrained: Mapping[State, NDArray[np.float32]],
    *,
    draws: int = 5,
) -> Iterator[Reading]:
    """Yields κ of every label, state, split and probe, with controls.

    Controls are the same probes on untrained states; for the split `lengths`, only at the best trained state. The
    control task at the best state gives each type of token a random label (J. Hewitt and P. Liang, arXiv 1909.03368),
    drawn `draws` times; it reports mean, minimum and maximum. A probe that memorises types does well on this task. Its
    selectivity is κ minus the κ of the control task.
    """
    for label in examples.labels:
        for split in splits:
            if label not in (split.labels or examples.labels) or not (task := _task(examples, label, split)):
                continue
            found = [*task.readings("trained", trained)]
            yield from found
            best = max((each for each in found if each.probe == "linear"), key=lambda each: each.kappa)
            if split.name != "lengths":
                yield from task.readings("untrained", untrained)
            elif best.state in untrained:
                yield from task.readings("untrained", {best.state: untrained[best.state]})
            if draws and (control := task.control_task(best, trained[best.state], draws)):
                yield control


@dataclass(frozen=True)
class _Task:
    """Training and test data for the probes of one label."""

    examples: Examples
    label: str
    split: str
    truth: NDArray[np.int64]
    """Labels of all examples, [m]."""
    train: NDArray[np.intp]
    test: NDArray[np.intp]

    @cached_property
    def samples(self) -> Samples:
        """Bootstrap samples for intervals."""
        return resamples(self.examples.problem[self.test], self.examples.numbers[self.test])

    @property
    def period(self) -> int:
        """Period of the label for the circular probe; 0 if it has none."""
        period = _PERIODS.get(self.label, 0)
        return period if int(self.truth.max()) < period else 0

    def readings(self, control: Control, hidden: Mapping[State, NDArray[np.float32]]) -> Iterator[Reading]:
        """Results of the probes on each state."""
        counts = (
            len(np.unique(self.truth[self.train])),
            len(self.test),
            len(np.unique(self.examples.problem[self.test])),
            int((np.unique(self.examples.numbers[self.test]) >= 0).sum()),
        )
        for state, values in hidden.items():
            for probe, predicted in self.predictions(values, self.truth, self.period):
                found = kappa_of(self.truth[self.test], predicted, self.samples)
                yield Reading(self.label, state, self.split, probe, control, *found, *counts)

    def control_task(self, best: Reading, values: NDArray[np.float32], draws: int) -> Reading | None:
        """Result of the control task at the state of the best probe, with random labels by type.

        None if there are too few types for two different labels.
        """
        found: list[float] = []
        types, member = np.unique(self.examples.types, return_inverse=True)
        for seed in range(_TRIES * draws):
            # Drawn with the frequencies of the true labels.
            target = np.random.default_rng(seed).choice(self.truth[self.train], len(types))[member]
            if len(np.unique(target[self.train])) > 1 < len(np.unique(target[self.test])):
                _, predicted = next(self.predictions(values, target, 0))
                found.append(kappa_of(target[self.test], predicted, self.samples).value)
            if len(found) == draws:
                return best._replace(control="random", kappa=float(np.mean(found)), low=min(found), high=max(found))
        return None

    def predictions(
        self, states: NDArray[np.float32], target: NDArray[np.int64], period: int
    ) -> Iterator[tuple[Probe, NDArray[np.int64]]]:
        """Predicted labels of the test examples, with labels `target` [m]: linear and, with a period, circular."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        train, test = self.train, self.test
        spread = states[train].std(0)
        # Constant coordinates, as in the embeddings of one kind of token, carry no information.
        alive = spread > 1e-6 * max(float(spread.max()), 1e-30)
        if not alive.any():
            values, counts = np.unique(target[train], return_counts=True)
            yield "linear", np.full(len(test), values[counts.argmax()])
            return
        scaled = (states[:, alive] - states[train][:, alive].mean(0)) / spread[alive]
        # One thread: for such small products, synchronisation made two threads up to 80 times slower than one.
        with warnings.catch_warnings(), threadpool_limits(1, "blas"):
            # More iterations change κ by at most 0.03.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = LogisticRegression(C=1.0, max_iter=_ITERATIONS).fit(scaled[train], target[train])
        yield "linear", found.predict(scaled[test])
        if period:
            inputs = scaled[train].astype(np.float64)
            weights = np.linalg.solve(
                inputs.T @ inputs + _RIDGE * len(train) * np.eye(inputs.shape[1]),
                inputs.T @ circle(target[train], period),
            )
            points = scaled[test] @ weights
            angle = np.arctan2(points[:, 1], points[:, 0]) * period / (2 * np.pi)
            yield "circular", np.round(angle).astype(np.int64) % period


def _task(examples: Examples, label: str, split: Split) -> _Task | None:
    """Training and test data of a label; None if it has too few examples or classes."""
    known = examples.labels[label] != UNKNOWN
    train, test = np.flatnonzero(known & split.train), np.flatnonzero(known & split.test)
    truth = _binned(examples.labels[label], train)
    undecided = _undecided(truth, examples.group, train)
    train, test = train[undecided[train]], test[undecided[test]]
    # Classes without training examples cannot be predicted, so they are not tested.
    test = test[np.isin(truth[test], truth[train])]
    if min(len(train), len(test)) < _LEAST or min(len(np.unique(truth[part])) for part in (train, test)) < 2:
        return None
    return _Task(examples, label, split.name, truth, train, test)


def _undecided(truth: NDArray[np.int64], groups: NDArray[np.int64], train: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Examples, bool [m], whose label does not follow from the digit position (as the carry into the units does)."""
    trained = groups[train]
    decided = [group for group in np.unique(trained) if len(np.unique(truth[train][trained == group])) == 1]
    # Positions without training examples are kept.
    return ~np.isin(groups, decided)


def _binned(values: NDArray[np.int64], train: NDArray[np.intp]) -> NDArray[np.int64]:
    """Labels unchanged, or binned into ten quantiles if there are many classes."""
    if len(np.unique(values[train])) <= _MOST_CLASSES:
        return values
    edges = np.quantile(values[train], np.arange(1, _BINS) / _BINS)
    return np.searchsorted(np.unique(edges), values, side="right").astype(np.int64)
