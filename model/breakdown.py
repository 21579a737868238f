"""Exact match with its interval, over all problems and by whatever they differ in.

The interval resamples canonical classes, not problems: orders of the same numbers are
answered alike, so they are not independent trials.
"""

from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from storage.database import connect, parquet_source
from storage.location import Location

# What problems are told apart by; a column with more values than can be shown is left out.
COLUMNS = ("operators", "terms", "digits", "carries", "depth", "kind")
_MOST_GROUPS = 256
_RESAMPLES = 10_000


class Group(BaseModel):
    """Exact match of the problems that have one value in common."""

    model_config = ConfigDict(frozen=True)

    value: int | str
    problems: int
    correct: int
    exact_match: float
    interval: tuple[float, float] = Field(description="95 % interval of the exact match.")


def breakdown(predictions: Location) -> dict[str, tuple[Group, ...]]:
    """Exact match by each of `COLUMNS` whose values differ, from a file of predictions; values in their order."""
    source = parquet_source([str(predictions)], options=", hive_partitioning = false")
    found = {}
    with connect() as connection:
        for column in COLUMNS:
            rows = connection.execute(
                f"SELECT value, size, correct, count(*) FROM (SELECT {column} AS value, count(*) AS size, "
                f"sum(correct::INT)::BIGINT AS correct FROM {source} WHERE {column} IS NOT NULL "
                "GROUP BY value, canonical) GROUP BY ALL ORDER BY ALL"
            ).fetchall()
            kinds = {value: [row[1:] for row in group] for value, group in groupby(rows, key=lambda row: row[0])}
            if 1 < len(kinds) <= _MOST_GROUPS:
                found[column] = tuple(_group(value, np.array(counted).T) for value, counted in kinds.items())
    return found


def exact_match_interval(
    correct: NDArray[np.bool_], classes: NDArray[np.integer], seed: int = 0
) -> tuple[tuple[float, float], str, int]:
    """A 95 % interval for the mean of `correct` [n], how it was found, and the number of classes.

    A percentile bootstrap that draws whole classes (cluster bootstrap; Davison and Hinkley,
    1997, section 3.8). Classes of equal size and errors are interchangeable, so a resample is
    one multinomial draw over their kinds. Without any error (or any success) the bootstrap
    says nothing, and the exact binomial bound over classes takes its place.
    """
    _, member = np.unique(classes, return_inverse=True)
    kinds, counts = np.unique(
        np.stack([np.bincount(member), np.bincount(member, weights=correct).astype(np.int64)]),
        axis=1,
        return_counts=True,
    )
    total = int(counts.sum())
    method = "exact binomial" if correct.all() or not correct.any() else "bootstrap"
    return _interval(kinds, counts, seed), f"{method} over {total:,} canonical classes", total


def exact_match_by_class(correct: NDArray[np.bool_], classes: NDArray[np.integer]) -> float:
    """The mean over classes of each class's share of right answers, of problems [n]."""
    _, member = np.unique(classes, return_inverse=True)
    return float((np.bincount(member, weights=correct) / np.bincount(member)).mean())


def _group(value: int | str, counted: NDArray[np.int64]) -> Group:
    """A group from the kinds of its classes, [3, kinds]: problems, right answers, and how many classes are such."""
    sizes, right, counts = counted
    problems, correct = int(sizes @ counts), int(right @ counts)
    return Group(
        value=value,
        problems=problems,
        correct=correct,
        exact_match=correct / problems,
        interval=_interval(counted[:2], counts),
    )


def _interval(kinds: NDArray[np.int64], counts: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """The interval from kinds of classes [2, kinds], by size and by right answers, and how many there are of each."""
    total = int(counts.sum())
    bound = float(0.025 ** (1 / total))
    if (kinds[0] == kinds[1]).all():
        return bound, 1.0
    if not kinds[1].any():
        return 0.0, 1 - bound
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=_RESAMPLES)
    low, high = np.quantile((drawn @ kinds[1]) / (drawn @ kinds[0]), [0.025, 0.975])
    return float(low), float(high)
