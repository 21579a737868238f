import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.problems.grid import Grid
from pipelines.spec.corpus import CorpusSpec, ProblemSpec
from pipelines.split.canonical import Canonical
from storage.order import UInt64s


def grid_of(spec: ProblemSpec, split_key: str = "numerate") -> Grid:
    return Grid(spec, Canonical(split_key), 5, spec.size)


OPERATORS = [("+",), ("-",), ("*",), ("+", "-"), ("*", "+"), ("+", "-", "*")]


def rows(spec: CorpusSpec, count: int = 400, seed: int = 0) -> UInt64s:
    size = spec.size
    drawn = np.random.default_rng(seed).integers(0, size, count, dtype=np.uint64)
    return np.concatenate([drawn, np.array([0, size - 1], np.uint64)])


def oracle_carries(operands: list[int]) -> int:
    """Longest run of carrying columns by schoolbook addition."""
    carry, run, longest = 0, 0, 0
    for place in range(len(str(max(operands)))):
        carry = (carry + sum(n // 10**place % 10 for n in operands)) // 10
        run = run + 1 if carry else 0
        longest = max(longest, run)
    return longest


def oracle_canonical(problem: str) -> str:
    """Canonical form in text: terms sorted, factors sorted, a-b read as a+(-b)."""
    terms = re.findall(r"[+-]?[\d*]+", problem)
    forms = []
    for term in terms:
        sign = "-" if term.startswith("-") else ""
        forms.append(sign + "*".join(sorted(term.lstrip("+-").split("*"))))
    return " ".join(sorted(forms))


@given(
    operators=st.sampled_from(OPERATORS),
    terms=st.integers(2, 5),
    low=st.integers(0, 120),
    span=st.integers(0, 900),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
def test_every_answer_is_pythons_own(operators: tuple, terms: int, low: int, span: int, seed: int) -> None:
    problems = ProblemSpec(terms=terms, low=low, high=low + span, operators=operators)
    spec = CorpusSpec(name="x", rows=min(problems.size, 10**9), **problems.parameters())
    grid, indices = grid_of(spec), rows(spec, seed=seed)
    table = grid.table(indices, grid.problems(indices))
    texts = table.column("problem").to_pylist()
    expected = [eval(problem) for problem in texts]
    assert table.column("answer").to_pylist() == [str(value) for value in expected]
    assert table.column(grid.answer_column).to_pylist() == expected
    numbers = [[int(n) for n in re.split(r"[-+*]", problem)] for problem in texts]
    assert [list(row.values()) for row in table.select(grid.operand_columns).to_pylist()] == numbers
    assert table.column("digits").to_pylist() == [max(len(str(n)) for n in row) for row in numbers]
    assert table.column("answer_digits").to_pylist() == [len(str(abs(value))) for value in expected]
    assert table.column("operators").to_pylist() == [re.sub(r"\d", "", problem) for problem in texts]
    assert table.column("negative").to_pylist() == [value < 0 for value in expected]


def test_a_hundred_thousand_notebook_rows_are_right() -> None:
    spec = CorpusSpec()
    indices = rows(spec, 100_000)
    table = grid_of(spec).table(indices, grid_of(spec).problems(indices))
    assert all(
        str(eval(problem)) == answer
        for problem, answer in zip(*(table.column(name).to_pylist() for name in ("problem", "answer")), strict=True)
    )


def test_the_grid_holds_every_combination_once() -> None:
    spec = CorpusSpec(name="x", terms=3, low=2, high=4, operators=("+", "*"))
    indices = np.arange(spec.size, dtype=np.uint64)
    problems = grid_of(spec).table(indices, grid_of(spec).problems(indices)).column("problem").to_pylist()
    expected = {
        f"{a}{p}{b}{q}{c}"
        for a, b, c in itertools.product("234", repeat=3)
        for p, q in itertools.product("+*", repeat=2)
    }
    assert len(problems) == len(set(problems)) == spec.size
    assert set(problems) == expected


@pytest.mark.parametrize("operators", OPERATORS)
def test_canonical_hashes_are_equal_for_equal_canonical_forms_and_for_no_others(operators: tuple) -> None:
    spec = CorpusSpec(name="x", terms=3, low=0, high=11, operators=operators)
    grid, indices = grid_of(spec), np.arange(spec.size, dtype=np.uint64)
    problems = grid.problems(indices)
    forms = [oracle_canonical(p) for p in grid.table(indices, problems).column("problem").to_pylist()]
    hashes = grid.canonical(problems).tolist()
    assert len(set(forms)) == len(set(hashes)) == len(set(zip(forms, hashes, strict=True)))


def test_a_sum_has_one_hash_in_every_corpus_of_one_key() -> None:
    def hash_of(spec: CorpusSpec, text: str) -> int:
        grid, indices = grid_of(spec, spec.split_key), np.arange(spec.size, dtype=np.uint64)
        problems = grid.problems(indices)
        return dict(
            zip(grid.table(indices, problems).column("problem").to_pylist(), grid.canonical(problems), strict=True)
        )[text]

    plain = CorpusSpec(name="x", terms=2, high=20)
    shifted = CorpusSpec(name="y", terms=2, low=3, high=300)
    mixed = CorpusSpec(name="z", terms=2, high=20, operators=("*", "+", "-"), seed=9)
    other_key = CorpusSpec(name="x", terms=2, high=20, split_key="other")
    assert hash_of(plain, "5+17") == hash_of(plain, "17+5") == hash_of(shifted, "17+5") == hash_of(mixed, "5+17")
    assert hash_of(mixed, "5*17") != hash_of(mixed, "5+17") != hash_of(mixed, "5-17")
    assert hash_of(plain, "5+17") != hash_of(other_key, "5+17")


@pytest.mark.parametrize("high", [9, 99, 999, 4_321])
@pytest.mark.parametrize("terms", [2, 3, 5])
def test_carries_are_those_of_schoolbook_addition(high: int, terms: int) -> None:
    spec = CorpusSpec(name="x", terms=terms, high=high, rows=min((high + 1) ** terms, 10**9))
    indices = rows(spec)
    table = grid_of(spec).table(indices, grid_of(spec).problems(indices))
    expected = [oracle_carries([int(n) for n in problem.split("+")]) for problem in table.column("problem").to_pylist()]
    assert table.column("carries").to_pylist() == expected
