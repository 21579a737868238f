"""Running sums against Python's integers."""

import random

import pytest
import torch
from torch.nn.functional import one_hot

from model.network.positions import Positions
from model.objectives.column_sums import OUTPUTS, RunningSum, running_sum_loss
from model.tokenizer import TokenLayout
from tests.benchmarks.tokenizers import digit_tokenizer
from tests.model.test_objectives import complete


def oracle(a: int, b: int, slots: int) -> list[int]:
    """Of every slot the running sum of its column, the sign's first."""
    first, second, carry, found = str(a)[::-1], str(b)[::-1], 0, []
    for column in range(slots - 1):
        total = carry + sum(
            int(first[i]) * int(second[column - i]) for i in range(len(first)) if 0 <= column - i < len(second)
        )
        found.append(total)
        carry = total // 10
    return [0, *reversed(found)]


def running_sums(rows: torch.Tensor, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    return RunningSum(digit_tokenizer())(rows, slots, Positions(digit_tokenizer())(rows, slots))


@pytest.mark.parametrize("digits", [1, 2, 3, 12, 40])
def test_running_sums_are_those_of_long_multiplication(digits: int) -> None:
    draw, layout = random.Random(digits), TokenLayout(problem=2 * digits + 1, answer=2 * digits + 1)
    pairs = [(10**digits - 1, 10**digits - 1), (0, 10**digits - 1), (1, 0)]
    pairs += [(draw.randrange(10 ** draw.randint(1, digits)), draw.randrange(10**digits)) for _ in range(60)]
    rows = complete(digit_tokenizer(), *(f"{a}*{b}" for a, b in pairs), layout=layout)
    sums, product = running_sums(rows, layout.answer)
    assert product.all()
    assert sums.tolist() == [oracle(a, b, layout.answer) for a, b in pairs]


def test_only_products_of_two_numbers_have_running_sums() -> None:
    rows = complete(digit_tokenizer(), "12*3", "1+2", "2*3*4", "2*3-1", "(2*3)", "-2*3", "9*9")
    _, product = running_sums(rows, 5)
    assert product.tolist() == [True, False, False, False, False, False, True]


def test_the_loss_is_zero_for_predicted_digits_and_counts_the_selected_slots() -> None:
    sums = torch.tensor([[1234, 7], [0, 89]])
    digits = torch.stack([sums // 10**place % 10 for place in range(OUTPUTS // 10)], -1)
    right = one_hot(digits, 10).flatten(-2).float() * 100
    counted = torch.tensor([[True, True], [False, True]])
    assert running_sum_loss(right, sums, counted).item() == pytest.approx(0, abs=1e-6)
    wrong = running_sum_loss(torch.zeros_like(right), sums, counted)
    assert wrong.item() == pytest.approx(3 * OUTPUTS / 10 * torch.log(torch.tensor(10.0)).item())
