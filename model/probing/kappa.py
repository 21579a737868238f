"""Cohen's κ of a probe's predictions, with bootstrap intervals over the held-out numbers."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 200


class Kappa(NamedTuple):
    """Agreement beyond chance, and its 95 % interval."""

    value: float
    low: float
    high: float


class Samples(NamedTuple):
    """Bootstrap samples of m tokens."""

    weights: NDArray[np.float64]
    """Weight of each token, [samples, m]."""
    items: int
    """Number of resampled items (numbers and problems)."""


def kappa(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's κ of counts [..., true, predicted]: 1 for full agreement, 0 for chance; nan without counts or choice."""
    total = confusion.sum((-2, -1))
    some = np.maximum(total, 1e-12)
    agreed = np.trace(confusion, axis1=-2, axis2=-1) / some
    chance = (confusion.sum(-1) * confusion.sum(-2)).sum(-1) / some**2
    return np.where((total > 0) & (chance < 1), (agreed - chance) / np.maximum(1 - chance, 1e-12), np.nan)


def resamples(problems: NDArray[np.intp], numbers: NDArray[np.int64], seed: int = 0) -> Samples:
    """200 bootstrap samples of m tokens.

    The resampled items are numbers that several problems share, and problems without shared numbers, because tokens of
    one problem, and problems with the same number, are not independent. A problem's weight is the product of the
    weights of its two most shared numbers (pigeonhole bootstrap, A. Owen, Annals of Applied Statistics 2007). If
    numbers have no effect, intervals are up to twice as wide as necessary. `problems` [m] is the problem of each
    token, `numbers` [m, k] the different numbers in its problem, -1 for none.
    """
    holds = np.unique(np.stack([np.repeat(problems, numbers.shape[1]), numbers.ravel()], 1), axis=0)
    each, problems_with = np.unique(holds[holds[:, 1] >= 0, 1], return_counts=True)
    shared, often = each[problems_with > 1], problems_with[problems_with > 1]
    # Indices of each token's numbers among the shared ones, most shared first.
    place = np.where(np.isin(numbers, shared), np.searchsorted(shared, numbers), -1)
    counts = np.where(place >= 0, np.append(often, 0)[place], 0)
    place = np.take_along_axis(place, np.argsort(-counts, axis=1, kind="stable")[:, :2], 1)
    none = (place < 0).all(1)
    lone, of_lone = np.unique(problems[none], return_inverse=True)
    items = len(shared) + len(lone)
    drawn = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=_RESAMPLES)
    weights = np.ones((_RESAMPLES, len(problems)))
    for column in place.T:
        weights[:, column >= 0] *= drawn[:, column[column >= 0]]
    weights[:, none] = drawn[:, len(shared) + of_lone]
    return Samples(weights, items)


def kappa_of(truth: NDArray[np.int64], predicted: NDArray[np.int64], samples: Samples) -> Kappa:
    """κ of predictions [m], with a bootstrap interval.

    If almost all predictions are correct, the samples hardly differ. So the lower end is at most that of the exact
    binomial interval (Clopper and Pearson, 1934) for no errors in as many trials as there are resampled items.
    """
    classes, both = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    count = len(classes)
    cells = both[: len(truth)] * count + both[len(truth) :]
    counted = np.stack([np.bincount(cells, each, count**2) for each in (np.ones(len(cells)), *samples.weights)])
    found = kappa(counted.reshape(-1, count, count).astype(np.float64))
    low, high = np.nanquantile(found[1:], [0.025, 0.975]) if np.isfinite(found[1:]).any() else (np.nan, np.nan)
    chance = float((np.bincount(both[: len(truth)]) ** 2).sum()) / len(truth) ** 2
    if chance < 1:
        low = min(low, 1 - (1 - 0.025 ** (1 / max(1, samples.items))) / (1 - chance))
    return Kappa(float(found[0]), float(low), float(high))
