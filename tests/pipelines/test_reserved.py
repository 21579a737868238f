import re
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.generation.generate import sample_rows
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec
from pipelines.split.canonical import Canonical
from pipelines.split.parse import Form, canonical_form, text_hashes
from pipelines.split.reserved import listing, reserved
from storage.datasets.manifest import SPLITS

ALL = ("+", "-", "*")
# The first two hold every problem of their kind, the third many thousands of them.
FAMILIES = {
    "grid": CorpusSpec(terms=2, operators=ALL),
    "digits": CorpusSpec(family="digits", terms=2, digits=2, operators=ALL),
    "expression": CorpusSpec(family="expression", terms=2, digits=2, depth=2, operators=ALL, rows=40_000),
}


def equivalents(problem: str) -> list[str]:
    """A problem of two operands in every order and with redundant brackets."""
    left, operator, right = re.fullmatch(r"(\d+)([-+*])(\d+)", problem).groups()  # type: ignore[union-attr]
    swapped = f"-{right}+{left}" if operator == "-" else f"{right}{operator}{left}"
    return [problem, swapped, f"({problem})", f"({swapped})"]


@lru_cache
def reserved_forms() -> frozenset[Form]:
    return frozenset(canonical_form(case.text) for case in (*listing("edge"), *listing("adderboard")))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split_key", ["numerate", "another key"])
def test_reserved_problems_and_their_equivalents_are_test_under_any_key(family: str, split_key: str) -> None:
    spec = FAMILIES[family].model_copy(update={"split_key": split_key})
    splits: dict[str, str] = {}
    for component in components(spec):
        table, numbers = sample_rows(spec, component, component.rows)
        splits |= dict(zip(table["problem"].to_pylist(), (SPLITS[number] for number in numbers), strict=True))
    reserved = {problem: split for problem, split in splits.items() if canonical_form(problem) in reserved_forms()}
    assert set(reserved.values()) == {"test"}
    # Problems of one and two digits in both orders, of which the two full families hold all.
    assert {"9+1", "1+9", "9*1", "1*9", "10-1", "99+99"} <= set(reserved) or family == "expression"
    assert len(reserved) >= 15
    assert set(splits.values()) == set(SPLITS)


@given(split_key=st.text(min_size=1, max_size=8))
@settings(max_examples=3, deadline=None)
def test_every_reserved_problem_is_known_in_every_order(split_key: str) -> None:
    problems = [text for case in (*listing("edge"), *listing("adderboard")) for text in equivalents(case.text)]
    hashes = text_hashes(pa.array(problems), Canonical(split_key))
    assert np.array_equal(reserved(split_key).find(hashes)[0], np.arange(len(problems)))


def test_suites_are_complete() -> None:
    edges, sums = ([case.text for case in listing(name)] for name in ("edge", "adderboard"))
    assert len(sums) == 10_010
    assert sums[:2] == ["0+0", "0+1"]
    assert len(set(edges)) == len(edges)
    assert all("9" * digits + "+1" in edges for digits in (1, 2, 20, 200))


def test_edge_cases_match_their_kind() -> None:
    found: dict[str, set[int]] = {}
    for case in listing("edge"):
        assert case.answer == eval(case.text)
        assert case.digits == max(map(len, re.split(r"\D", case.text)))
        found.setdefault(case.kind, set()).add(case.digits)
        left, right, digits = str(case.left), str(case.right), case.digits
        if case.kind == "carry chain":
            assert case.answer == 10**digits
        elif case.kind == "chain without a carry":
            assert case.answer == 10**digits - 1
            assert all(int(a) + int(b) == 9 for a, b in zip(left, right, strict=True))
        elif case.kind == "borrow chain" and digits > 1:
            # Every column below the first one ends as a nine or is borrowed from.
            assert str(case.answer).endswith("9" * (digits - 1))
        elif case.kind == "chain without a borrow":
            assert case.answer == 9 * 10 ** (digits - 1)
            assert left[1:] == right
        elif case.kind == "negative":
            assert case.answer < 0 or digits == 1
        elif case.kind == "zeros":
            assert "0" in left + right + str(case.answer) or digits == 1
        elif case.kind == "nines":
            assert left == "9" * digits
    assert all({2, 50, 200} <= lengths for lengths in found.values())
    assert found.keys() == {
        "carry chain", "chain without a carry", "borrow chain", "chain without a borrow", "negative", "zeros", "nines",
    }  # fmt: skip


def test_later_versions_reserve_only_additional_problems() -> None:
    first, later, all_of_them = reserved("numerate", 4), reserved("numerate", 5), reserved("numerate")
    hashes = text_hashes(pa.array(["9+1", "0+1", "55+44"]), Canonical("numerate"))
    assert first.find(hashes)[0].tolist() == [2]
    assert not len(later.hashes)
    assert len(all_of_them.find(hashes)[0]) == 3


def test_chains_carry_through_every_column_or_through_none() -> None:
    cases = listing("chains")[::97]
    assert {case.digits for case in cases} == set(range(5, 61))
    for case in cases:
        # Written out, units first, as a person adds and subtracts on paper.
        left, right = ([int(digit) for digit in reversed(f"{number:060}")] for number in (case.left, case.right))
        passed, carry = [], 0
        for one, other in zip(left, right, strict=True):
            carry = int(one + other + carry > 9 if case.operator == "+" else one - other - carry < 0)
            passed.append(carry)
        # A borrow ends in the highest column, so that the result is no negative number.
        columns = case.digits if case.operator == "+" else case.digits - 1
        expected = "without" not in case.kind
        assert passed[:columns] == [int(expected)] * columns, case
        assert not any(passed[columns:]), case
        # A chain and its look-alike differ in the lowest column only.
        totals = [one + other if case.operator == "+" else one - other for one, other in zip(left, right, strict=True)]
        assert set(totals[1 : case.digits - 1]) == {9 if case.operator == "+" else 0}
        assert case.answer == eval(case.text)
