"""Training over a real Ray of two nodes that loses a worker, or a node, and goes on."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from model.config.training import TrainingSpec
from model.training.batches import held_rows
from model.training.launchers.parallel_runs import Room
from model.training.launchers.ray_launcher import choose_room, launch
from storage.errors import UserError
from storage.parameters import one_line
from storage.reading.lanes import LANES
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import job_of


def test_a_run_that_another_process_launches_is_refused(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    refused = pytest.raises(UserError, match="run 'run' is being written by another process")
    with (job.run / ".launch").exclusive("another"), refused:
        launch(job, Room(1, 1, 0.0))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"workers": 2, "min_workers": 3}, "min_workers is 3, more than workers (2): lower min_workers"),
        ({"workers": LANES + 1}, "workers is 65: input should be less than or equal to 64"),
        ({"min_workers": LANES + 1}, "min_workers is 65: input should be less than or equal to 64"),
    ],
)
def test_more_workers_than_there_are_rows_or_workers_to_lose_are_one_line(words: dict[str, int], line: str) -> None:
    with pytest.raises(ValidationError) as failure:
        TrainingSpec(**words)
    assert one_line(failure.value) == line


def test_more_ranks_than_lanes_are_refused(small: Built) -> None:
    with pytest.raises(UserError, match="65 workers are more than the 64 lanes of a batch: use at most 64"):
        held_rows(small.tokens, "validation", 128, 0, rank=0, ranks=LANES + 1)


@pytest.mark.slow
def test_an_elastic_training_needs_room_for_its_fewest_workers_alone(ray_instance: int) -> None:
    assert choose_room(TrainingSpec(workers=8, min_workers=1)).workers == 8
    assert choose_room(TrainingSpec(workers=1)) == Room(1, 1, 0.0)
    for words, line in (({"min_workers": 9}, "min_workers is 9"), ({"workers": 9}, "workers is 9")):
        with pytest.raises(UserError, match=f"{line}, but the Ray cluster has room for {ray_instance}"):
            choose_room(TrainingSpec(**words))
