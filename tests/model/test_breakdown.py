"""Exact match by class and its interval against fractions and scipy's beta distribution."""

from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from model.evaluation.intervals import COLUMNS, breakdown, exact_match_by_class, exact_match_interval
from storage.places.disk import LocalLocation

Rows = list[tuple[int, bool]]


def interval_of(rows: Rows) -> tuple[float, float]:
    """The bounds from (class, right) a problem: as many trials as the spread between classes is worth."""
    sizes, right = Counter(kind for kind, _ in rows), Counter(kind for kind, correct in rows if correct)
    share = Fraction(right.total(), len(rows))
    variance = sum((right[kind] - share * size) ** 2 for kind, size in sizes.items()) / Fraction(len(rows)) ** 2
    trials = min(Fraction(len(sizes)), share * (1 - share) / variance) if variance else Fraction(len(sizes))
    successes, failures = float(share * trials), float((1 - share) * trials)
    low = float(beta.ppf(0.025, successes, failures + 1)) if share else 0.0
    return low, float(beta.ppf(0.975, successes + 1, failures)) if share != 1 else 1.0


problems = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60)


@given(problems)
@settings(max_examples=150, deadline=None)
def test_an_interval_is_that_of_fractions(rows: Rows) -> None:
    classes, correct = (np.array(column) for column in zip(*rows, strict=True))
    found, method, count = exact_match_interval(correct, classes)
    assert found == pytest.approx(interval_of(rows), abs=1e-9)
    assert count == len(set(classes.tolist()))
    assert method == f"Clopper-Pearson over {count} canonical classes"
    shares = [np.mean([right for kind, right in rows if kind == each]) for each in set(classes.tolist())]
    assert exact_match_by_class(correct, classes) == pytest.approx(np.mean(shares))


def test_thousands_of_classes_are_written_with_a_comma() -> None:
    _, method, _ = exact_match_interval(np.ones(1_234, np.bool_), np.arange(1_234))
    assert method == "Clopper-Pearson over 1,234 canonical classes"


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalLocation, list[dict]]:
    chance = np.random.default_rng(0)
    rows = [
        {
            "operators": "+-*"[number % 3],
            "terms": 2,
            "digits": number if number < 257 else 0,
            "carries": None if number % 5 == 0 else int(chance.integers(0, 3)),
            "depth": number % 256,
            **dict.fromkeys(("kind", "draw", "passes", "column_total", "largest_carry", "carry_bound")),
            "canonical": int(chance.integers(0, 40)),
            "correct": bool(chance.random() < 0.8),
        }
        for number in range(600)
    ]
    types = {
        "operators": pa.string(),
        "kind": pa.string(),
        "draw": pa.string(),
        "canonical": pa.uint64(),
        "correct": pa.bool_(),
    }
    schema = pa.schema([(name, types.get(name, pa.int32())) for name in rows[0]])
    place: Path = tmp_path_factory.mktemp("breakdown") / "predictions.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), place)
    return LocalLocation(place), rows


def test_groups_are_those_of_a_plain_loop(predictions: tuple[LocalLocation, list[dict]]) -> None:
    place, rows = predictions
    found = breakdown(place)
    # One value, 257 values, or none is no breakdown; 256 are the most.
    assert list(found) == [column for column in COLUMNS if column in ("operators", "carries", "depth")]
    for column, groups in found.items():
        expected: dict[object, Rows] = defaultdict(list)
        for row in rows:
            if row[column] is not None:
                expected[row[column]].append((row["canonical"], row["correct"]))
        assert [group.value for group in groups] == sorted(expected)  # type: ignore[type-var]
        for group in groups:
            of = expected[group.value]
            assert (group.problems, group.correct) == (len(of), sum(right for _, right in of))
            assert group.exact_match == pytest.approx(sum(right for _, right in of) / len(of))
            assert group.interval == pytest.approx(interval_of(of), abs=1e-9)
