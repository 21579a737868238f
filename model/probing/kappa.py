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


def kappa(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's κ of counts [..., true, said]: 1 where all agree, 0 as by chance, nan where there is no choice."""
    total = np.maximum(confusion.sum((-2, -1)), 1e-12)
    agreed = np.trace(confusion, axis1=-2, axis2=-1) / total
    chance = (confusion.sum(-1) * confusion.sum(-2)).sum(-1) / total**2
    return np.where((chance > 0) & (chance < 1), (agreed - chance) / np.maximum(1 - chance, 1e-12), np.nan)


def resamples(problems: NDArray[np.intp], numbers: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """How often each of m tokens counts in 200 bootstrap samples, [200, m].

    What is resampled are the numbers that several problems share, and the problems that share none: tokens of one
    problem, and problems of one number, are no independent trials. A problem counts as often as its numbers do,
    multiplied (the pigeonhole bootstrap, A. Owen, Annals of Applied Statistics 2007), so that intervals are rather too
    wide. `problems` [m] says whose token each is, `numbers` [m, k] which numbers its problem holds, -1 for none.
    """
    holds = np.unique(np.stack([np.repeat(problems, numbers.shape[1]), numbers.ravel()], 1), axis=0)
    each, problems_with = np.unique(holds[holds[:, 1] >= 0, 1], return_counts=True)
    shared = each[problems_with > 1]
    # Of each token's numbers their places among those shared.
    place = np.searchsorted(shared, numbers)
    known = np.isin(numbers, shared)
    lone, of_lone = np.unique(problems[~known.any(1)], return_inverse=True)
    items = len(shared) + len(lone)
    drawn = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=_RESAMPLES)
    weights = np.ones((_RESAMPLES, len(problems)))
    for column in range(numbers.shape[1]):
        weights[:, known[:, column]] *= drawn[:, place[known[:, column], column]]
    weights[:, ~known.any(1)] = drawn[:, len(shared) + of_lone]
    return weights


def kappa_of(truth: NDArray[np.int64], said: NDArray[np.int64], weights: NDArray[np.float64]) -> Kappa:
    """κ of what was said of m tokens, [m], with an interval over samples in which they count `weights` [samples, m]."""
    classes, both = np.unique(np.concatenate([truth, said]), return_inverse=True)
    count = len(classes)
    cells = both[: len(truth)] * count + both[len(truth) :]
    counted = np.stack([np.bincount(cells, each, count**2) for each in (np.ones(len(cells)), *weights)])
    found = kappa(counted.reshape(-1, count, count).astype(np.float64))
    low, high = np.nanquantile(found[1:], [0.025, 0.975]) if np.isfinite(found[1:]).any() else (np.nan, np.nan)
    return Kappa(float(found[0]), float(low), float(high))
