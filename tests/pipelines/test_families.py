import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.components import components
from pipelines.families.expression import Expressions
from pipelines.families.operands import Operands
from pipelines.generate import sample_rows
from pipelines.presets import CORPORA
from pipelines.reading import canonical_form, text_hashes
from pipelines.spec import ProblemSpec
from pipelines.split import Canonical

OPERATORS = st.sampled_from([("+",), ("-",), ("*",), ("+", "-"), ("+", "-", "*")])
CANONICAL = Canonical("numerate")


def check(family: Operands | Expressions, rows: int) -> list[str]:
    """Every answer is Python's own, and the hashes are those of the text."""
    positions = np.arange(rows, dtype=np.uint64)
    problems = family.problems(positions)
    table = family.table(positions, problems)
    texts = table["problem"].to_pylist()
    assert table["answer"].to_pylist() == [str(eval(text)) for text in texts]
    hashes = family.canonical(problems)
    assert np.array_equal(hashes, text_hashes(table["problem"].combine_chunks(), CANONICAL))
    forms = [canonical_form(text) for text in texts]
    assert len(set(forms)) == len(set(hashes.tolist())) == len(set(zip(forms, hashes.tolist(), strict=True)))
    assert np.broadcast_to(family.text_lengths(problems), rows).max() >= max(map(len, texts))
    return texts


@given(
    terms=st.integers(2, 6), digits=st.integers(1, 45), operators=OPERATORS, hard=st.sampled_from([0.0, 0.5, 1.0]),
    key=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_operands_of_any_length_have_pythons_answers(
    terms: int, digits: int, operators: tuple, hard: float, key: int
) -> None:
    spec = ProblemSpec(family="digits", terms=terms, min_terms=terms, digits=digits, operators=operators, hard=hard)
    rows = min(spec.size, 300)
    texts = check(Operands(spec, CANONICAL, key, max(rows, min(spec.size, 10**7))), rows)
    assert max(len(number) for text in texts for number in re.split(r"\D", text)) <= digits


@given(
    terms=st.integers(2, 10), digits=st.integers(1, 25), depth=st.integers(0, 6), operators=OPERATORS,
    key=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_expressions_have_pythons_answers_and_bounded_brackets(
    terms: int, digits: int, depth: int, operators: tuple, key: int
) -> None:
    spec = ProblemSpec(family="expression", terms=terms, digits=digits, depth=depth, operators=operators)
    for text in check(Expressions(spec, CANONICAL, key, 10**9), 200):
        deepest = max((text[: place + 1].count("(") - text[:place].count(")") for place in range(len(text))), default=0)
        assert deepest <= depth


@pytest.mark.parametrize("preset", ["addition", "subtraction", "multiplication", "long", "arithmetic", "billion"])
def test_a_hundred_thousand_answers_of_a_preset_are_pythons_own(preset: str) -> None:
    parts = components(CORPORA[preset])
    for component in parts:
        table, _ = sample_rows(CORPORA[preset], component, -(-100_000 // len(parts)))
        problems, answers = table["problem"].to_pylist(), table["answer"].to_pylist()
        assert [str(eval(problem)) for problem in problems] == answers


@pytest.mark.parametrize("operators", [("+",), ("+", "-", "*")])
def test_lengths_come_equally_often_until_they_are_used_up_and_no_problem_twice(operators: tuple) -> None:
    spec = ProblemSpec(family="digits", terms=2, min_terms=2, digits=4, operators=operators)
    rows = 40_000
    positions = np.arange(rows, dtype=np.uint64)
    family = Operands(spec, CANONICAL, 3, rows)
    texts = family.table(positions, family.problems(positions))["problem"].to_pylist()
    assert len(set(texts)) == rows
    cells: dict[tuple[int, int, str], int] = {}
    for text in texts:
        left, operator, right = re.fullmatch(r"(\d+)(\D)(\d+)", text).groups()  # type: ignore[union-attr]
        cells[len(left), len(right), operator] = cells.get((len(left), len(right), operator), 0) + 1
    capacity = {1: 10, 2: 90, 3: 900, 4: 9_000}
    assert len(cells) == 16 * len(operators)
    level = max(cells.values())
    assert all(count in (min(capacity[a] * capacity[b], level), level - 1) for (a, b, _), count in cells.items())
