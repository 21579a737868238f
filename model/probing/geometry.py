"""The geometry of symbols: how much of a table's variance a line, a circle or a helix over the numbers explains.

A table holds one vector a symbol, in the order of their numbers. With ten digits any fit explains much by chance, so
that every measure is made of the same table with its rows shuffled, and of random and untrained ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

_SHUFFLES = 400


class Measure(NamedTuple):
    """Share of the variance that a fit explains, and what shuffled rows come to."""

    name: str
    value: float
    shuffled: float
    """Mean over shuffles of the rows."""
    shuffled_high: float
    """95 % of shuffles stay below."""
    chance: float
    """Share of shuffles that reach the value, the table itself among them."""


def bases(numbers: int) -> dict[str, NDArray[np.float64]]:
    """What is fitted over 0 … numbers − 1: a line, circles of each period, and helix: a line with some of them.

    The helix is that of arXiv 2502.00873, over all periods; of ten digits it has period 10 alone, as all of them would
    explain nearly anything.
    """
    periods = [period for period in (2, 5, 10, 100) if period <= numbers]
    index = np.arange(numbers)
    line = index[:, None].astype(np.float64)
    circles = {f"circle {period}": circle(index, period) for period in periods}
    wound = [circles["circle 10"]] if numbers == 10 else [*circles.values()]
    return {"line": line, **circles, "helix": np.concatenate([line, *wound], axis=1)}


def circle(numbers: NDArray[np.integer], period: int) -> NDArray[np.float64]:
    """Points [n, 2] of numbers on a circle of a period."""
    angle = 2 * np.pi * numbers / period
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def explained(table: Table, basis: NDArray[np.float64]) -> float:
    """Share of the variance of a table [n, d] that is linear in a basis [n, k], by least squares; 0 for one point."""
    centred = table - table.mean(0)
    total = (centred**2).sum()
    if not total:
        return 0.0
    return float(((_projector(basis) @ centred) ** 2).sum() / total)


def measures(table: Table, seed: int = 0) -> list[Measure]:
    """Each fit of a table [n, d] beside the same of its rows in random orders."""
    centred = table - table.mean(0)
    total = max((centred**2).sum(), 1e-300)
    # Orders change the Gram matrix alone: it is small.
    gram = centred @ centred.T / total
    chance = np.random.default_rng(seed)
    orders = np.array([chance.permutation(len(table)) for _ in range(_SHUFFLES)])
    shuffles = gram[orders[:, :, None], orders[:, None, :]].reshape(_SHUFFLES, -1)
    found = []
    for name, basis in bases(len(table)).items():
        projector = _projector(basis)
        value, others = float((projector * gram).sum()), shuffles @ projector.ravel()
        reached = (1 + int((others >= value - 1e-12).sum())) / (1 + _SHUFFLES)
        found.append(Measure(name, value, float(others.mean()), float(np.quantile(others, 0.95)), reached))
    return found


def spectrum(table: Table) -> NDArray[np.float64]:
    """Share of the variance of a table [n, d] at each frequency 1 … n/2 over its index."""
    centred = table - table.mean(0)
    power = (np.abs(np.fft.rfft(centred, axis=0)) ** 2).sum(1)
    power[1:] *= 2
    if len(table) % 2 == 0:
        power[-1] /= 2
    return power[1:] / max(power[1:].sum(), 1e-300)


def cosines(table: Table) -> NDArray[np.float64]:
    """Cosine of every two rows about their mean, [n, n]."""
    centred = table - table.mean(0)
    length = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return (centred / length) @ (centred / length).T


def components(table: Table, count: int = 3) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows on the first principal components [n, count], and the share of the variance of each [count]."""
    left, singular, _ = np.linalg.svd(table - table.mean(0), full_matrices=False)
    shares = singular**2 / max((singular**2).sum(), 1e-300)
    points = np.zeros((len(table), count))
    points[:, : min(count, len(singular))] = (left * singular)[:, :count]
    return points, np.pad(shares[:count], (0, max(0, count - len(shares))))


def means_by(
    states: NDArray[np.float32], values: NDArray[np.int64], groups: NDArray[np.int64], numbers: int
) -> tuple[Table, bool]:
    """The mean [numbers, d] of states [m, d] by value, about the mean of each group, and whether all values were met.

    Groups are places: a digit's mean says nothing of where it stands.
    """
    _, member = np.unique(groups, return_inverse=True)
    counts = np.bincount(member)
    sums = np.zeros((len(counts), states.shape[1]))
    np.add.at(sums, member, states)
    centred = states - (sums / counts[:, None])[member]
    table, met = np.zeros((numbers, states.shape[1])), np.bincount(values, minlength=numbers)
    np.add.at(table, values, centred)
    return table / np.maximum(met, 1)[:, None], bool((met > 0).all())


def fitted(table: Table, names: Sequence[str]) -> Table:
    """What fits of these names make of a table [n, d], about its mean."""
    basis = np.concatenate([bases(len(table))[name] for name in names], axis=1)
    return _projector(basis) @ (table - table.mean(0))


def _projector(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The projection [n, n] onto a basis [n, k] about its mean."""
    left, singular, _ = np.linalg.svd(basis - basis.mean(0), full_matrices=False)
    kept = left[:, singular > 1e-9 * max(singular.max(), 1e-300)]
    return kept @ kept.T
