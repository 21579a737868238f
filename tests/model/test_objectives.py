"""The tokens that training masks, compared with brute force over small numbers."""

import random

import numpy as np
import pytest
import torch

from model.config.training import TrainingSpec
from model.objectives.answers import AnswerObjective as Objective
from model.objectives.missing_operand import MaskedRows, MissingOperand
from model.objectives.objective import Batch
from model.tokenizer import BLANK, MASK, Tokenizer, TokenLayout
from tests.benchmarks.tokenizers import digit_tokenizer

LAYOUT = TokenLayout(problem=10, answer=5)
SLOTS = LAYOUT.answer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return digit_tokenizer()


def complete(tokenizer: Tokenizer, *problems: str, layout: TokenLayout = LAYOUT) -> torch.Tensor:
    """Rows with their answers, int64 [n, width]."""
    return torch.tensor(
        [
            tokenizer.row(problem, layout)[: -layout.answer] + tokenizer.slots(str(eval(problem)), layout)
            for problem in problems
        ]
    )


def drawn_problems(count: int) -> list[str]:
    """Problems of two and three operands with many zeros, and some with brackets or a minus in front."""
    draw, found = random.Random(5), ["-3+4", "(1+2)*3", "2*(3-1)", "-(1-2)+3"]
    while len(found) < count:
        numbers = [
            str(draw.choice([0, 0, draw.randint(0, 9), draw.randint(10, 99)])) for _ in range(draw.choice([2, 3]))
        ]
        problem = numbers[0] + "".join(draw.choice("+-*") + number for number in numbers[1:])
        if len(problem) <= LAYOUT.problem and len(str(abs(eval(problem)))) < SLOTS:
            found.append(problem)
    return found


def text(tokenizer: Tokenizer, ids: torch.Tensor, masked: torch.Tensor, shown: str) -> str:
    """A row's problem with `shown` instead of its masked tokens."""
    problem = [
        shown if gone else tokenizer.decode([piece]) for piece, gone in zip(ids.tolist(), masked.tolist(), strict=True)
    ]
    return "".join(problem[: LAYOUT.problem]).replace("[PAD]", "").replace(BLANK, "")


def solutions(question: str, answer: int) -> list[int]:
    return np.flatnonzero(eval(question.replace("?", "numbers"), {"numbers": np.arange(1_000)}) == answer).tolist()


def test_exactly_one_number_solves_a_masked_operand(tokenizer: Tokenizer) -> None:
    problems = drawn_problems(400)
    mask_operand, rows = MissingOperand(tokenizer), complete(tokenizer, *problems)
    asked = 0
    for share in (0.0, 0.4, 0.99):
        ids, masked = mask_operand(rows, SLOTS, torch.full((len(rows),), share, dtype=torch.float64))
        for problem, row, gone in zip(problems, ids, masked, strict=True):
            if not gone.any():
                continue
            asked += 1
            start = "".join("\0" if flag else "" for flag in gone.tolist())
            question = text(tokenizer, row, gone, "\0").replace(start, "?")
            operand = text(tokenizer, row, torch.zeros_like(gone), "")
            assert operand == problem
            assert solutions(question, eval(problem)) == [int(tokenizer.decode(row[gone].tolist()).replace(BLANK, ""))]
    assert asked > 600


def test_exactly_the_operands_with_a_unique_solution_are_masked(tokenizer: Tokenizer) -> None:
    mask_operand = MissingOperand(tokenizer)
    certain = {
        "12+34": {"12", "34"},
        "7*0": {"0"},
        "0*0": set(),
        "5-0*3": {"5", "0"},
        "2*3*0": {"0"},
        "8*9": {"8", "9"},
    }
    certain |= {"(1+2)*3": set(), "-1+2": set()}
    for problem, operands in certain.items():
        rows = complete(tokenizer, *[problem] * 32)
        ids, masked = mask_operand(rows, SLOTS, torch.arange(32, dtype=torch.float64) / 32)
        found = {
            tokenizer.decode(row[gone].tolist()).replace(BLANK, "")
            for row, gone in zip(ids, masked, strict=True)
            if gone.any()
        }
        assert found == operands, problem


def test_the_length_of_a_missing_operand_is_not_given_away(tokenizer: Tokenizer) -> None:
    mask_operand, mask = MissingOperand(tokenizer), tokenizer.id_of(MASK)
    for first in (True, False):
        problems = [f"{n}+34" if first else f"34+{n}" for n in (1, 12, 123)]
        ids, masked = mask_operand(
            complete(tokenizer, *problems), SLOTS, torch.full((3,), 0.0 if first else 0.9).double()
        )
        shown = ids.masked_fill(masked, mask)[:, :-SLOTS]
        assert (shown == shown[0]).all()
        assert masked.sum(1).tolist() == [SLOTS - 1] * 3


def masked_rows(tokenizer: Tokenizer, objective: str, rows: torch.Tensor, first: int, **values: object) -> MaskedRows:
    spec = TrainingSpec(objective=objective, seed=3, **values)
    return Objective(spec, tokenizer).masks(Batch(rows, SLOTS, 7, torch.arange(first, first + len(rows))))


@pytest.mark.parametrize("objective", ["answer", "anywhere", "all"])
def test_masks_depend_on_seed_step_and_row_only(tokenizer: Tokenizer, objective: str) -> None:
    rows = complete(tokenizer, *drawn_problems(128))
    whole, part = (masked_rows(tokenizer, objective, each, at) for each, at in ((rows, 0), (rows[64:], 64)))
    assert torch.equal(whole.ids[64:], part.ids)
    assert torch.equal(whole.masked[64:], part.masked)
    assert whole.masked.any(1).all()
    assert not torch.equal(masked_rows(tokenizer, objective, rows, 64).masked, whole.masked)


def test_objective_anywhere_masks_either_an_operand_or_slots_of_the_answer(tokenizer: Tokenizer) -> None:
    rows = complete(tokenizer, *["12+34"] * 4_000)
    ids, masked = masked_rows(tokenizer, "anywhere", rows, 0, operand_share=0.25)
    operand, answer = masked[:, :-SLOTS].any(1), masked[:, -SLOTS:].any(1)
    assert (operand ^ answer).all()
    assert operand.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(ids[answer], rows[answer])
    alone = masked_rows(tokenizer, "answer", rows, 0)
    assert torch.equal(masked[answer], alone.masked[answer])


def test_objective_all_masks_digits_and_slots_alike_and_no_other_token(tokenizer: Tokenizer) -> None:
    rows = complete(tokenizer, *["12+34"] * 8_000)
    candidates = torch.tensor([*[False] * 5, True, True, False, True, True, False, *[True] * SLOTS])
    _, masked = masked_rows(tokenizer, "all", rows, 0, full_mask_share=0.0)
    assert not masked[:, ~candidates].any()
    counts = torch.bincount(masked.sum(1), minlength=10).double()[1:] / len(rows)
    assert torch.allclose(counts, torch.full((9,), 1 / 9).double(), atol=0.02)
    shares = masked.double().mean(0)[candidates]
    assert torch.allclose(shares, shares.mean(), atol=0.03)
    _, masked = masked_rows(tokenizer, "all", rows, 0, full_mask_share=1.0)
    assert masked[:, -SLOTS:].all()
    assert not masked[:, :-SLOTS].any()
