import re

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.positions import Positions
from model.tokenizer import TokenLayout
from tests.builders import Built

problems = st.lists(st.integers(0, 999), min_size=1, max_size=4).flatmap(
    lambda numbers: st.lists(st.sampled_from("+-*"), min_size=len(numbers) - 1, max_size=len(numbers) - 1).map(
        lambda operators: "".join(f"{n}{o}" for n, o in zip(numbers, [*operators, ""], strict=True))
    )
)


def oracle(problem: str, layout: TokenLayout) -> tuple[list[int], list[int]]:
    """Place and operand of every token, read off the text."""
    places, operands = [], []
    for number, part in enumerate(re.findall(r"\d+|[-+*]", problem)):
        digits = part.isdigit()
        places += range(len(part), 0, -1) if digits else [0]
        operands += [number // 2 + 1] * len(part)
    left = layout.problem - len(places)
    slots = [0, *range(layout.answer - 1, 0, -1)]
    return [0] * left + places + [0] + slots, [0] * left + operands + [0] * (1 + layout.answer)


@given(rows=st.lists(problems, min_size=1, max_size=20))
def test_places_and_operands_are_those_read_off_the_text(small: Built, rows: list[str]) -> None:
    layout = TokenLayout(problem=15, answer=5)
    ids = torch.tensor(np.array([small.tokenizer.row(problem, layout) for problem in rows]))
    places, operands = Positions(small.tokenizer, layout)(ids)
    for row, problem in enumerate(rows):
        assert (places[row].tolist(), operands[row].tolist()) == oracle(problem, layout)


def test_what_stands_in_the_slots_changes_no_position(small: Built) -> None:
    layout = TokenLayout(problem=5, answer=4)
    ids = torch.tensor([small.tokenizer.row("7+12", layout)])
    filled = ids.clone()
    filled[:, -4:] = torch.tensor(small.tokenizer.slots("-19", layout))
    positions = Positions(small.tokenizer, layout)
    assert all(torch.equal(one, other) for one, other in zip(positions(ids), positions(filled), strict=True))
