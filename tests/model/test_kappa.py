"""Cohen's κ and its bootstrap against plain Python and scikit-learn."""

import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from model.probing.kappa import Samples, kappa, kappa_of, resamples


def by_hand(confusion: list[list[int]]) -> float:
    """κ in fractions."""
    total = sum(map(sum, confusion))
    if not total:
        return float("nan")
    agreed = Fraction(sum(row[k] for k, row in enumerate(confusion)), total)
    said = [sum(column) for column in zip(*confusion, strict=True)]
    chance = sum(Fraction(sum(row) * column, total**2) for row, column in zip(confusion, said, strict=True))
    return float((agreed - chance) / (1 - chance)) if chance != 1 else float("nan")


TABLES = [
    [[3, 1], [2, 4]],
    [[0, 5], [5, 0]],
    [[1, 0], [0, 1]],
    [[7, 0], [0, 0]],
    [[0, 7], [0, 0]],
    [[0, 0], [0, 0]],
    [[1, 2], [2, 4]],
]


def test_kappa_of_any_table_is_that_of_fractions() -> None:
    found = kappa(np.array(TABLES, np.float64))
    assert found.shape == (len(TABLES),)
    assert found == pytest.approx([by_hand(table) for table in TABLES], nan_ok=True)
    three = [[5, 1, 0], [2, 6, 3], [1, 0, 9]]
    assert float(kappa(np.array(three, np.float64))) == pytest.approx(by_hand(three))
    # Weights may be small.
    assert float(kappa(np.array(three) * 1e-3)) == pytest.approx(by_hand(three))


def plain_weights(problems: list[int], numbers: list[list[int]]) -> tuple[list[list[int]], int]:
    """The pigeonhole bootstrap, token after token."""
    of = {p: {n for q, row in zip(problems, numbers, strict=True) if q == p for n in row if n >= 0} for p in problems}
    often = Counter(number for held in of.values() for number in held)
    shared = sorted(number for number, count in often.items() if count > 1)
    most = [sorted([n for n in row if n in shared], key=lambda n: -often[n])[:2] for row in numbers]
    lone = sorted({problem for problem, row in zip(problems, most, strict=True) if not row})
    items = len(shared) + len(lone)
    drawn = np.random.default_rng(3).multinomial(items, np.full(items, 1 / items), size=200)
    rows = []
    for sample in drawn:
        times = dict(zip([*shared, *(("lone", problem) for problem in lone)], sample.tolist(), strict=True))
        rows.append(
            [
                int(np.prod([times[number] for number in row])) if row else times["lone", problem]
                for problem, row in zip(problems, most, strict=True)
            ]
        )
    return rows, items


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.lists(st.integers(-1, 7), min_size=3, max_size=3, unique=True)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_samples_are_those_of_a_plain_loop(tokens: list[tuple[int, list[int]]]) -> None:
    problems, numbers = zip(*tokens, strict=True)
    weights, items = resamples(np.array(problems), np.array(numbers), seed=3)
    expected, count = plain_weights(list(problems), list(numbers))
    assert (weights.tolist(), items) == (expected, count)


def test_samples_differ_by_seed_and_have_one_by_default() -> None:
    given = np.arange(30), np.full((30, 2), -1)
    assert np.array_equal(resamples(*given).weights, resamples(*given, seed=0).weights)
    assert not np.array_equal(resamples(*given).weights, resamples(*given, seed=1).weights)


def weighted_kappa(truth: np.ndarray, said: np.ndarray, weights: np.ndarray) -> float:
    kinds, total = set(truth) | set(said), weights.sum()
    agreed = weights[truth == said].sum() / total
    chance = sum(weights[truth == kind].sum() * weights[said == kind].sum() for kind in kinds) / total**2
    return (agreed - chance) / (1 - chance)


def test_an_interval_is_the_middle_of_the_samples_and_no_lower_end_is_above_the_exact_one() -> None:
    chance = np.random.default_rng(0)
    for classes, wrong in ((2, 0.0), (2, 0.02), (3, 0.4), (5, 0.95)):
        truth = chance.integers(10, 10 + classes, 60)
        said = np.where(chance.random(60) < wrong, chance.integers(10, 11 + classes, 60), truth)
        samples = resamples(np.arange(60) // 2, np.full((60, 2), -1))
        found = kappa_of(truth, said, samples)
        each = [weighted_kappa(truth, said, weights) for weights in samples.weights]
        low, high = np.quantile(each, [0.025, 0.975])
        by_chance = float((np.bincount(truth) ** 2).sum()) / 60**2
        exact = 1 - (1 - binomtest(30, 30).proportion_ci().low) / (1 - by_chance)
        assert found.value == pytest.approx(cohen_kappa_score(truth, said))
        assert (found.low, found.high) == (pytest.approx(min(low, exact)), pytest.approx(high))


def test_one_class_alone_has_no_kappa_and_samples_without_a_choice_are_left_out() -> None:
    ones, samples = np.ones(4, np.int64), Samples(np.ones((200, 4)), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(kappa_of(ones, ones, samples)).all()
    # Half of the samples hold one class alone; in the others all is right.
    truth, weights = np.array([0, 0, 1, 1]), np.ones((200, 4))
    weights[::2, 2:] = 0
    found = kappa_of(truth, truth, Samples(weights, 4))
    assert (found.value, found.high) == (1, 1)
    # Of no things at all no bound can be better than that of one.
    none, one = (kappa_of(truth, truth, Samples(weights, items)) for items in (0, 1))
    assert none == one
    assert one.low == pytest.approx(1 - (1 - binomtest(1, 1).proportion_ci().low) * 2)
    assert found.low == pytest.approx(1 - (1 - binomtest(4, 4).proportion_ci().low) * 2)
