"""Counterparts, compared with every sum and difference of the same numbers and with the train split itself."""

import random
from itertools import permutations, product

import pyarrow as pa
import pytest

from pipelines.split.canonical import Canonical
from pipelines.split.counterparts import counterparts, has_no_trained_counterpart
from pipelines.split.parse import canonical_form, text_hashes
from pipelines.split.reserved import splits_of

KEY, VALIDATION, TEST = "twins", 0.3, 0.3


def drawn(count: int) -> list[str]:
    draw = random.Random(1)
    return [f"{draw.randint(0, 99)}{draw.choice('-+')}{draw.randint(0, 99)}" for _ in range(count)]


def oracle(problem: str) -> set[str]:
    """Canonical forms of all sums and differences of all but one of the problem's numbers that come to that one."""
    answer = eval(problem)
    numbers = [*problem.replace("-", "+").split("+"), str(abs(answer))]
    found = set()
    for *operands, alone in permutations(numbers):
        for signs in product("+-", repeat=len(operands) - 1):
            text = operands[0] + "".join(sign + number for sign, number in zip(signs, operands[1:], strict=True))
            if abs(eval(text)) == int(alone):
                found.add(repr(canonical_form(text)))
    return found


@pytest.mark.parametrize("problem", ["30-12", "12+18", "12-30", "7-3-2", "3+4-2", "1-3-2", "5+6+7"])
def test_counterparts_are_all_sums_and_differences_of_the_same_numbers(problem: str) -> None:
    found = counterparts(problem, str(eval(problem)))
    assert {repr(canonical_form(text)) for text in found} == oracle(problem)


@pytest.mark.parametrize("problem", ["3*4", "(3-1)-1", "10-2*3", "-3-4", "7"])
def test_other_problems_have_no_counterparts(problem: str) -> None:
    assert not counterparts(problem, str(eval(problem)))


@pytest.mark.parametrize("operators", ["+", "-", "+-"])
def test_problem_is_scored_only_if_no_counterpart_is_trained_on(operators: str) -> None:
    everything = [f"{a}{sign}{b}" for a in range(200) for b in range(200) for sign in operators]
    splits = splits_of(text_hashes(pa.array(everything), Canonical(KEY)), KEY, VALIDATION, TEST)
    train = {repr(canonical_form(text)) for text, split in zip(everything, splits, strict=True) if not split}
    problems = drawn(300)
    answers = [str(eval(problem)) for problem in problems]
    judged = has_no_trained_counterpart(KEY, VALIDATION, TEST, operators, pa.array(problems), pa.array(answers))
    assert judged.tolist() == [not oracle(problem) & train for problem in problems]
    assert 10 < judged.sum() < 290
