import ast
import re
from collections import Counter
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.generation.generate import sample_rows
from pipelines.problems.components import components
from pipelines.problems.digits import Operands
from pipelines.problems.expression import Expressions
from pipelines.spec.corpus import CorpusSpec, ProblemSpec
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import Canonical
from pipelines.split.parse import canonical_form, text_hashes

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


@given(
    min_depth=st.integers(1, 6), more=st.integers(0, 2), spare=st.integers(0, 4), key=st.integers(0, 99),
    operators=st.sampled_from([("-",), ("+", "-"), ("+", "-", "*")]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_expressions_have_the_requested_depth(
    min_depth: int, more: int, spare: int, operators: tuple, key: int
) -> None:
    terms = min_depth + 2 + spare
    spec = ProblemSpec(
        family="expression", terms=terms, min_terms=min_depth + 2, digits=4, depth=min_depth + more,
        min_depth=min_depth, operators=operators,
    )  # fmt: skip
    for text in check(Expressions(spec, CANONICAL, key, 10**9), 200):
        deepest = max(text[:place].count("(") - text[:place].count(")") for place in range(len(text)))
        assert min_depth <= deepest <= min_depth + more


@pytest.mark.parametrize("preset", ["addition", "subtraction", "multiplication", "long", "arithmetic", "billion"])
def test_a_hundred_thousand_answers_of_a_preset_are_pythons_own(preset: str) -> None:
    parts = components(CORPORA[preset])
    for component in parts:
        table, _ = sample_rows(CORPORA[preset], component, -(-100_000 // len(parts)))
        problems, answers = table["problem"].to_pylist(), table["answer"].to_pylist()
        assert [str(eval(problem)) for problem in problems] == answers


@pytest.mark.parametrize("operators", [("+",), ("+", "-", "*")])
def test_lengths_are_equally_frequent_until_exhausted_and_no_problem_repeats(operators: tuple) -> None:
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


@pytest.mark.parametrize("operator", ["+", "-"])
def test_hard_rows_carry_or_borrow_through_many_columns(operator: str) -> None:
    def long_chains(hard: float) -> float:
        """Share of rows whose longest chain has at least eight of twenty columns."""
        spec = CorpusSpec(
            family="digits", terms=2, digits=20, min_digits=20, rows=20_000, hard=hard, operators=(operator,)
        )
        table, _ = sample_rows(spec, components(spec)[0], 20_000)
        return float(np.mean(table["carries"].to_numpy() >= 8))

    # One digit in ten or so lets a chain go on by chance.
    assert long_chains(0.0) < 0.05
    assert long_chains(1.0) > 0.25
    assert abs(long_chains(0.5) - (long_chains(0.0) + long_chains(1.0)) / 2) < 0.03


@pytest.mark.parametrize("operator", ["+", "-"])
def test_no_carry_enters_half_of_the_long_chains(operator: str) -> None:
    spec = CorpusSpec(family="digits", terms=2, digits=20, min_digits=20, rows=20_000, hard=1.0, operators=(operator,))
    table, _ = sample_rows(spec, components(spec)[0], 20_000)
    came: list[bool] = []
    for problem, carries in zip(table["problem"].to_pylist(), table["carries"].to_pylist(), strict=True):
        left, right = (number[::-1] for number in problem.split(operator))
        waits = [int(a) + int(b) == 9 if operator == "+" else a == b for a, b in zip(left, right, strict=True)]
        # Behind the units, which start the chain or don't, ten columns in a row that would pass it on.
        if all(waits[1:11]):
            came.append(carries > 10)
    assert len(came) > 5_000
    assert 0.45 < np.mean(came) < 0.55


def test_lengths_are_equally_frequent_with_hard_rows_and_more_operands() -> None:
    spec = CorpusSpec(family="digits", terms=3, min_terms=3, digits=5, min_digits=3, rows=13_500, hard=0.5)
    table, _ = sample_rows(spec, components(spec)[0], 13_500)
    cells = Counter(tuple(map(len, problem.split("+"))) for problem in table["problem"].to_pylist())
    assert set(cells.values()) == {500}
    assert len(cells) == 27


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_every_bracket_is_necessary(seed: int) -> None:
    spec = CorpusSpec(family="expression", rows=200, terms=5, digits=1, depth=3, operators=("+", "-", "*"), seed=seed)
    table, _ = sample_rows(spec, components(spec)[0], 200)
    for problem, answer in zip(table["problem"].to_pylist(), table["answer"].to_pylist(), strict=True):
        for opening in (place for place, character in enumerate(problem) if character == "("):
            level = accumulate((c == "(") - (c == ")") for c in problem[opening:])
            closing = opening + next(place for place, deep in enumerate(level) if not deep)
            bare = problem[:opening] + problem[opening + 1 : closing] + problem[closing + 1 :]
            # Without this pair of brackets the text means another tree.
            assert "--" in bare or "+-" in bare or "*-" in bare or tree_of(bare) != tree_of(problem), problem
        assert str(eval(problem)) == answer


def tree_of(problem: str) -> str:
    """The tree that Python reads, sums and products of several terms as one node."""

    def shown(node: ast.expr) -> str:
        if isinstance(node, ast.BinOp):
            return f"({shown(node.left)}{type(node.op).__name__}{shown(node.right)})"
        return ast.unparse(node)

    return shown(ast.parse(problem, mode="eval").body)
