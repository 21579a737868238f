import re

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network.positions import Positions, TokenPositions, sinusoids
from model.tokenizer import TokenLayout
from tests.builders import Built

numbers = st.integers(0, 999).map(str)
problems = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map("".join), inner.map(lambda text: f"-({text})")
    ),
    max_leaves=4,
).filter(lambda text: len(text) <= 25)


def oracle(problem: str, layout: TokenLayout) -> list[list[int]]:
    """Place, operand, depth and column of every token, read off the text."""
    places, operands, depths = [], [], []
    number, depth = 0, 0
    for part in re.findall(r"\d+|[-+*()]", problem):
        number += part.isdigit()
        depth += part == "("
        places += range(len(part), 0, -1) if part.isdigit() else [0]
        operands += [number if part.isdigit() or part == ")" else number + 1] * len(part)
        depths += [depth] * len(part)
        depth -= part == ")"
    left, slots = layout.problem - len(places), [0, *range(layout.answer - 1, 0, -1)]
    nothing = [0] * (1 + layout.answer)
    columns = list(range(-layout.problem, layout.answer + 1))
    return [[0] * left + places + [0] + slots, [0] * left + operands + nothing, [0] * left + depths + nothing, columns]


@given(rows=st.lists(problems, min_size=1, max_size=20))
def test_positions_are_those_read_off_the_text(small: Built, rows: list[str]) -> None:
    layout = TokenLayout(problem=25, answer=5)
    ids = torch.tensor(np.array([small.tokenizer.row(problem, layout) for problem in rows]))
    found = Positions(small.tokenizer)(ids, 5)
    for row, problem in enumerate(rows):
        assert [part[row].tolist() for part in found] == oracle(problem, layout), problem


def test_the_content_of_slots_changes_no_position(small: Built) -> None:
    layout = TokenLayout(problem=5, answer=4)
    ids = torch.tensor([small.tokenizer.row("7+12", layout)])
    filled = ids.clone()
    filled[:, -4:] = torch.tensor(small.tokenizer.slots("-19", layout))
    positions = Positions(small.tokenizer)
    one, other = positions(ids, 4), positions(filled, 4)
    assert isinstance(one, TokenPositions)
    assert all(map(torch.equal, one, other))


def test_sinusoids_are_the_papers() -> None:
    found = sinusoids(torch.tensor([0, 1, 7]), 6)
    for row, position in enumerate((0, 1, 7)):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert abs(found[row, 2 * pair].item() - np.sin(angle)) < 1e-6
            assert abs(found[row, 2 * pair + 1].item() - np.cos(angle)) < 1e-6
