"""Probes against labels that were planted, and against scikit-learn's κ."""

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
    """A generator of each test's own: what it draws doesn't depend on the tests before it."""
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


def test_a_planted_label_is_told_and_neither_noise_nor_labels_at_random_are(chance: np.random.Generator) -> None:
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


def test_a_probe_that_knows_types_by_heart_does_as_well_at_random_labels_of_types(chance: np.random.Generator) -> None:
    """Both states tell the label; one of them because each type is a direction of its own, which tells any label."""
    types = chance.integers(0, 40, M)
    label = (types > 19).astype(np.int64)
    noise = 0.05 * chance.standard_normal((M, 40))
    assert control_of(np.eye(40)[types] + noise, types, label) > 0.95
    # Of this state the label can be told and nothing else.
    assert control_of(np.eye(40)[label] + noise, types, label) < 0.5


def test_one_type_of_token_is_no_control(chance: np.random.Generator) -> None:
    label = chance.integers(0, 2, M)
    seen = {STATE: np.eye(2, dtype=np.float32)[label]}
    found = readings(examples({"carry in": label}, types=np.zeros(M, np.int64)), SPLITS, seen, {})
    assert {each.control for each in found} == {"trained"}


def test_a_label_on_a_circle_is_read_from_two_coordinates(chance: np.random.Generator) -> None:
    digits = chance.integers(0, 10, M)
    angles = 2 * np.pi * digits / 10
    states = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.03 * chance.standard_normal((M, 2))
    found = {(each.state, each.probe, each.control): each.kappa for each in read(chance, {"digit": digits}, states)}
    assert found[STATE, "circular", "trained"] > 0.98
    assert abs(found[NOISE, "circular", "trained"]) < 0.15


def test_what_the_place_decides_is_no_evidence(chance: np.random.Generator) -> None:
    groups = np.arange(M) % 3
    carries = np.where(groups == 0, 0, chance.integers(0, 2, M))
    states = np.eye(3)[groups] + 0.01 * chance.standard_normal((M, 3))
    found = next(each for each in read(chance, {"carry in": carries}, states, groups) if each.state == STATE)
    assert found.examples == int((HELD & (groups > 0)).sum())
    assert abs(found.kappa) < 0.15
    assert read(chance, {"carry in": groups}, states, groups) == []


def test_a_state_that_says_nothing_is_told_as_the_most_frequent_label(chance: np.random.Generator) -> None:
    carries = chance.integers(0, 2, M) * chance.integers(0, 2, M)
    carries[:5] = UNKNOWN
    found = read(chance, {"carry in": carries}, np.ones((M, 2)))
    assert {each.kappa for each in found if (each.state, each.control) == (STATE, "trained")} == {0}


def test_labels_that_do_not_apply_are_left_out_and_many_are_told_in_ten_parts(chance: np.random.Generator) -> None:
    totals = chance.integers(0, 200, M)
    totals[::2] = UNKNOWN
    states = np.stack([totals / 200, chance.standard_normal(M)], 1)
    found = next(each for each in read(chance, {"running sum": totals}, states) if each.state == STATE)
    assert (found.examples, found.classes) == (250, 10)
    assert found.kappa > 0.5


def test_kappa_is_scikit_learns_and_its_interval_holds_it(chance: np.random.Generator) -> None:
    truth = chance.integers(0, 5, 400)
    said = np.where(chance.random(400) < 0.6, truth, chance.integers(0, 5, 400))
    samples = resamples(np.arange(400) // 2, NONE[:400])
    found = kappa_of(truth, said, samples)
    assert found.value == pytest.approx(cohen_kappa_score(truth, said))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2


def test_no_error_is_told_by_exact_bounds_over_what_was_resampled() -> None:
    truth = np.arange(400) % 2
    samples = resamples(np.arange(400) // 20, NONE[:400])
    assert samples.items == 20
    found = kappa_of(truth, truth, samples)
    # Of two classes, equally often, κ is twice the share that is right, less one.
    share = binomtest(20, 20).proportion_ci().low
    assert found == (1, pytest.approx(2 * share - 1), 1)
    # An error more doesn't raise it.
    lows = [kappa_of(truth, np.where(np.arange(400) < wrong, 1 - truth, truth), samples).low for wrong in range(60)]
    assert lows == sorted(lows, reverse=True)


def test_classes_that_were_never_said_are_told_as_by_chance() -> None:
    truth, said = np.array([0, 1, 0, 1]), np.array([2, 2, 2, 2])
    found = kappa_of(truth, said, resamples(np.arange(4), NONE[:4]))
    assert found.value == cohen_kappa_score(truth, said) == 0


def test_columns_that_add_up_digits_not_learnt_are_asked_of_their_labels_alone(chance: np.random.Generator) -> None:
    digits = chance.integers(0, 10, M)
    states = {STATE: np.eye(10, dtype=np.float32)[digits]}
    new = digits % 3 == 0
    splits = [*SPLITS, Split("columns", ~HELD & ~new, HELD & new, frozenset({"carry out"}))]
    labels = {"carry out": (digits > 4).astype(np.int64), "digit": digits}
    found = list(readings(examples(labels), splits, states, states))
    assert {each.label for each in found if each.split == "columns"} == {"carry out"}
    assert all(each.examples == (HELD & new).sum() for each in found if each.split == "columns")
    by_split = {(each.label, each.split): each.kappa for each in found if each.control == "trained"}
    # Of the digits themselves everything is told; of digits never seen nothing.
    assert by_split["carry out", "numbers"] == 1
    assert by_split["carry out", "columns"] < 0.5


def test_tokens_count_as_often_as_their_problem_and_the_numbers_that_problems_share() -> None:
    numbers = np.array([[10, 20], [10, 20], [10, 30], [40, -1], [50, -1]])
    problems = np.array([0, 0, 1, 2, 3])
    weights, items = resamples(problems, numbers)
    assert items == 3
    # 10 is shared by problems 0 and 1; 20, 30, 40 and 50 stand in one problem each.
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 3, 4]].sum(1) == 3).all()
    # Two numbers that are both shared multiply.
    both = resamples(np.arange(3), np.array([[10, 20], [10, 30], [20, 40]])).weights
    assert (both[:, 0] == both[:, 1] * both[:, 2]).all()
    assert (both[:, 1:].sum(1) == 2).all()
    # But no more than the two that stand in most.
    three = resamples(np.arange(5), np.array([[10, 20, 30], [10, 20, -1], [10, -1, -1], [20, -1, -1], [30, -1, -1]]))
    assert (three.weights[:, 0] == three.weights[:, 2] * three.weights[:, 3]).all()


def test_an_interval_is_as_wide_as_the_numbers_are_few(chance: np.random.Generator) -> None:
    """Forty numbers, half of which are always told wrongly: the spread of a mean of forty, not of a thousand."""
    numbers = chance.integers(10, 50, M)
    truth = chance.integers(0, 2, M)
    said = np.where(numbers < 30, truth, 1 - truth)
    held = np.stack([numbers, np.full(M, -1)], 1)
    few, many = (kappa_of(truth, said, resamples(np.arange(M), of)) for of in (held, NONE))
    # κ is twice the share that is right, less one: of forty drawn with replacement that varies by 2 √(¼ / 40) = 0.158.
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.158, rel=0.2)
    assert many.high - many.low < 0.15
