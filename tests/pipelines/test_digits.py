"""Arithmetic on limbs and columns of digits against Python's integers."""

import random
import re
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.generation.generate import sample_rows
from pipelines.problems.arithmetic import (
    BASE,
    carried,
    digit_columns,
    digit_counts,
    limb_count,
    limbs_of,
    multiplied,
    product_carries,
    sum_carries,
)
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec


def split(numbers: list[int], limbs: int) -> list[np.ndarray]:
    """Non-negative numbers as limbs of eight digits, by their decimal text."""
    texts = [str(number).zfill(8 * limbs) for number in numbers]
    return [np.array([int(text[len(text) - 8 * (k + 1) : len(text) - 8 * k]) for text in texts]) for k in range(limbs)]


def joined(limbs: list[np.ndarray]) -> list[int]:
    """The numbers that limbs stand for."""
    return [sum(int(limb) * 10 ** (8 * k) for k, limb in enumerate(row)) for row in zip(*limbs, strict=True)]


def digits_of(numbers: list[int], places: int) -> np.ndarray:
    """Decimal digits [places, n], the lowest first."""
    return np.array([[int(digit) for digit in str(number).zfill(places)[::-1]] for number in numbers]).T


def longest_run(columns: list[int]) -> int:
    """Neighbouring places out of which something is carried, or into which something is borrowed, the most of them.

    What leaves a place is what all places up to it add up to, in whole units of the next one.
    """
    added = accumulate(column * 10**place for place, column in enumerate(columns))
    leaves = [total // 10 ** (place + 1) for place, total in enumerate(added)]
    return max(map(len, "".join("1" if each else "0" for each in leaves).split("0")))


def expected_carries(problem: str) -> int | None:
    """The expected value of `carries` of a problem without brackets; None for a product of more than two operands."""
    numbers, operators = [int(text) for text in re.findall(r"\d+", problem)], re.findall(r"[-+*]", problem)
    places = max(len(str(number)) for number in numbers) + 3
    if "*" in operators:
        if len(numbers) > 2:
            return None
        columns = [0] * (2 * places)
        for i, one in enumerate(reversed(str(numbers[0]))):
            for j, other in enumerate(reversed(str(numbers[1]))):
                columns[i + j] += int(one) * int(other)
        return longest_run(columns)
    signs = [1, *(-1 if operator == "-" else 1 for operator in operators)]
    whole = 1 if sum(sign * number for sign, number in zip(signs, numbers, strict=True)) >= 0 else -1
    columns = [sum(whole * s * (n // 10**k % 10) for s, n in zip(signs, numbers, strict=True)) for k in range(places)]
    return longest_run(columns)


@pytest.mark.parametrize(
    ("problem", "carries"),
    [
        ("1+1", 0),
        ("5+5", 1),
        ("99+1", 2),
        ("909+101", 1),
        ("90+20", 1),
        ("100-1", 2),
        ("1-100", 2),
        ("10-10", 0),
        ("3*3", 0),
        ("9*9", 1),
        ("99*99", 3),
        ("11*11", 0),
        ("2*3*4", None),
        ("2+3*4", None),
    ],
)
def test_oracle_counts_as_on_paper(problem: str, carries: int | None) -> None:
    assert expected_carries(problem) == carries


@pytest.mark.parametrize("operators", [("+",), ("-",), ("*",), ("+", "-"), ("*", "-"), ("+", "-", "*")])
@pytest.mark.parametrize(
    "values",
    [
        {"family": "digits", "terms": 4, "digits": 20, "hard": 0.3, "rows": 900},
        {"family": "digits", "terms": 2, "digits": 3, "rows": 300},
        {"family": "grid", "terms": 2, "high": 120, "rows": 300},
        {"family": "grid", "terms": 4, "high": 99, "rows": 300},
    ],
    ids=lambda values: f"{values['family']}-{values['terms']}",
)
def test_carries_and_their_nulls_are_those_of_paper(values: dict, operators: tuple) -> None:
    spec = CorpusSpec(name="x", operators=operators, **values)
    for component in components(spec):
        table, _ = sample_rows(spec, component, 300)
        expected = [expected_carries(problem) for problem in table["problem"].to_pylist()]
        assert table["carries"].to_pylist() == expected


@given(digits=st.integers(1, 40), terms=st.integers(2, 9), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_runs_of_columns_with_carries_and_borrows_are_those_of_paper(digits: int, terms: int, seed: int) -> None:
    draw = random.Random(seed)
    numbers = [[draw.choice([0, 9, draw.randrange(10)]) for _ in range(digits)] for _ in range(terms)]
    signs = [draw.choice([1, -1]) for _ in range(terms)]
    columns = [sum(s * number[k] for s, number in zip(signs, numbers, strict=True)) for k in range(digits)] + [0, 0]
    if sum(c * 10**k for k, c in enumerate(columns)) < 0:
        columns = [-c for c in columns]
    found = sum_carries(np.array(columns, np.int16)[:, None])
    assert (found.tolist(), found.dtype) == ([longest_run(columns)], np.int32)


@pytest.mark.parametrize(
    ("left", "right", "rows"), [(1, 1, 50), (3, 7, 50), (12, 12, 4_100), (401, 402, 2), (401, 3, 2), (850, 850, 3)]
)
def test_runs_of_carries_in_products_are_those_of_paper(left: int, right: int, rows: int) -> None:
    draw = random.Random(left)
    # Of 850 nines each a column has more than 16 bits.
    pairs = [[10**left - 1, 10**right - 1]]
    pairs += [
        [draw.choice([10**size - 1, draw.randrange(10**size)]) for size in (left, right)] for _ in range(rows - 1)
    ]
    ones, others = zip(*pairs, strict=True)
    found = product_carries(
        digits_of(list(ones), left).astype(np.uint8), digits_of(list(others), right).astype(np.uint8)
    )
    assert found.dtype == np.int32
    # The first and last rows of the pieces in which it is computed, and some between.
    for row in {*range(min(rows, 40)), *range(max(0, rows - 10), rows)}:
        assert found[row] == expected_carries(f"{ones[row]}*{others[row]}")


@given(
    st.lists(st.integers(0, 10**30), min_size=1, max_size=20), st.lists(st.integers(0, 10**20), min_size=1, max_size=1)
)
@settings(max_examples=60, deadline=None)
def test_limbs_hold_and_multiply_what_python_does(numbers: list[int], factor: list[int]) -> None:
    one, other = split(numbers, 4), split(factor * len(numbers), 3)
    assert joined(multiplied(one, other, 7)) == [number * factor[0] for number in numbers]
    assert joined(multiplied(one, other, 2)) == [number * factor[0] % BASE**2 for number in numbers]
    assert digit_counts(one).tolist() == [len(str(number)) for number in numbers]
    assert digit_columns(one, 32).tolist() == digits_of(numbers, 32).tolist()
    assert digit_columns(one, 11).tolist() == digits_of([number % 10**11 for number in numbers], 11).tolist()


def test_counts_of_digits_are_right_at_every_power_of_ten() -> None:
    numbers = [0, *(10**power + step for power in range(24) for step in (-1, 0, 1))]
    counts = digit_counts(split(numbers, 4))
    assert (counts.tolist(), counts.dtype) == ([len(str(number)) for number in numbers], np.int32)


def test_products_are_exact_up_to_as_many_limbs_as_63_bits_hold() -> None:
    nines = [np.array([BASE - 1])] * 900
    assert joined(multiplied(nines, nines, 1_800)) == [(BASE**900 - 1) ** 2]
    more = [*nines, nines[0]]
    with pytest.raises(AssertionError, match=r"^numbers of more than 7,200 digits are not possible$"):
        multiplied(more, more, 1)


@pytest.mark.parametrize("most", [0, 9, BASE - 1, BASE, BASE**2 - 1, BASE**2, 2**62])
def test_numbers_have_as_many_limbs_as_the_largest_needs(most: int) -> None:
    numbers = np.array(sorted({0, most // 3, max(0, most - 1), most}))
    limbs = limbs_of(numbers, most)
    assert len(limbs) == limb_count(len(str(most))) == (len(str(most)) + 7) // 8
    assert joined(limbs) == numbers.tolist()
    assert all((limb >= 0).all() and (limb < BASE).all() for limb in limbs)


@given(st.lists(st.lists(st.integers(-(2**61), 2**61), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_limbs_of_any_sign_become_magnitudes_and_signs(rows: list[list[int]]) -> None:
    values = [sum(limb * BASE**k for k, limb in enumerate(row)) for row in rows]
    # Room for what is carried out of the third.
    limbs = [*np.array(rows, np.int64).T, *np.zeros((4, len(rows)), np.int64)]
    digits, negative = carried(limbs)
    assert joined(digits) == [abs(value) for value in values]
    assert negative.tolist() == [value < 0 for value in values]
    assert all((limb >= 0).all() and (limb < BASE).all() for limb in digits)
