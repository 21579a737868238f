"""What is said of a symbolic unit, of encoders whose unit does what is known."""

from pathlib import Path

import pytest
import torch

from model.probing.spec import ProbingSpec
from model.probing.study import Study
from model.trained import TrainedEncoder
from model.training import TrainingJob, train
from tests.builders import TINY_TRAINING, build_small
from tests.model.conftest import OPERATIONS
from tests.model.runs import job_of

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
    rows = Study(model, SPEC).unit()["unit"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["measure"] != "written")
    return {(row["measure"], row["loop"], row["operator"]): row["value"] for row in rows}


def test_a_unit_whose_gate_is_shut_writes_nothing_and_nothing_changes_without_it(job: TrainingJob) -> None:
    model = TrainedEncoder.open(job.run)
    assert model.encoder.unit
    with torch.no_grad():
        model.encoder.unit.gate.zero_()
    found = measures_of(model)
    for operator in "+-*":
        assert found["answered", 0, operator] == found["answered without", 0, operator]
        assert found["written", 1, operator] == found["written", 2, operator] == 0


def test_what_is_read_is_counted_by_operator_and_loop(job: TrainingJob) -> None:
    """The operation is read as - whatever the problem, and the first two numbers as they stand."""
    model = TrainedEncoder.open(job.run)
    assert model.encoder.unit
    reader = model.encoder.unit.reader
    with torch.no_grad():
        # So large that positions don't blur them.
        model.encoder.tokens.weight.mul_(1e3)
        for values in (reader.operation, reader.digits, reader.scores):
            values.weight.zero_()
            values.bias.zero_()
        reader.operation.bias[1] = 9.0
        reader.operands.weight.zero_()
    found = measures_of(model)
    for loop in (1, 2):
        assert [found["operation read", loop, operator] for operator in "+-*"] == [0, 1, 0]
        assert [found["operands read", loop, operator] for operator in "+-*"] == [1, 1, 1]
        assert found["written", loop, "+"] > 0


def test_nothing_is_said_where_there_is_no_unit(tmp_path: Path) -> None:
    job = job_of(build_small(tmp_path), tmp_path, TINY_TRAINING.model_copy(update={"steps": 2}))
    train(job)
    assert Study(TrainedEncoder.open(job.run), SPEC).unit() == {"unit": []}
