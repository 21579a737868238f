"""Training over a real Ray of two nodes that loses a worker, or a node, and goes on."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from model.batches import held_rows
from model.config import TrainingSpec
from model.launch import choose_room, launch
from model.seeds import Room
from storage.errors import UserError
from storage.lanes import LANES
from storage.parameters import one_line
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import LONGER, job_of, losses, same_bits
from tests.model.workers import train_with


def test_a_run_that_another_process_launches_is_refused(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    refused = pytest.raises(UserError, match="run 'run' is being written by another process")
    with (job.run / ".launch").exclusive("another"), refused:
        launch(job, Room(1, 1, 0.0))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"workers": 2, "min_workers": 3}, "min_workers is 3, above workers (2): lower it"),
        ({"workers": LANES + 1}, "workers is 65: input should be less than or equal to 64"),
        ({"min_workers": LANES + 1}, "min_workers is 65: input should be less than or equal to 64"),
    ],
)
def test_more_workers_than_there_are_rows_or_workers_to_lose_are_one_line(words: dict[str, int], line: str) -> None:
    with pytest.raises(ValidationError) as failure:
        TrainingSpec(**words)
    assert one_line(failure.value) == line


def test_more_ranks_than_lanes_are_refused(small: Built) -> None:
    with pytest.raises(UserError, match="65 workers are more than the 64 lanes of a batch: take 64 at most"):
        held_rows(small.tokens, "validation", 128, 0, rank=0, ranks=LANES + 1)


@pytest.mark.slow
def test_an_elastic_training_needs_room_for_its_fewest_workers_alone(ray_instance: int) -> None:
    assert choose_room(TrainingSpec(workers=8, min_workers=1)).workers == 8
    assert choose_room(TrainingSpec(workers=1)) == Room(1, 1, 0.0)
    for words, line in (({"min_workers": 9}, "min_workers is 9"), ({"workers": 9}, "workers is 9")):
        with pytest.raises(UserError, match=f"{line}, the Ray cluster has room for {ray_instance}"):
            choose_room(TrainingSpec(**words))


# At such small rates rounding doesn't grow, and a loss tells which rows and masks its step had.
LONG = LONGER.model_copy(
    update={
        "steps": 400,
        "checkpoint_every": 20,
        "validate_every": 200,
        "workers": 2,
        "learning_rate": 1e-6,
        "matrix_learning_rate": 1e-6,
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "least", "nodes"), [("worker", 0, 2), ("node", 1, 1)])
def test_what_is_lost_in_the_middle_of_a_training_changes_no_step(
    small: Built, tmp_path: Path, loss: str, least: int, nodes: int
) -> None:
    whole = job_of(small, tmp_path / "a", LONG)
    hurt = job_of(small, tmp_path / "b", LONG.model_copy(update={"min_workers": least}))
    (tmp_path / "job").write_bytes(pickle.dumps(hurt))
    result = subprocess.run(
        [sys.executable, "-m", "tests.model.elastic", str(tmp_path / "job"), loss],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMERATE_TEST": str(tmp_path)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"finished True at {LONG.steps} with {nodes} nodes" in result.stdout
    train_with(whole, nodes)
    assert [step for step, _ in losses(hurt)] == list(range(1, LONG.steps + 1))
    for (step, one), (_, other) in zip(losses(whole), losses(hurt), strict=True):
        assert one == pytest.approx(other, rel=1e-4), step
    # On as many ranks as before nothing at all differs.
    assert same_bits(whole, hurt) or loss == "node"
