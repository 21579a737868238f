"""Measures of a symbolic unit, for units with known behaviour."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.unit_readout import together
from model.network.symbolic.unit import ResidueResult
from model.probing.causal.unit_ablation import exchanged, others, unit_measures
from model.probing.labels import Problem
from model.probing.study import Study
from model.probing.token_dataset import Batch
from model.tokenizer import TokenLayout
from model.training.job import TrainingJob
from model.training.trainer import train
from tests.builders import TINY_TRAINING, build_small
from tests.model.conftest import OPERATIONS
from tests.model.runs import job_of
from tests.model.test_units import read_as
from tests.tolerances import ROUNDING

SPEC = ProbingSpec(problems=200)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A run whose encoder has a unit."""
    folder = tmp_path_factory.mktemp("unit")
    encoder = TINY_TRAINING.encoder.model_copy(update={"unit": "residue", "loops": 2})
    job = job_of(build_small(folder, OPERATIONS), folder, TINY_TRAINING.model_copy(update={"encoder": encoder}))
    train(job)
    return job


def measures_of(model: TrainedEncoder) -> dict[tuple[str, int, str], float]:
    rows = [row for row in Study(model, SPEC).unit()["unit"] if row["control"] == "trained"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["measure"] != "written")
    return {(row["measure"], row["loop"], row["operator"]): row["value"] for row in rows}


def test_a_unit_with_a_closed_gate_writes_nothing_and_changes_no_answer(job: TrainingJob) -> None:
    model = TrainedEncoder.open(job.run)
    assert model.encoder.unit
    with torch.no_grad():
        model.encoder.unit.gate.zero_()
    found = measures_of(model)
    for operator in "+-*":
        assert found["answered", 0, operator] == found["answered without", 0, operator]
        assert found["written", 1, operator] == found["written", 2, operator] == found["written", 0, operator] == 0
        assert found["answered as another", 0, operator] == 0
    assert found["gate", 0, "all"] == 0


def test_readings_are_counted_by_operator_and_loop(job: TrainingJob) -> None:
    """The unit always reads the operation -, and the first two numbers correctly."""
    model = TrainedEncoder.open(job.run)
    assert model.encoder.unit
    reader = model.encoder.unit.reader
    with torch.no_grad():
        # Large enough that positions have no effect.
        model.encoder.tokens.weight.mul_(1e3)
        for values in (reader.operation, reader.digits, reader.scores):
            values.weight.zero_()
            values.bias.zero_()
        reader.operation.bias[1] = 9.0
        reader.operands.weight.zero_()
    found = measures_of(model)
    for loop in (0, 1, 2):
        assert [found["operation read", loop, operator] for operator in "+-*"] == [0, 1, 0]
        assert [found["operands read", loop, operator] for operator in "+-*"] == [1, 1, 1]
        assert found["written", loop, "+"] > 0


def test_measures_of_a_loop_cover_only_problems_that_run_it(tmp_path: Path) -> None:
    """Longer answers take more loops."""
    encoder = TINY_TRAINING.encoder.model_copy(update={"unit": "residue", "positions": ("relative",), "carry_loops": 1})
    built = build_small(tmp_path, OPERATIONS)
    job = job_of(built, tmp_path, TINY_TRAINING.model_copy(update={"encoder": encoder, "steps": 2}))
    train(job)
    model = TrainedEncoder.open(job.run)
    texts = ("12+3", "98+7", "45+6", "12*3", "98*76", "87*65")
    problems = [Problem(text) for text in texts]
    batches = [
        Batch(np.array(part), np.array([model.tokenizer.row(texts[n], layout) for n in part]), layout)
        for part, layout in (
            ([0, 1, 2, 3], TokenLayout(problem=5, answer=4)),
            ([4, 5], TokenLayout(problem=5, answer=6)),
        )
    ]
    loops = [model.encoder.config.loops_of(batch.layout.answer) for batch in batches]
    assert loops[0] < loops[1]
    found = {(each.measure, each.loop, each.operator): each for each in unit_measures(model, problems, batches)}
    assert found["operands read", loops[0], "*"].problems == 3
    assert found["operands read", loops[1], "*"].problems == 2
    assert ("operands read", loops[1], "+") not in found
    assert found["operands read", 0, "+"] == found["operands read", loops[0], "+"]._replace(loop=0)
    assert found["operands read", 0, "*"].problems == 3


def test_exchanged_results_are_those_of_another_problem() -> None:
    result, two = ResidueResult(), [read_as("+", 2, 3, 2), read_as("*", 4, 5, 2)]
    results = [result(each, 3) for each in two]
    with exchanged(result, np.array([1, 0])):
        given = result(together(two), 3)
    # Other batch shapes use other kernels, which round differently; these are probabilities.
    assert torch.allclose(given, torch.cat(results[::-1]), atol=ROUNDING)
    assert torch.allclose(result(together(two), 3), torch.cat(results), atol=ROUNDING)
    assert not torch.allclose(*results, atol=0.5)


def test_the_other_problem_has_an_answer_of_as_many_digits_with_any_sign() -> None:
    values = [-12, 345, 67, -890, 0, -5, 7]
    computed = np.array([True] * 6 + [False])
    given = others(values, computed).tolist()
    assert [values[other] for other in given] == [67, -890, -12, 345, -5, 0, 7]


def test_there_are_no_measures_without_a_unit(tmp_path: Path) -> None:
    job = job_of(build_small(tmp_path), tmp_path, TINY_TRAINING.model_copy(update={"steps": 2}))
    train(job)
    assert Study(TrainedEncoder.open(job.run), SPEC).unit() == {"unit": []}
