"""How far a carry has to move, against sums whose lower digits are replaced."""

import random

import pytest
import torch

from model.network.positions import Positions
from model.objectives.carry_propagation import CarryArrival
from model.tokenizer import TokenLayout
from tests.benchmarks.tokenizers import digit_tokenizer
from tests.model.test_objectives import complete

DIGITS = 5


def oracle(numbers: list[int], slots: int) -> list[int]:
    """Of every slot how many columns below its own decide its carry: the carry that enters them may be any."""
    found = []
    for place in range(slots - 1):
        # With all columns below in hand there is nothing left to decide.
        for moves in range(place + 1):
            window = sum(number // 10 ** (place - moves) % 10**moves for number in numbers)
            carries = range(len(numbers) if moves < place else 1)
            if len({(window + carry) // 10**moves for carry in carries}) == 1:
                found.append(moves)
                break
    return [0, *reversed(found)]


@pytest.mark.parametrize("terms", [2, 3, 4])
def test_a_slot_is_certain_after_as_many_moves_as_columns_decide_its_carry(terms: int) -> None:
    draw, tokenizer = random.Random(terms), digit_tokenizer()
    layout = TokenLayout(problem=terms * (DIGITS + 1), answer=DIGITS + 3)
    known = [[99_999, 1, 0, 0], [55_555, 44_444, 0, 0], [55_555, 44_445, 0, 0], [0, 0, 0, 0], [99_999] * 4]
    drawn = [[draw.randrange(10 ** draw.randint(1, DIGITS)) for _ in range(4)] for _ in range(300)]
    # Many nines: chains.
    chains = [[number[0], 10**DIGITS - 1 - number[0] + draw.randint(0, 1), 0, 0] for number in drawn]
    problems = [numbers[:terms] for numbers in known + drawn + chains]
    rows = complete(tokenizer, *("+".join(map(str, numbers)) for numbers in problems), layout=layout)
    moves = CarryArrival(tokenizer)(rows, layout.answer, Positions(tokenizer)(rows, layout.answer))
    assert moves.tolist() == [oracle(numbers, layout.answer) for numbers in problems]


def test_what_is_no_sum_is_certain_at_once() -> None:
    rows = complete(digit_tokenizer(), "99-1", "-1+99", "(9+1)+1", "99*9")
    moves = CarryArrival(digit_tokenizer())(rows, 5, Positions(digit_tokenizer())(rows, 5))
    assert torch.equal(moves, torch.zeros(4, 5, dtype=torch.long))
