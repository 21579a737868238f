"""Cohen's κ of what a probe says, with bootstrap intervals over whole problems."""

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
    total = confusion.sum((-2, -1))
    agreed = np.trace(confusion, axis1=-2, axis2=-1) / total
    chance = (confusion.sum(-1) * confusion.sum(-2)).sum(-1) / total**2
    return np.where(chance < 1, (agreed - chance) / np.maximum(1 - chance, 1e-12), np.nan)


def kappa_of(truth: NDArray[np.int64], said: NDArray[np.int64], problems: NDArray[np.intp], seed: int = 0) -> Kappa:
    """κ of what was said of m tokens, [m], with an interval over resampled problems (Efron's bootstrap): tokens of one
    problem are no independent trials."""
    classes, both = np.unique(np.concatenate([truth, said]), return_inverse=True)
    count = len(classes)
    cells = both[: len(truth)] * count + both[len(truth) :]
    _, member = np.unique(problems, return_inverse=True)
    size = int(member.max()) + 1
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES)
    counted = np.stack([np.bincount(cells, weights, count**2) for weights in (np.ones(len(cells)), *drawn[:, member])])
    found = kappa(counted.reshape(-1, count, count).astype(np.float64))
    low, high = np.nanquantile(found[1:], [0.025, 0.975]) if np.isfinite(found[1:]).any() else (np.nan, np.nan)
    return Kappa(float(found[0]), float(low), float(high))
