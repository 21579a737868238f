"""Probes of planted labels, and κ against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from model.probing.hooks import State
from model.probing.kappa import kappa_of, resamples
from model.probing.probes import Reading, Split, readings
from model.probing.token_dataset import UNKNOWN, Examples

M = 1_500
STATE, NOISE = State(1, 1), State(1, 2)
NONE = np.full((M, 2), -1)
HELD = np.arange(M) >= 1_000
SPLITS = [Split("numbers", ~HELD, HELD)]


TYPES = np.arange(M) % 60


@pytest.fixture
def chance() -> np.random.Generator:
    """A new generator for each test, so that its numbers do not depend on other tests."""
    return np.random.default_rng(3)


def examples(labels: dict[str, np.ndarray], groups: np.ndarray | None = None, types: np.ndarray = TYPES) -> Examples:
    groups = np.zeros(M, np.int64) if groups is None else groups
    return Examples("answer", np.arange(M), np.arange(M) % 7, groups, labels, NONE, NONE, types)


def read(
    chance: np.random.Generator, labels: dict[str, np.ndarray], states: np.ndarray, groups: np.ndarray | None = None
) -> list[Reading]:
    noise = chance.standard_normal((M, 16)).astype(np.float32)
    seen = {STATE: states.astype(np.float32), NOISE: noise}
    return list(readings(examples(labels, groups), SPLITS, seen, {STATE: noise}))


def test_a_planted_label_is_decoded_but_not_from_noise_and_not_a_random_label(chance: np.random.Generator) -> None:
    digits = chance.integers(0, 10, M)
    states = chance.standard_normal((10, 16))[digits] + 0.1 * chance.standard_normal((M, 16))
    found = {(each.state, each.probe, each.control): each for each in read(chance, {"magnitude": digits}, states)}
    assert found[STATE, "linear", "trained"].kappa > 0.98
    assert found[STATE, "linear", "trained"].examples == 500
    for key in ((NOISE, "linear", "trained"), (STATE, "linear", "untrained"), (STATE, "linear", "random")):
        assert abs(found[key].kappa) < 0.15
        assert found[key].low <= found[key].kappa <= found[key].high


def control_of(states: np.ndarray, types: np.ndarray, label: np.ndarray) -> float:
    seen = {STATE: states.astype(np.float32)}
    found = list(readings(examples({"carry in": label}, types=types), SPLITS, seen, {}))
    (control,) = (each for each in found if each.control == "random")
    assert control.low <= control.kappa <= control.high
    return control.kappa


def test_a_probe_that_memorises_types_also_decodes_random_labels_of_types(chance: np.random.Generator) -> None:
    """Both states contain the label. One has a direction for each type, so it contains any label of types."""
    types = chance.integers(0, 40, M)
    label = (types > 19).astype(np.int64)
    noise = 0.05 * chance.standard_normal((M, 40))
    assert control_of(np.eye(40)[types] + noise, types, label) > 0.95
    # This state contains only the label.
    assert control_of(np.eye(40)[label] + noise, types, label) < 0.5


def test_a_single_type_of_token_gives_no_control_task(chance: np.random.Generator) -> None:
    label = chance.integers(0, 2, M)
    seen = {STATE: np.eye(2, dtype=np.float32)[label]}
    found = readings(examples({"carry in": label}, types=np.zeros(M, np.int64)), SPLITS, seen, {})
    assert {each.control for each in found} == {"trained"}


def test_a_circular_probe_decodes_a_label_on_a_circle_from_two_coordinates(chance: np.random.Generator) -> None:
    digits = chance.integers(0, 10, M)
    angles = 2 * np.pi * digits / 10
    states = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.03 * chance.standard_normal((M, 2))
    found = {(each.state, each.probe, each.control): each.kappa for each in read(chance, {"digit": digits}, states)}
    assert found[STATE, "circular", "trained"] > 0.98
    assert abs(found[NOISE, "circular", "trained"]) < 0.15


def test_positions_that_determine_the_label_are_not_scored(chance: np.random.Generator) -> None:
    groups = np.arange(M) % 3
    carries = np.where(groups == 0, 0, chance.integers(0, 2, M))
    states = np.eye(3)[groups] + 0.01 * chance.standard_normal((M, 3))
    found = next(each for each in read(chance, {"carry in": carries}, states, groups) if each.state == STATE)
    assert found.examples == int((HELD & (groups > 0)).sum())
    assert abs(found.kappa) < 0.15
    assert read(chance, {"carry in": groups}, states, groups) == []


def test_a_constant_state_predicts_the_most_frequent_label(chance: np.random.Generator) -> None:
    carries = chance.integers(0, 2, M) * chance.integers(0, 2, M)
    carries[:5] = UNKNOWN
    found = read(chance, {"carry in": carries}, np.ones((M, 2)))
    assert {each.kappa for each in found if (each.state, each.control) == (STATE, "trained")} == {0}


def test_unknown_labels_are_left_out_and_many_classes_are_binned_into_ten(chance: np.random.Generator) -> None:
    totals = chance.integers(0, 200, M)
    totals[::2] = UNKNOWN
    states = np.stack([totals / 200, chance.standard_normal(M)], 1)
    found = next(each for each in read(chance, {"running sum": totals}, states) if each.state == STATE)
    assert (found.examples, found.classes) == (250, 10)
    assert found.kappa > 0.5


def test_kappa_equals_that_of_scikit_learn_and_is_in_its_interval(chance: np.random.Generator) -> None:
    truth = chance.integers(0, 5, 400)
    predicted = np.where(chance.random(400) < 0.6, truth, chance.integers(0, 5, 400))
    samples = resamples(np.arange(400) // 2, NONE[:400])
    found = kappa_of(truth, predicted, samples)
    assert found.value == pytest.approx(cohen_kappa_score(truth, predicted))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2


def test_without_errors_the_lower_end_is_the_exact_bound_over_the_resampled_items() -> None:
    truth = np.arange(400) % 2
    samples = resamples(np.arange(400) // 20, NONE[:400])
    assert samples.items == 20
    found = kappa_of(truth, truth, samples)
    # With two equally frequent classes, κ is twice the share of correct predictions, minus one.
    share = binomtest(20, 20).proportion_ci().low
    assert found == (1, pytest.approx(2 * share - 1), 1)
    # Another error does not raise it.
    lows = [kappa_of(truth, np.where(np.arange(400) < wrong, 1 - truth, truth), samples).low for wrong in range(60)]
    assert lows == sorted(lows, reverse=True)


def test_predictions_of_wrong_classes_have_a_kappa_of_zero() -> None:
    truth, predicted = np.array([0, 1, 0, 1]), np.array([2, 2, 2, 2])
    found = kappa_of(truth, predicted, resamples(np.arange(4), NONE[:4]))
    assert found.value == cohen_kappa_score(truth, predicted) == 0


def test_the_split_of_columns_tests_only_its_own_labels(chance: np.random.Generator) -> None:
    digits = chance.integers(0, 10, M)
    states = {STATE: np.eye(10, dtype=np.float32)[digits]}
    new = digits % 3 == 0
    splits = [*SPLITS, Split("columns", ~HELD & ~new, HELD & new, frozenset({"carry out"}))]
    labels = {"carry out": (digits > 4).astype(np.int64), "digit": digits}
    found = list(readings(examples(labels), splits, states, states))
    assert {each.label for each in found if each.split == "columns"} == {"carry out"}
    assert all(each.examples == (HELD & new).sum() for each in found if each.split == "columns")
    by_split = {(each.label, each.split): each.kappa for each in found if each.control == "trained"}
    # Known digits are decoded, digits without training examples are not.
    assert by_split["carry out", "numbers"] == 1
    assert by_split["carry out", "columns"] < 0.5


def test_a_sample_weighs_tokens_by_their_problem_and_by_shared_numbers() -> None:
    numbers = np.array([[10, 20], [10, 20], [10, 30], [40, -1], [50, -1]])
    problems = np.array([0, 0, 1, 2, 3])
    weights, items = resamples(problems, numbers)
    assert items == 3
    # 10 is shared by problems 0 and 1; 20, 30, 40 and 50 are in one problem each.
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 3, 4]].sum(1) == 3).all()
    # Two numbers that are both shared multiply.
    both = resamples(np.arange(3), np.array([[10, 20], [10, 30], [20, 40]])).weights
    assert (both[:, 0] == both[:, 1] * both[:, 2]).all()
    assert (both[:, 1:].sum(1) == 2).all()
    # Only the two most shared numbers count.
    three = resamples(np.arange(5), np.array([[10, 20, 30], [10, 20, -1], [10, -1, -1], [20, -1, -1], [30, -1, -1]]))
    assert (three.weights[:, 0] == three.weights[:, 2] * three.weights[:, 3]).all()


def test_the_interval_follows_from_the_number_of_numbers(chance: np.random.Generator) -> None:
    """Half of forty numbers are always predicted wrongly: the deviation is that of forty trials, not of a thousand."""
    numbers = chance.integers(10, 50, M)
    truth = chance.integers(0, 2, M)
    predicted = np.where(numbers < 30, truth, 1 - truth)
    held = np.stack([numbers, np.full(M, -1)], 1)
    few, many = (kappa_of(truth, predicted, resamples(np.arange(M), of)) for of in (held, NONE))
    # κ is twice the share of correct predictions, minus one. For forty draws it varies by 2 √(¼ / 40) = 0.158.
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.158, rel=0.2)
    assert many.high - many.low < 0.15
