"""Single steps against Python's integers and against loops over columns, from the texts alone."""

import random
import re
from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.generation.generate import sample_rows
from pipelines.problems.arithmetic import BASE, exact_quotients
from pipelines.problems.components import components
from pipelines.problems.family import Block
from pipelines.problems.rewriting.steps import Steps
from pipelines.spec.corpus import CorpusSpec, MixturePart, ProblemSpec
from pipelines.split.canonical import Canonical
from pipelines.split.parse import canonical_form, text_hashes
from storage.errors import RunFailure
from tests.pipelines.step_oracles import LITERAL, Columns, Step, columns_of, digit_at, read
from tests.pipelines.test_digits import joined, split

CANONICAL = Canonical("numerate")
OPERATORS = st.sampled_from([("+",), ("-",), ("*",), ("+", "-"), ("*", "-"), ("+", "-", "*"), ("*", "+", "-")])
LITERAL_ALONE = re.compile(r"-?\(-?(0|[1-9]\d*)\)|--(0|[1-9]\d*)")


def family(key: int = 3, operators: tuple = ("+", "-", "*"), digits: int = 10, size: int = 1) -> Steps:
    spec = ProblemSpec(family="steps", operators=operators, digits=digits, digits_per_step=size)
    return Steps(spec, CANONICAL, key, 10**9)


def operations(table: pa.Table) -> list[dict[str, Any]]:
    """The rows with two operands."""
    return [row for row in table.to_pylist() if row["terms"] == 2]


def rows_of(steps: Steps, rows: int) -> tuple[Block, pa.Table]:
    positions = np.arange(rows, dtype=np.uint64)
    problems = steps.problems(positions)
    return problems, steps.table(positions, problems)


@pytest.fixture(scope="module")
def sample() -> list[dict[str, Any]]:
    return operations(rows_of(family(), 20_000)[1])


@given(operators=OPERATORS, digits=st.integers(1, 40), key=st.integers(0, 99), size=st.sampled_from([1, 1, 2, 3, 4]))
@settings(max_examples=60, deadline=None)
def test_every_column_is_that_of_the_text(operators: tuple, digits: int, key: int, size: int) -> None:
    size = min(size, digits)
    steps = family(key, operators, digits, size)
    problems, table = rows_of(steps, 250)
    assert table.schema.equals(steps.layout.schema)
    lengths = np.broadcast_to(steps.text_lengths(problems), 250)
    assert lengths.tolist() == [len(text) for text in table["problem"].to_pylist()]
    for row in operations(table):
        text, step = row["problem"], read(row["problem"], size)
        assert (row["answer"], row["negative"]) == (str(step.answer), step.answer < 0), text
        assert (row["operators"], row["terms"], row["depth"]) == (step.operator, 2, 0)
        assert row["operators"] in operators
        assert row["answer_digits"] == len(str(abs(step.answer))) <= digits + 1 + size
        assert row["digits"] == max(len(str(abs(step.a))), len(step.b.lstrip("-"))) <= digits
        columns = columns_of(step)
        assert Columns(*(row[c] for c in ("carries", "column_total", "largest_carry", "carry_bound"))) == columns, text
        assert row["done"] == (step.register is None or len(step.b.lstrip("-")) <= size)
        assert row["consumed"] == consumed_of(step), text
        # After the first step, a multiple of `size` digits remains.
        assert not step.register or len(step.b.lstrip("-")) % size == 0


def test_literals_alone_are_in_brackets_or_after_two_minuses() -> None:
    rows = [row for row in rows_of(family(), 20_000)[1].to_pylist() if row["draw"] == "literal"]
    forms = Counter(re.sub(r"\d+", "1", row["problem"]) for row in rows)
    assert forms.keys() == {"(1)", "(-1)", "-(1)", "-(-1)", "--1"}
    assert min(forms.values()) > 200
    for row in rows:
        assert row["answer"] == str(eval(row["problem"]))
        assert (row["operators"], row["terms"], row["done"]) == ("", 1, True)
        assert row["depth"] == row["problem"].count("(")


