"""Problems a second that the encoder which comes with Numerate answers by rewriting, in this process."""

import random
from collections.abc import Iterator
from pathlib import Path

from model.evaluation.predictor import open_trained
from model.runs.pretrained import shipped_runs
from tests.benchmarks.measure import Figure, seconds

_OPERATORS = "+-*"
# Numbers of a nested expression, and the most digits of its value, so that no product dominates.
_NUMBERS, _MANY, _VALUE_DIGITS = 20, 100, 20


def by_rewriting(folder: Path) -> Iterator[Figure]:
    """Sums and differences, products, and nested expressions; answers are checked."""
    model = open_trained(shipped_runs()["arithmetic"])
    draw = random.Random(1)
    problems = {
        "+ and - to 10 digits": [
            f"{_number(draw, 1, 10)}{draw.choice('+-')}{_number(draw, 1, 10)}" for _ in range(4_000)
        ],
        "products 9×9": [f"{_number(draw, 9, 9)}*{_number(draw, 9, 9)}" for _ in range(300)],
        "products 20×20": [f"{_number(draw, 20, 20)}*{_number(draw, 20, 20)}" for _ in range(64)],
        f"nested, {_NUMBERS} numbers": [_nested(draw) for _ in range(1_000)],
        f"one at a time, nested, {_MANY} numbers": [_nested(draw, _MANY)],
    }
    for what, texts in problems.items():
        model.solve(texts[:20])
        answers: list[str] = []
        taken = seconds(lambda texts=texts, answers=answers: answers.extend(each.answer for each in model.solve(texts)))
        right = sum(answer == str(eval(text)) for text, answer in zip(texts, answers, strict=True))
        yield Figure(f"rewriting, {what}", len(texts) / taken, "problems/s", detail=f"{right} of {len(texts)} right")


def _number(draw: random.Random, least: int, most: int) -> str:
    digits = draw.randint(least, most)
    return str(draw.randint(10 ** (digits - 1), 10**digits - 1))


def _nested(draw: random.Random, count: int = _NUMBERS) -> str:
    """An expression of `count` numbers of one to four digits, with random brackets."""

    def of(numbers: int) -> str:
        if numbers == 1:
            return _number(draw, 1, 4)
        left = draw.randint(1, numbers - 1)
        text = of(left) + draw.choice(_OPERATORS) + of(numbers - left)
        return f"({text})" if draw.random() < 0.5 else text

    while len(str(eval(text := of(count)))) >= _VALUE_DIGITS:
        pass
    return text
