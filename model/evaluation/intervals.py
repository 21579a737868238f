"""Exact match with its interval, over all problems and by whatever they differ in.

What the interval counts as trials are canonical classes, not problems: orders of the same numbers
are answered alike, so they are not independent.
"""

from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import betaincinv

from storage.places.place import Location
from storage.sql.database import connect, parquet_source

# What problems are told apart by; a column with more values than can be shown is left out.
COLUMNS = ("operators", "terms", "digits", "carries", "depth", "kind")
_MOST_GROUPS = 256


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
    with connect(predictions) as connection:
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
    correct: NDArray[np.bool_], classes: NDArray[np.integer]
) -> tuple[tuple[float, float], str, int]:
    """A 95 % interval for the mean of `correct` [n], how it was found, and the number of classes.

    Exact binomial bounds (Clopper and Pearson, 1934) on as many trials as the spread between whole classes is worth,
    and never more than there are classes (Korn and Graubard, Survey Methodology 24, 1998). So few errors, or none,
    are told as honestly as many.
    """
    _, member = np.unique(classes, return_inverse=True)
    kinds, counts = np.unique(
        np.stack([np.bincount(member), np.bincount(member, weights=correct).astype(np.int64)]),
        axis=1,
        return_counts=True,
    )
    total = int(counts.sum())
    return _interval(kinds, counts), f"Clopper-Pearson over {total:,} canonical classes", total


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


def _interval(kinds: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """The interval from kinds of classes [2, kinds], by size and by right answers, and how many there are of each."""
    (sizes, right), classes = kinds, int(counts.sum())
    problems, correct = int(sizes @ counts), int(right @ counts)
    share = correct / problems
    variance = counts @ (right - share * sizes) ** 2 / problems**2
    trials = min(classes, share * (1 - share) / variance) if variance else classes
    successes, failures = share * trials, (1 - share) * trials
    low = betaincinv(successes, failures + 1, 0.025) if correct else 0.0
    high = betaincinv(successes + 1, failures, 0.975) if correct < problems else 1.0
    return float(low), float(high)
