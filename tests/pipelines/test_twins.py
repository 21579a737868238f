"""Addition twins against Python's integers and exact canonical forms."""

import random

import pyarrow as pa

from pipelines.hashes import HashSet
from pipelines.reading import canonical_form, text_hashes
from pipelines.reserved import reserved
from pipelines.split import Canonical, split_numbers
from pipelines.twins import addition_twins, has_no_trained_twin

KEY, VALIDATION, TEST = "twins", 0.2, 0.2


def drawn(count: int) -> tuple[list[str], list[str]]:
    draw = random.Random(1)
    problems = [f"{draw.randint(0, 99)}{draw.choice('-+*-')}{draw.randint(0, 99)}" for _ in range(count)]
    problems += ["9-3-2", "1-3-2", "(3-1)-1", "10-2*3", "5-0", "-3-4"]
    return problems, [str(eval(problem)) for problem in problems]


def twin(problem: str, answer: str) -> str | None:
    """The sum that says the same, found by Python."""
    numbers = problem.split("-")
    if not all(number.isdigit() for number in numbers) or len(numbers) == 1:
        return None
    if answer.startswith("-"):
        return f"{numbers[0]}+{answer[1:]}" if len(numbers) == 2 else None
    return "+".join([*numbers[1:], answer])


def test_twins_are_the_sums_that_say_the_same() -> None:
    problems, answers = drawn(500)
    found = addition_twins(pa.array(problems), pa.array(answers)).to_pylist()
    assert found == [twin(*pair) for pair in zip(problems, answers, strict=True)]
    for problem, answer, other in zip(problems, answers, found, strict=True):
        if other:
            assert eval(other) == (int(problem.split("-")[1]) if answer.startswith("-") else int(problem.split("-")[0]))


def test_a_difference_is_judged_only_if_no_train_problem_is_its_twin() -> None:
    sums = [f"{a}+{b}" for a in range(100) for b in range(100)]
    splits = split_numbers(text_hashes(pa.array(sums), Canonical(KEY)), VALIDATION, TEST)
    always_test = reserved(KEY)
    assert isinstance(always_test, HashSet)
    held = set(always_test.find(text_hashes(pa.array(sums), Canonical(KEY)))[0].tolist())
    train = {canonical_form(text) for row, text in enumerate(sums) if not splits[row] and row not in held}
    problems, answers = drawn(500)
    judged = has_no_trained_twin(KEY, VALIDATION, TEST, pa.array(problems), pa.array(answers))
    for problem, answer, fine in zip(problems, answers, judged.tolist(), strict=True):
        other = twin(problem, answer)
        if problem.count("-") < 2:
            assert fine == (other is None or canonical_form(other) not in train), problem
    assert 100 < (~judged).sum() < 400
