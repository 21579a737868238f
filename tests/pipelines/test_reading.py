import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.split.canonical import Canonical
from pipelines.split.parse import canonical_form, text_hashes
from storage.errors import RunFailure

CANONICAL = Canonical("numerate")
NUMBERS = st.one_of(st.integers(0, 3), st.integers(0, 10**40)).map(str)


def larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions made from two, in brackets or not, so that precedence is at work; brackets may be superfluous."""
    pair = st.tuples(smaller, st.sampled_from("+-*"), smaller).map("".join)
    return st.one_of(pair, smaller.map("({})".format), smaller.map("-{}".format), pair.map("({})".format))


EXPRESSIONS = st.recursive(NUMBERS, larger, max_leaves=8)
# Few numbers, so that equal forms come up in many orders.
SMALL_EXPRESSIONS = st.recursive(st.sampled_from("12"), larger, max_leaves=4)


def hashes_of(problems: list[str]) -> list[int]:
    found: list[int] = text_hashes(pa.array(problems, pa.string()), CANONICAL).tolist()
    return found


@given(st.lists(st.one_of(EXPRESSIONS, SMALL_EXPRESSIONS), min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_text_hashes_are_equal_exactly_where_canonical_forms_are(problems: list[str]) -> None:
    forms, hashes = [canonical_form(problem) for problem in problems], hashes_of(problems)
    assert len(set(forms)) == len(set(hashes)) == len(set(zip(forms, hashes, strict=True)))


@given(st.lists(EXPRESSIONS, min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_hash_does_not_depend_on_other_rows(problems: list[str]) -> None:
    assert hashes_of(problems) == [value for problem in problems for value in hashes_of([problem])]
    column = pa.array(["1+1", *problems])
    assert text_hashes(column.slice(1), CANONICAL).tolist() == hashes_of(problems)


def test_a_column_of_several_blocks_has_the_hashes_of_its_parts() -> None:
    problems = [f"{a}*({b}-{a})" if a % 7 else f"{a}+{b}" for a in range(300) for b in range(90)]
    parts = [value for first in range(0, len(problems), 1_000) for value in hashes_of(problems[first : first + 1_000])]
    assert hashes_of(problems) == parts
    assert hashes_of([]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+5", "5+3"),
        ("3-5", "-5+3"),
        ("(1-2)*3", "3*(1-2)"),
        ("(1-2)*3", "-(2-1)*3"),
        ("1-(2-3)", "3-2+1"),
        ("2*(3*4)", "4*3*2"),
        ("1--2", "1+2"),
        ("2*-3", "-2*3"),
        ("((7))", "7"),
    ],
)
def test_equivalent_problems_have_one_form(one: str, other: str) -> None:
    assert canonical_form(one) == canonical_form(other)
    assert len(set(hashes_of([one, other]))) == 1


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "3+",
        "+3",
        "3++5",
        "3*",
        "3 + 5",
        "3+x",
        "(3+5",
        "3+5)",
        ")3(",
        "()",
        "3(4)",
        "(3)4",
        "(3)(4)",
        "3+05",
        "3é5",
    ],
)
def test_error_names_an_invalid_problem(damaged: str) -> None:
    with pytest.raises(RunFailure) as caught:
        hashes_of(["1+1", "2*(3-4)", damaged, "5+5"])
    assert str(caught.value) == f"problem {damaged!r} is not valid"


def test_error_names_invalid_bytes() -> None:
    with pytest.raises(RunFailure, match="problem '3\ufffd1' is not valid"):
        text_hashes(pa.array([b"3\xff1"]).view(pa.string()), CANONICAL)
