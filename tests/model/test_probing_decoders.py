"""Probes against labels that were planted, and against scikit-learn's κ."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from model.probing.decoders import Reading, Split, readings
from model.probing.examples import UNKNOWN, Examples
from model.probing.kappa import kappa_of
from model.probing.states import State

CHANCE = np.random.default_rng(3)
M = 1_500
STATE, NOISE = State(1, 1), State(1, 2)
HELD = np.arange(M) >= 1_000
SPLITS = [Split("numbers", ~HELD, HELD)]


def examples(labels: dict[str, np.ndarray], groups: np.ndarray | None = None) -> Examples:
    zeros = np.zeros(M, np.int64)
    return Examples("answer", np.arange(M), np.arange(M) % 7, zeros if groups is None else groups, labels)


def read(labels: dict[str, np.ndarray], states: np.ndarray, groups: np.ndarray | None = None) -> list[Reading]:
    noise = CHANCE.standard_normal((M, 16)).astype(np.float32)
    seen = {STATE: states.astype(np.float32), NOISE: noise}
    return list(readings(examples(labels, groups), SPLITS, seen, {STATE: noise}))


def test_a_planted_label_is_told_and_neither_noise_nor_labels_at_random_are() -> None:
    digits = CHANCE.integers(0, 10, M)
    states = CHANCE.standard_normal((10, 16))[digits] + 0.1 * CHANCE.standard_normal((M, 16))
    found = {(each.state, each.probe, each.control): each for each in read({"magnitude": digits}, states)}
    assert found[STATE, "linear", "trained"].kappa.value > 0.98
    assert found[STATE, "linear", "trained"].examples == 500
    for key in ((NOISE, "linear", "trained"), (STATE, "linear", "untrained"), (STATE, "linear", "random")):
        assert abs(found[key].kappa.value) < 0.15
        assert found[key].kappa.low <= found[key].kappa.value <= found[key].kappa.high


def test_a_label_on_a_circle_is_read_from_two_coordinates() -> None:
    digits = CHANCE.integers(0, 10, M)
    angles = 2 * np.pi * digits / 10
    states = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.03 * CHANCE.standard_normal((M, 2))
    found = {(each.state, each.probe, each.control): each.kappa.value for each in read({"digit": digits}, states)}
    assert found[STATE, "circular", "trained"] > 0.98
    assert abs(found[NOISE, "circular", "trained"]) < 0.15


def test_what_the_place_decides_is_no_evidence() -> None:
    groups = np.arange(M) % 3
    carries = np.where(groups == 0, 0, CHANCE.integers(0, 2, M))
    states = np.eye(3)[groups] + 0.01 * CHANCE.standard_normal((M, 3))
    found = next(each for each in read({"carry in": carries}, states, groups) if each.state == STATE)
    assert found.examples == int((HELD & (groups > 0)).sum())
    assert abs(found.kappa.value) < 0.15
    assert read({"carry in": groups}, states, groups) == []


def test_a_state_that_says_nothing_is_told_as_the_most_frequent_label() -> None:
    carries = CHANCE.integers(0, 2, M) * CHANCE.integers(0, 2, M)
    carries[:5] = UNKNOWN
    found = read({"carry in": carries}, np.ones((M, 2)))
    assert {each.kappa.value for each in found if (each.state, each.control) == (STATE, "trained")} == {0}


def test_labels_that_do_not_apply_are_left_out_and_many_are_told_in_ten_parts() -> None:
    totals = CHANCE.integers(0, 200, M)
    totals[::2] = UNKNOWN
    states = np.stack([totals / 200, CHANCE.standard_normal(M)], 1)
    found = next(each for each in read({"running sum": totals}, states) if each.state == STATE)
    assert (found.examples, found.classes) == (250, 10)
    assert found.kappa.value > 0.5


def test_kappa_is_scikit_learns_and_its_interval_holds_it() -> None:
    truth = CHANCE.integers(0, 5, 400)
    said = np.where(CHANCE.random(400) < 0.6, truth, CHANCE.integers(0, 5, 400))
    found = kappa_of(truth, said, np.arange(400) // 2)
    assert found.value == pytest.approx(cohen_kappa_score(truth, said))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2
    assert kappa_of(truth, truth, np.arange(400)).value == 1
