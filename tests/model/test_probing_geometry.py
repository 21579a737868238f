"""Geometry of tables with a planted shape, and of random tables."""

import numpy as np
import pytest

from model.probing.geometry import bases, circle, components, cosines, fitted, means_by, measures, spectrum

NOISE = 0.05


@pytest.fixture
def chance() -> np.random.Generator:
    """A new generator for each test, so that its numbers do not depend on other tests."""
    return np.random.default_rng(7)


def planted(chance: np.random.Generator, numbers: int, period: int, width: int = 32) -> np.ndarray:
    """Points on a circle in a random plane, with some noise around them."""
    plane = chance.standard_normal((2, width)) / width**0.5
    return circle(np.arange(numbers), period) @ plane + NOISE * chance.standard_normal((numbers, width)) / width**0.5


def shares(table: np.ndarray) -> dict[str, float]:
    return {each.name: each.value for each in measures(table)}


@pytest.mark.parametrize(("numbers", "period"), [(10, 10), (100, 10), (100, 100)])
def test_only_the_planted_circle_explains_the_variance(chance: np.random.Generator, numbers: int, period: int) -> None:
    found = {each.name: each for each in measures(planted(chance, numbers, period))}
    assert found[f"circle {period}"].value > 0.95
    assert found[f"circle {period}"].value > found[f"circle {period}"].shuffled_high
    assert found[f"circle {period}"].chance < 0.01
    if numbers == 100:
        assert found[f"circle {110 - period}"].value < 0.05
    frequencies = spectrum(planted(chance, numbers, period))
    assert frequencies.argmax() + 1 == numbers // period
    assert frequencies.sum() == pytest.approx(1)


def test_a_random_table_exceeds_chance_as_often_as_expected(chance: np.random.Generator) -> None:
    chances = [
        next(each.chance for each in measures(chance.standard_normal((10, 32)), seed) if each.name == "circle 10")
        for seed in range(40)
    ]
    # About one p-value in twenty is below 5 %.
    assert np.mean(np.array(chances) < 0.05) < 0.2
    assert 0.2 < np.mean(chances) < 0.8


def test_a_line_is_explained_by_a_line_and_a_helix_by_line_and_circle(chance: np.random.Generator) -> None:
    index = np.arange(100.0)
    direction = chance.standard_normal((1, 16))
    line = index[:, None] @ direction
    assert shares(line)["line"] == pytest.approx(1)
    both = line / 30 + planted(chance, 100, 10, 16)
    assert shares(both)["line"] < 0.98
    assert bases(10)["helix"].shape == (10, 3)
    assert shares(both)["helix"] > 0.98


def test_the_fit_of_a_circle_is_the_circle(chance: np.random.Generator) -> None:
    table = circle(np.arange(10), 10) @ chance.standard_normal((2, 8))
    assert np.allclose(fitted(table, ["circle 10"]), table)
    points, of_components = components(table)
    assert of_components[:2].sum() == pytest.approx(1)
    assert np.allclose(points[:, 2], 0)
    assert cosines(circle(np.arange(10), 10))[0, 5] == pytest.approx(-1)


def test_means_of_digits_do_not_depend_on_positions(chance: np.random.Generator) -> None:
    digits, places = chance.integers(0, 10, 4_000), chance.integers(0, 3, 4_000)
    of_digit, of_place = chance.standard_normal((10, 8)), 50 * chance.standard_normal((3, 8))
    table, met = means_by((of_digit[digits] + of_place[places]).astype(np.float32), digits, places, 10)
    assert met
    assert np.allclose(table - table.mean(0), of_digit - of_digit.mean(0), atol=0.3)
    assert not means_by(np.ones((3, 8), np.float32), np.arange(3), np.zeros(3, np.int64), 10)[1]