def consumed_of(step: Step) -> str:
    if not step.register or not step.a or step.register % step.a:
        return ""
    return str(step.register // abs(step.a))


@given(operators=OPERATORS, digits=st.integers(1, 60), key=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_literals_have_no_leading_zeros_and_zero_has_no_sign(operators: tuple, digits: int, key: int) -> None:
    for row in operations(rows_of(family(key, operators, digits), 200)[1]):
        text, step = row["problem"], read(row["problem"])
        assert not text.startswith("-0")
        if not step.register:
            assert re.fullmatch(LITERAL, step.b), text
            assert step.b != "-0"
        else:
            assert step.a


@given(operators=OPERATORS, digits=st.integers(1, 60), key=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_hashes_are_those_of_the_texts_and_of_their_forms(operators: tuple, digits: int, key: int) -> None:
    steps = family(key, operators, digits)
    problems, table = rows_of(steps, 200)
    texts = table["problem"].to_pylist()
    hashes = steps.canonical(problems)
    assert np.array_equal(hashes, text_hashes(table["problem"].combine_chunks(), CANONICAL))
    forms = [canonical_form(text) for text in texts]
    assert len(set(forms)) == len(set(hashes.tolist())) == len(set(zip(forms, hashes.tolist(), strict=True)))
    assert forms == [form_of(text) for text in texts]


def form_of(text: str) -> Any:
    """The canonical form from the definition: of the sum, of the product of which the step is a state, or its own."""
    if LITERAL_ALONE.fullmatch(text):
        # A number, with a sign if the number of minuses is odd.
        return canonical_form("-" * (text.count("-") % 2) + text.strip("-()"))
    step = read(text)
    if step.register is None:
        return canonical_form(f"{step.a}{step.operator}{step.b}")
    magnitude, sign = abs(step.a), -1 if (step.a < 0) ^ step.b.startswith("-") else 1
    for consumed in {step.register // magnitude} if magnitude else {0}:
        if consumed * magnitude == step.register:
            other = int(f"{consumed}{step.b.lstrip('-')}")
            return (sign, ("product", *sorted((magnitude, other), key=repr)))
    return ("step", sign, magnitude, len(step.b.lstrip("-")), int(step.b.lstrip("-")), step.register)


@pytest.mark.parametrize(
    ("step", "same"),
    [
        ("345*62:0", "345*62"),
        ("345*2:2070", "62*345"),
        ("345*02:2070", "345*602"),
        ("-345*-2:2070", "345*62"),
        ("-345*2:2070", "-62*345"),
        ("345*-0:345", "345*-10"),
        ("1*7:123", "1*1237"),
        ("0*5:0", "0*5"),
        ("3*123456789:30000000000000000000000000000", "3*10000000000000000000000000000123456789"),
    ],
)
def test_state_of_a_product_has_its_canonical_form(step: str, same: str) -> None:
    assert canonical_form(step) == canonical_form(same)
    hashes = text_hashes(pa.array(["1+2", step, same, "3*4"]), CANONICAL)
    assert hashes[1] == hashes[2]


def test_other_steps_have_forms_of_their_own() -> None:
    texts = ["345*2:7", "345*02:7", "-345*2:7", "2*345:7", "345*2:8", "345*2", "345*27", "0*2:7"]
    assert len({canonical_form(text) for text in texts}) == len(texts)
    assert len(set(text_hashes(pa.array(texts), CANONICAL).tolist())) == len(texts)
    assert canonical_form("345*-2:7") == canonical_form("-345*2:7")


@pytest.mark.parametrize(
    "text",
    ["1+2:3", "1*2:", ":5", "1*2*3:4", "(1)*2:3", "1*02:0", "01*2:3", "1*2:03", "1*2:3:4", "1*:3", "1*--2:3", "1*2:-3",
     "1*2:3\n", "7:7"],
)  # fmt: skip
def test_invalid_step_is_refused(text: str) -> None:
    with pytest.raises(RunFailure, match=f"^problem {re.escape(repr(text))} is not valid$"):
        text_hashes(pa.array(["1+1", "345*2:7", text]), CANONICAL)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_quotients_are_exact_or_zero(seed: int) -> None:
    draw = random.Random(seed)
    size = draw.randint(1, 7)
    pairs = []
    for _ in range(60):
        divisor = draw.choice(
            [0, 1, BASE**2 - 1, 10 ** draw.randrange(8 * size), draw.randrange(10 ** draw.randint(1, 8 * size))]
        )
        quotient = draw.choice([0, 1, BASE - 1, draw.randrange(10 ** draw.randint(1, 8 * size))])
        dividend = min(divisor * quotient + draw.choice([0, 0, 0, 1, -1, draw.randrange(10**5)]), BASE**size - 1)
        pairs.append((max(0, dividend), divisor))
    dividends, divisors = zip(*pairs, strict=True)
    expected = [a // b if b and a % b == 0 else 0 for a, b in pairs]
    widest = max(len(str(divisor)) for divisor in divisors)
    found = exact_quotients(split(list(dividends), size), split(list(divisors), -(-widest // 8)))
    assert len(found) == size
    assert joined(found) == expected


def test_row_does_not_depend_on_its_block() -> None:
    steps = family()
    _, table = rows_of(steps, 3_000)
    for first, last in ((0, 1), (17, 18), (1_000, 2_500)):
        positions = np.arange(first, last, dtype=np.uint64)
        part = steps.table(positions, steps.problems(positions))
        assert part.to_pylist() == table.slice(first, last - first).to_pylist()


def test_all_draws_occur_in_their_shares() -> None:
    shares = Counter((row["operators"], row["draw"]) for row in rows_of(family(), 20_000)[1].to_pylist())
    expected = {
        ("+", "plain"): 0.072, ("+", "edge"): 0.032, ("+", "tie"): 0.056, ("", "literal"): 0.08,
        ("-", "plain"): 0.072, ("-", "edge"): 0.032, ("-", "tie"): 0.056, ("*", "trajectory"): 0.189,
        ("*", "edge"): 0.081, ("*", "tie"): 0.11, ("*", "dense"): 0.11, ("*", "random"): 0.11,
    }  # fmt: skip
    assert shares.keys() == expected.keys()
    assert all(abs(shares[kind] / 20_000 - share) < 0.01 for kind, share in expected.items())


def test_lengths_signs_and_results_vary(sample: list[dict[str, Any]]) -> None:
    steps = [read(row["problem"]) for row in sample]
    products = [step for step in steps if step.register is not None]
    lengths = Counter((len(str(abs(step.a))) > 7, len(step.b.lstrip("-")) > 7) for step in products)
    # Long factors with short ones, in both orders.
    assert min(lengths.values()) > 100
    # Every room is equally frequent, so few rows have one-digit operands.
    assert Counter(row["digits"] for row in sample)[1] < 0.15 * len(sample)
    assert Counter(row["digits"] for row in sample)[10] > 0.03 * len(sample)
    assert 0.4 < np.mean([step.a < 0 for step in steps]) < 0.5
    assert 0.2 < np.mean([row["done"] for row in sample if row["operators"] == "*"]) < 0.5
    assert Counter(step.digit for step in products).keys() == set(range(10))
    assert len({row["problem"] for row in sample}) > 0.93 * len(sample)


def test_all_column_totals_and_both_kinds_of_ties_are_frequent(sample: list[dict[str, Any]]) -> None:
    totals, ties = Counter[int](), Counter[tuple[int, int]]()
    for step in (read(row["problem"]) for row in sample):
        if step.register is None:
            continue
        carry, a, register = 0, str(abs(step.a))[::-1], str(step.register)[::-1]
        products = [int(digit) * step.digit for digit in a]
        for k in range(max(len(a), len(register)) + 1):
            total = digit_at(products, k) % 10 + digit_at(products, k - 1) // 10 + digit_at(register, k - 1)
            totals[total] += 1
            ties[total, carry] += 1
            carry = (total + carry) // 10
    assert min(totals[total] for total in range(27)) > 20
    assert sum(totals[total] for total in range(20, 27)) > 0.015 * totals.total()
    # Total and carry are 9, 10, 19 or 20: the carry decides.
    assert all(ties[total, 0] > 100 and ties[total, 1] > 100 for total in (9, 18, 19))
    assert min(ties[8, 2], ties[18, 2]) > 100


@pytest.mark.parametrize("size", [2, 3])
def test_ties_and_large_digits_are_frequent_if_steps_consume_several_digits(size: int) -> None:
    ties, digits = {}, {}
    rows = operations(rows_of(family(operators=("*",), size=size), 20_000)[1])
    for draw in ("tie", "dense", "random"):
        ends, group = Counter[int](), list[int]()
        for step in (read(row["problem"], size) for row in rows if row["draw"] == draw):
            group += map(int, step.group)
            total = 10**size * (step.register or 0) + abs(step.a) * int(step.group)
            ends.update(int(digit) for digit in str(total)[:-size])
        ties[draw] = (ends[9] + ends[0]) / ends.total()
        digits[draw] = float(np.mean(group))
    # A column whose total and carry end in 9 or 0 has such a digit in the result.
    assert ties["tie"] > 0.4 > 0.25 > ties["random"]
    assert digits["dense"] > digits["random"] + 0.7


@pytest.mark.parametrize("operator", ["+", "-"])
def test_carry_enters_half_of_the_windows_and_half_reach_the_top(operator: str) -> None:
    _, table = rows_of(family(operators=(operator,), digits=20), 20_000)
    entered, reached = [], []
    for row in operations(table):
        step = read(row["problem"])
        if row["draw"] != "tie":
            continue
        a, b = str(abs(step.a))[::-1], step.b.lstrip("-")[::-1]
        size = max(len(a), len(b))
        totals = [digit_at(a, k) + digit_at(b, k) * (-1 if step.apart else 1) for k in range(size)]
        tie = 0 if step.apart else 9
        runs = [[place for place, _ in run] for _, run in groupby(enumerate(totals), lambda column: column[1])]
        start, *more = max((run for run in runs if totals[run[0]] == tie), key=len, default=[0])
        if len(more) < 3:
            continue
        below = sum(total * 10**k for k, total in enumerate(totals[:start]))
        entered.append(below < 0 if step.apart else below >= 10**start)
        reached.append(more[-1] == size - 1)
    assert len(entered) > 2_000
    assert 0.35 < np.mean(entered) < 0.65
    # Windows to the top are longer, so there are more of them among long ones.
    assert 0.5 < np.mean(reached) < 0.8


def test_steps_can_be_part_of_a_mixture() -> None:
    spec = CorpusSpec(
        name="x", rows=3_000, mixture=(MixturePart(family="steps", digits=4, operators=("*",)), MixturePart(terms=2))
    )
    (table, splits), _ = (sample_rows(spec, component, 1_000) for component in components(spec))
    assert set(table["operators"].to_pylist()) == {"*"}
    assert len(splits) == 1_000


@given(
    digits=st.integers(1, 30), operators=OPERATORS, group=st.sampled_from([1, 2, 3]), size=st.sampled_from([1, 2, 4])
)
@settings(max_examples=30, deadline=None)
def test_no_row_has_more_tokens_than_the_spec_says(digits: int, operators: tuple, group: int, size: int) -> None:
    spec = ProblemSpec(family="steps", operators=operators, digits=digits, digits_per_step=min(size, digits))
    _, table = rows_of(Steps(spec, CANONICAL, 1, 10**9), 300)

    def tokens(text: str) -> int:
        return sum(-(-len(part) // group) if part.isdigit() else 1 for part in re.findall(r"\d+|\D", text))

    problem, answer = spec.most_tokens(group)
    assert max(map(tokens, table["problem"].to_pylist())) <= problem
    assert max(tokens(text.lstrip("-")) for text in table["answer"].to_pylist()) < answer


@pytest.mark.parametrize("digits", [200, 1_000])
def test_very_long_steps_are_exact(digits: int) -> None:
    steps = family(digits=digits)
    problems, table = rows_of(steps, 300)
    for row in operations(table):
        step = read(row["problem"])
        assert (row["answer"], row["consumed"]) == (str(step.answer), consumed_of(step))
    assert np.array_equal(steps.canonical(problems), text_hashes(table["problem"].combine_chunks(), CANONICAL))
