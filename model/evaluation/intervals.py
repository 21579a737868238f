"""Exact match with a confidence interval, over all problems and by their properties.

The interval counts canonical classes as trials, not problems. Different orders of the same numbers are answered alike,
so they are not independent.
"""

from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.special import betaincinv

from storage.places.place import Location
from storage.sql.database import connect, parquet_source

# Columns of the breakdown; a column with more than `_MOST_GROUPS` values is left out.
COLUMNS = (
    *("operators", "terms", "digits", "carries", "depth", "kind"),
    *("passes", "draw", "column_total", "largest_carry", "carry_bound"),
)
_MOST_GROUPS = 256


class Group(BaseModel, frozen=True):
    """Exact match of the problems with one value of a column."""

    value: int | str
    problems: int
    correct: int
    exact_match: float
    interval: tuple[float, float] = Field(description="95 % interval of the exact match.")


def breakdown(predictions: Location) -> dict[str, tuple[Group, ...]]:
    """Exact match by each of `COLUMNS` that has several values, from a predictions file; values are sorted."""
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
    """A 95 % interval for the mean of `correct` [n], the name of the method, and the number of classes.

    Exact binomial bounds (Clopper and Pearson, 1934) on an effective number of trials, which follows from the variance
    between classes and is at most the number of classes (Korn and Graubard, Survey Methodology 24, 1998). The interval
    is therefore also valid for few or no errors.
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
    """The mean over classes of each class's share of correct answers; both arrays are [n], one value per problem."""
    _, member = np.unique(classes, return_inverse=True)
    return float((np.bincount(member, weights=correct) / np.bincount(member)).mean())


def _group(value: int | str, counted: NDArray[np.int64]) -> Group:
    """A group from its kinds of classes, [3, kinds]: problems, correct answers, and number of classes of the kind."""
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
    """The interval from kinds of classes [2, kinds], by size and correct answers, and the number of each kind."""
    (sizes, right), classes = kinds, int(counts.sum())
    problems, correct = int(sizes @ counts), int(right @ counts)
    share = correct / problems
    variance = counts @ (right - share * sizes) ** 2 / problems**2
    trials = min(classes, share * (1 - share) / variance) if variance else classes
    successes, failures = share * trials, (1 - share) * trials
    low = betaincinv(successes, failures + 1, 0.025) if correct else 0.0
    high = betaincinv(successes + 1, failures, 0.975) if correct < problems else 1.0
    return float(low), float(high)
