"""A step's loss, its masks and a validation, each against a calculation that shares no code with them."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from model.config.evaluation import EvaluationSpec
from model.evaluation.evaluate import evaluate
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemSet
from model.network.encoder import Encoder
from model.objectives.answers import AnswerObjective
from model.runs.checkpoints import Checkpoints
from model.tokenizer import Tokenizer, TokenLayout
from model.training.batches import batches_from, held_rows, stages_of
from model.training.trainer import train
from model.training.validation import Validation
from pipelines.generation.generate import canonical_hashes
from storage.order import derive_key
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import LONGER, job_of, losses

_64 = (1 << 64) - 1


def mixed(value: int) -> int:
    """The finaliser of splitmix64, by Python's integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _64
    return value ^ (value >> 31)


def drawn(key: int, counter: int) -> float:
    """A number in [0, 1) of a key and a counter."""
    return (mixed(mixed((counter * 0x9E3779B97F4A7C15 + key) & _64) ^ (key >> 1)) >> 11) / 2**53


def masked_slots(seed: int, step: int, row: int, slots: int, full_share: float) -> set[int]:
    """Which slots of a row of the global batch are masked in a step: all, or a number of them, by their draws."""
    whole, share, *urgency = (drawn(derive_key(seed, "mask", step), row * (slots + 2) + n) for n in range(slots + 2))
    if whole < full_share:
        return set(range(slots))
    return set(sorted(range(slots), key=lambda slot: urgency[slot])[: 1 + int(share * slots)])


def says_the_same_everywhere(encoder: Encoder, seed: int) -> None:
    """Weights of zero, so that every slot's logits are the output layer's bias: 0, 1/8, …, exact in bfloat16."""
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
        encoder.head.bias.copy_(torch.arange(len(encoder.head.bias)) / 8)


def test_a_steps_loss_is_the_mean_over_its_masked_slots(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small a rate that the logits stay as they are.
    spec = TINY_TRAINING.model_copy(
        update={"steps": 3, "optimizer": "adamw", "learning_rate": 1e-9, "full_mask_share": 0.3, "seed": 5}
    )
    monkeypatch.setattr(Encoder, "initialise", says_the_same_everywhere)
    job = job_of(small, tmp_path, spec)
    train(job)
    logits = [number / 8 for number in range(small.tokenizer.size)]
    total = math.log(sum(math.exp(logit) for logit in logits))
    batches, slots = batches_from(stages_of(small.tokens, spec), 0), small.layout.answer
    for (step, loss), (_, _, rows) in zip(losses(job), batches, strict=False):
        targets = [
            int(row[len(row) - slots + slot])
            for number, row in enumerate(rows)
            for slot in masked_slots(5, step - 1, number, slots, 0.3)
        ]
        # A mean of float32 losses of size 3, each rounded to 6e-8 of it; a wrong target changes it by 1e-3.
        assert loss == pytest.approx(sum(total - logits[target] for target in targets) / len(targets), rel=1e-5)


def text_of(row: np.ndarray, tokenizer: Tokenizer) -> str:
    """The problem of a row."""
    pieces = tokenizer.pieces()
    return "".join(pieces[token] for token in row if not pieces[token].startswith("[")).partition("=")[0]


def test_a_validation_is_an_evaluation_of_the_same_problems(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, LONGER.model_copy(update={"steps": 60, "validate_every": 60, "validation_rows": 960}))
    result = train(job)
    outcome = evaluate(
        TrainedEncoder.open(job.run, "last"),
        ProblemSet(small.corpus, small.tokens, partial(canonical_hashes, small.spec)),
        EvaluationSpec(split="validation", limit=0, checkpoint="last"),
        LocalLocation(tmp_path / "predictions.parquet"),
    )
    table = pq.read_table(tmp_path / "predictions.parquet")
    right = dict(zip(table.column("problem").to_pylist(), table.column("correct").to_pylist(), strict=True))
    ((_, rows, count),) = held_rows(small.tokens, "validation", 960, LONGER.seed)
    problems = [text_of(row, small.tokenizer) for row in rows]
    assert len(problems) == len(set(problems)) == count
    # The two use other batch sizes; an answer whose two best tokens are equally likely may then differ.
    assert abs(result.exact_match * count - sum(right[problem] for problem in problems)) <= 2
    # Something is right, and much is wrong, so that other ways to count come to other figures.
    assert 0 < outcome.exact_match < 0.9
    assert Checkpoints(job.run / "checkpoints").index().last.exact_match == result.exact_match  # type: ignore[union-attr]


@pytest.mark.parametrize(("rows", "width"), [(4_096, 16), (4_096, 512), (30, 2_000)])
def test_a_validation_takes_fewer_rows_at_once_the_wider_they_are(
    small: Built, monkeypatch: pytest.MonkeyPatch, rows: int, width: int
) -> None:
    layout, seen = TokenLayout(problem=width - 2, answer=2), list[torch.Size]()

    class Says(torch.nn.Linear):
        def forward(self, ids: torch.Tensor, slots: int) -> torch.Tensor:
            seen.append(ids.shape)
            # The second of three pieces, everywhere.
            return torch.tensor([0.0, 1.0, 0.0]).expand(len(ids), slots, 3)

    objective = AnswerObjective(TINY_TRAINING, small.tokenizer)

    held = torch.zeros(rows, width, dtype=torch.uint8)
    held[: rows // 4, -2:] = 1
    monkeypatch.setattr("model.training.validation.held_rows", lambda *_, **__: [(layout, held.numpy(), rows)])
    validation = Validation(small.tokens, TINY_TRAINING, objective, torch.device("cpu"))
    measured = validation.measure(Says(1, 1), torch.float32)  # type: ignore[arg-type]
    assert measured == ((rows // 4) / rows, ())
    assert sum(shape[0] for shape in seen) == rows
    assert all(shape.numel() <= 1 << 15 for shape in seen)
    assert {shape[1] for shape in seen} == {width}
