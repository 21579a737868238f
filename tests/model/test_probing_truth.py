"""The labels of probes against Python's integers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.probing.labels import NOTHING, Problem, answer_labels, operand_labels, operator_labels, value_of
from model.probing.sampling import draw, is_held_out
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run

NUMBERS = st.integers(0, 10**12)
SUMS = st.tuples(NUMBERS, st.lists(st.tuples(st.sampled_from("+-"), NUMBERS), min_size=1, max_size=5)).map(
    lambda found: str(found[0]) + "".join(f"{sign}{number}" for sign, number in found[1])
)
PRODUCTS = st.tuples(NUMBERS, NUMBERS).map(lambda pair: f"{pair[0]}*{pair[1]}")
EXPRESSIONS = st.recursive(
    st.integers(0, 999).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
    ),
    max_leaves=6,
)


@given(st.one_of(SUMS, PRODUCTS, EXPRESSIONS))
def test_values_equal_those_of_python(text: str) -> None:
    assert value_of(text) == eval(text)


@pytest.mark.parametrize("text", ["", "1+", "(1+2", "1 2", "x", "1+2)", "*3", "+3", "1**2", "()", "1(2)", " 1"])
def test_a_text_that_is_not_a_problem_has_no_value(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        value_of(text)


@given(st.one_of(SUMS, PRODUCTS), st.sampled_from([1, 2]))
def test_columns_have_the_carries_of_exact_arithmetic(text: str, group: int) -> None:
    problem, base = Problem(text, group), 10**group
    value, columns = eval(text), Problem(text, group).columns
    assert sum(column.digit * base**place for place, column in enumerate(columns)) == abs(value)
    numbers = [int(number) for number in re.findall("[0-9]+", text)]
    if "*" in text:
        return
    signs = [-1 if sign == "-" else 1 for sign in re.findall("^|[+-]", text)]
    turned = -1 if value < 0 else 1
    for place, column in enumerate(columns):
        # The carry is the overflow of all lower columns together.
        below = sum(turned * sign * (number % base**place) for sign, number in zip(signs, numbers, strict=True))
        assert column.carry_in == below // base**place
        assert (column.running - column.digit) == base * column.carry_out
        assert answer_labels(problem, place)["carry in"] == column.carry_in


def test_a_product_has_the_running_sums_of_long_multiplication() -> None:
    # 47 · 38: 7·8 = 56; 4·8 + 7·3 + 5 = 58; 4·3 + 5 = 17.
    found = Problem("47*38").columns
    assert [column.running for column in found] == [56, 58, 17, 1]
    assert [column.total for column in found] == [56, 53, 12, 0]


def test_labels_of_an_example_are_correct() -> None:
    problem = Problem("58-(7+96)")
    operand = operand_labels(problem, 0)
    assert operand == {
        "digit": 5, "parity": 0, "mod 5": 3, "mod 10": 8, "magnitude": 2, "operator": NOTHING, "depth": 0
    }  # fmt: skip
    # At the units, the digit contains the residues of the number.
    assert operand_labels(problem, 1) == {"digit": 8, "magnitude": 2, "operator": NOTHING, "depth": 0}
    assert operand_labels(problem, 6)["operator"] == 0
    assert operand_labels(problem, 6)["depth"] == 1
    assert operator_labels(problem, 2) == {"operator": 1, "mod 10": 7, "sign": 1, "depth": 0}
    answer = answer_labels(problem, 0)
    assert (answer["digit"], answer["sign"], answer["depth"], answer["magnitude"]) == (5, 1, 1, 2)
    assert "carry in" not in answer
    assert answer_labels(Problem("58-96"), 1)["carry in"] == -1
    assert answer_labels(Problem("91-38"), 1)["carry in"] == -1
    assert answer_labels(Problem("57+68"), 1) | {
        "carry in": 1,
        "carry out": 1,
        "column sum": 11,
        "running sum": 12,
    } == (answer_labels(Problem("57+68"), 1))


def test_held_out_numbers_are_in_no_training_problem() -> None:
    for name, folder in shipped_runs().items():
        config = load_run(folder)
        if config.training.encoder.kind == "rewriting":
            continue
        drawn = draw(config, 300)
        assert (len({*drawn.train}), len({*drawn.held_out})) == (300, 100), name
        numbers = [{n for text in part for n in Problem(text).numbers} for part in drawn]
        assert not numbers[0] & numbers[1], name
        assert all(number > 9 and is_held_out(str(number)) for number in numbers[1]), name
        assert drawn == draw(config, 300)
        extent = config.extent
        for text in (*drawn.train, *drawn.held_out):
            assert Problem(text).longest <= extent.digits
            assert len(Problem(text).numbers) in config.operand_counts
            assert {*text} - {*"0123456789"} <= {*config.operators}
