"""Cohen's κ of what a probe says, with bootstrap intervals over the numbers that were held out."""

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
    """How often each token counts, [samples, m]."""
    items: int
    """How many things were resampled."""


def kappa(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's κ of counts [..., true, said]: 1 where all agree, 0 as by chance, nan where there is no choice."""
    total = confusion.sum((-2, -1))
    some = np.maximum(total, 1e-12)
    agreed = np.trace(confusion, axis1=-2, axis2=-1) / some
    chance = (confusion.sum(-1) * confusion.sum(-2)).sum(-1) / some**2
    return np.where((total > 0) & (chance < 1), (agreed - chance) / np.maximum(1 - chance, 1e-12), np.nan)


def resamples(problems: NDArray[np.intp], numbers: NDArray[np.int64], seed: int = 0) -> Samples:
    """200 bootstrap samples of m tokens.

    What is resampled are the numbers that several problems share, and the problems that share none: tokens of one
    problem, and problems of one number, are no independent trials. A problem counts as often as its two most shared
    numbers do, multiplied (the pigeonhole bootstrap, A. Owen, Annals of Applied Statistics 2007): intervals are up to
    twice as wide as they need be where numbers make no difference. `problems` [m] says whose token each is, `numbers`
    [m, k] which different numbers its problem holds, -1 for none.
    """
    holds = np.unique(np.stack([np.repeat(problems, numbers.shape[1]), numbers.ravel()], 1), axis=0)
    each, problems_with = np.unique(holds[holds[:, 1] >= 0, 1], return_counts=True)
    shared, often = each[problems_with > 1], problems_with[problems_with > 1]
    # Of each token's numbers their places among those shared, the most shared ones first.
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


def kappa_of(truth: NDArray[np.int64], said: NDArray[np.int64], samples: Samples) -> Kappa:
    """κ of what was said of m tokens, [m], with an interval over samples of them.

    Where nearly all agree samples hardly differ: no lower end is above that of exact binomial bounds (Clopper and
    Pearson, 1934) for no error in as many trials as things were resampled.
    """
    classes, both = np.unique(np.concatenate([truth, said]), return_inverse=True)
    count = len(classes)
    cells = both[: len(truth)] * count + both[len(truth) :]
    counted = np.stack([np.bincount(cells, each, count**2) for each in (np.ones(len(cells)), *samples.weights)])
    found = kappa(counted.reshape(-1, count, count).astype(np.float64))
    low, high = np.nanquantile(found[1:], [0.025, 0.975]) if np.isfinite(found[1:]).any() else (np.nan, np.nan)
    chance = float((np.bincount(both[: len(truth)]) ** 2).sum()) / len(truth) ** 2
    if chance < 1:
        low = min(low, 1 - (1 - 0.025 ** (1 / max(1, samples.items))) / (1 - chance))
    return Kappa(float(found[0]), float(low), float(high))
