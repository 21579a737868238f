"""The geometry of symbols: the share of a table's variance that a line, a circle or a helix over the numbers explains.

A table holds one vector per symbol, in numerical order. With ten digits, any fit explains much variance by chance. So
every measure is also computed for the table with shuffled rows; `study` adds random and untrained tables.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

_SHUFFLES = 400


class Measure(NamedTuple):
    """Share of the variance that a fit explains, for a table and for its rows in shuffled order."""

    name: str
    value: float
    shuffled: float
    """Mean over shuffles of the rows."""
    shuffled_high: float
    """95 % quantile over shuffles."""
    chance: float
    """Share of shuffles that reach the value, counting the table itself (permutation p-value)."""


def bases(numbers: int) -> dict[str, NDArray[np.float64]]:
    """Bases of the fits over 0 … numbers − 1: a line, a circle of each period, and a helix (a line with circles).

    The helix is that of arXiv 2502.00873, over all periods. For ten digits it has only period 10, because all periods
    together would explain almost any table.
    """
    periods = [period for period in (2, 5, 10, 100) if period <= numbers]
    index = np.arange(numbers)
    line = index[:, None].astype(np.float64)
    circles = {f"circle {period}": circle(index, period) for period in periods}
    wound = [circles["circle 10"]] if numbers == 10 else [*circles.values()]
    return {"line": line, **circles, "helix": np.concatenate([line, *wound], axis=1)}


def circle(numbers: NDArray[np.integer], period: int) -> NDArray[np.float64]:
    """Points [n, 2] of numbers on the unit circle with a given period."""
    angle = 2 * np.pi * numbers / period
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def measures(table: Table, seed: int = 0) -> list[Measure]:
    """Each fit of a table [n, d], with the same fit of its rows in random orders."""
    centred = table - table.mean(0)
    total = max((centred**2).sum(), 1e-300)
    # Reordering rows only permutes the Gram matrix, which is small.
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
    """Cosine similarity of all pairs of rows, after subtracting the mean row, [n, n]."""
    centred = table - table.mean(0)
    length = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return (centred / length) @ (centred / length).T


def components(table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates on the first three principal components [n, 3], and the share of variance of each [3]."""
    left, singular, _ = np.linalg.svd(table - table.mean(0), full_matrices=False)
    shares = singular**2 / max((singular**2).sum(), 1e-300)
    missing = max(0, 3 - len(singular))
    return np.pad((left * singular)[:, :3], ((0, 0), (0, missing))), np.pad(shares[:3], (0, missing))


def means_by(
    states: NDArray[np.float32], values: NDArray[np.int64], groups: NDArray[np.int64], numbers: int
) -> tuple[Table, bool]:
    """Mean [numbers, d] of states [m, d] by value, after subtracting group means, and whether all values occur.

    A group is a digit position, so a digit's mean does not depend on positions.
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
    """The centred table [n, d], projected onto the named bases."""
    basis = np.concatenate([bases(len(table))[name] for name in names], axis=1)
    return _projector(basis) @ (table - table.mean(0))


def _projector(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Projection matrix [n, n] onto the span of a centred basis [n, k]."""
    left, singular, _ = np.linalg.svd(basis - basis.mean(0), full_matrices=False)
    kept = left[:, singular > 1e-9 * max(singular.max(), 1e-300)]
    return kept @ kept.T
