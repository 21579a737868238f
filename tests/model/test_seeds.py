"""Seeds side by side: each ends as if it were alone, one that fails takes nobody with it, and all can be stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.training import seed_runs
from model.runs.checkpoints import Checkpoints
from model.training.job import TrainingJob, TrainingResult
from model.training.launchers.parallel_runs import Seat, in_a_process, room_for, train_in_processes, train_side_by_side
from model.training.preflight import existing_result
from model.training.trainer import train
from storage.errors import RunFailure, TransientFailure
from storage.machine import cores
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import LONGER, job_of, same_bits


def jobs_of(built: Built, folder: Path, seeds: int, **values: object) -> list[TrainingJob]:
    spec = TINY_TRAINING.model_copy(update=values)
    return [job_of(built, folder, own, name) for name, own in seed_runs("run", spec, seeds)]


def here(job: TrainingJob, seat: Seat) -> TrainingResult:
    return train(job, stop=seat.stop, report=seat.report)


def test_seeds_side_by_side_end_with_the_weights_of_each_seed_alone(small: Built, tmp_path: Path) -> None:
    together, alone = jobs_of(small, tmp_path / "a", 2), jobs_of(small, tmp_path / "b", 2)
    assert train_side_by_side(together, here, 2) == [train(job) for job in alone]
    assert all(same_bits(*pair) for pair in zip(together, alone, strict=True))
    assert not same_bits(*together)


@pytest.mark.slow
def test_seeds_in_processes_end_with_the_weights_of_each_seed_alone(small: Built, tmp_path: Path) -> None:
    together, alone = jobs_of(small, tmp_path / "a", 2), jobs_of(small, tmp_path / "b", 2)
    granted = cores()
    results = train_in_processes(together, lambda: False)
    for one, other, result in zip(together, alone, results, strict=True):
        assert train(replace(other, threads=max(1, granted // 2))) == result
        assert same_bits(one, other)


def test_a_seed_that_fails_is_named_and_the_others_are_trained(small: Built, tmp_path: Path) -> None:
    jobs = jobs_of(small, tmp_path, 3)
    (jobs[1].run / "tokenizer.model").write(b"another")
    with pytest.raises(RunFailure, match=r"^1 of 3 seeds failed \(run run-seed1: .*tokenizer of this run.*\); the oth"):
        train_side_by_side(jobs, here, 1)
    assert [existing_result(job) is not None for job in jobs] == [True, False, True]


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([TransientFailure("a worker was lost")] * 2, TransientFailure),
        ([TransientFailure("a worker was lost"), RunFailure("the loss is nan")], RunFailure),
    ],
)
def test_seeds_that_lost_workers_can_be_tried_again(
    small: Built, tmp_path: Path, errors: list[RunFailure], kind: type[RunFailure]
) -> None:
    left = iter(errors)

    def lost(job: TrainingJob, seat: Seat) -> TrainingResult:
        raise next(left)

    with pytest.raises(RunFailure, match="2 of 2 seeds failed") as failure:
        train_side_by_side(jobs_of(small, tmp_path, 2), lost, 1)
    assert type(failure.value) is kind


def test_trained_seeds_are_found(small: Built, tmp_path: Path) -> None:
    jobs, required = jobs_of(small, tmp_path, 2), []

    def noted(job: TrainingJob, seat: Seat) -> TrainingResult:
        required.append(job.config.name)
        return here(job, seat)

    first = train(jobs[0])
    results = train_side_by_side(jobs, noted, 2)
    assert required == ["run-seed1"]
    assert results[0] == first
    assert train_side_by_side(jobs, noted, 1) == results


def steps_of(jobs: list[TrainingJob]) -> list[int]:
    return [last.step if (last := Checkpoints(job.run / "checkpoints").index().last) else 0 for job in jobs]


@pytest.mark.parametrize("by_exception", [True, False])
def test_an_interruption_leaves_checkpoints_of_those_that_run_and_begins_no_other(
    small: Built, tmp_path: Path, by_exception: bool
) -> None:
    jobs = jobs_of(small, tmp_path, 3, checkpoint_every=10)
    begun, pause = threading.Semaphore(0), threading.Event()

    def train_until_told(job: TrainingJob, seat: Seat) -> TrainingResult:
        def stop() -> bool:
            begun.release()
            while not seat.stop():
                pause.wait(0.01)
            return True

        return train(job, stop=stop)

    def both_have_begun() -> bool:
        return begun.acquire(timeout=60) and begun.acquire(timeout=60)

    def interrupt(progress: object) -> None:
        assert both_have_begun()
        raise KeyboardInterrupt

    if by_exception:
        with pytest.raises(KeyboardInterrupt):
            train_side_by_side(jobs, train_until_told, 2, report=interrupt)
    else:
        results = train_side_by_side(jobs, train_until_told, 2, stop=both_have_begun)
        assert [(result.step, result.finished) for result in results] == [(10, False), (10, False), (0, False)]
    assert steps_of(jobs) == [10, 10, 0]
    assert all(result.finished for result in train_side_by_side(jobs, here, 1))


def test_a_dead_process_is_reported_and_does_not_end_other_seeds(small: Built, tmp_path: Path) -> None:
    jobs = jobs_of(small, tmp_path, 2)
    broken = replace(jobs[0], config=Unreadable())  # type: ignore[arg-type]
    with pytest.raises(RunFailure, match=r"the training process ended with exit code 1"):
        in_a_process(broken, Seat(0, lambda: False, lambda progress: None))


class Unreadable:
    """Can be sent, but not be read."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


@pytest.mark.slow
def test_a_plain_process_trains_seeds_and_an_interruption_leaves_all_resumable(small: Built, tmp_path: Path) -> None:
    spec = {
        "workspace": str(small.workspace.root),
        "name": "several",
        "corpus": "small",
        "tokenizer": "small-digit",
        "seeds": 2,
        "training": {**LONGER.model_dump(mode="json"), "steps": 100_000},
    }
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "model.training", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout
    seen = set[str]()
    # Without progress, the end of its output ends the loop.
    deadline = threading.Timer(300, process.kill)
    deadline.start()
    for line in process.stdout:
        seen.add(line.split(":")[0])
        if seen >= {"several-seed0", "several-seed1"}:
            break
    deadline.cancel()
    # Ctrl-C on a terminal reaches the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    runs = [small.workspace.run(f"several-seed{seed}") for seed in (0, 1)]
    assert "run several-seed1: step " in rest
    for run in runs:
        last = Checkpoints(run / "checkpoints").index().last
        assert last
        assert f"{run.name}: step {last.step} of 100000" in rest
        run.remove()


@given(st.integers(1, 70), st.integers(0, 8), st.integers(1, 64), st.integers(0, 8), st.integers(0, 200))
def test_no_more_is_given_away_than_there_is(seeds: int, required: int, cpus: int, gpus: int, gigabytes: int) -> None:
    units = gpus or cpus
    required = min(required, units)
    alone = required or gpus or min(2, cpus)
    room = room_for(seeds, alone, required=required, cpus=cpus, gpus=gpus, gpu_bytes=gigabytes << 30)
    assert 1 <= room.at_once <= seeds
    assert room.workers >= 1
    assert room.at_once * room.workers * (room.gpus if gpus else 1) <= units + 1e-9
    assert (room.gpus > 0) == (gpus > 0)
    if required and gpus != 1:
        assert room.workers == required
    if seeds == 1:
        assert (room.at_once, room.workers) == (1, alone)


@pytest.mark.parametrize(
    ("machine", "seeds", "expected"),
    [
        ({"cpus": 2, "gpus": 0}, 2, (2, 1, 0.0)),
        ({"cpus": 2, "gpus": 0}, 5, (2, 1, 0.0)),
        ({"cpus": 16, "gpus": 1, "gpu_bytes": 80 << 30}, 8, (8, 1, 0.125)),
        ({"cpus": 16, "gpus": 1, "gpu_bytes": 16 << 30}, 8, (2, 1, 0.5)),
        ({"cpus": 16, "gpus": 8}, 3, (3, 2, 1.0)),
        ({"cpus": 16, "gpus": 8}, 20, (8, 1, 1.0)),
    ],
)
def test_seeds_run_side_by_side_where_there_is_room(
    machine: dict[str, int], seeds: int, expected: tuple[int, int, float]
) -> None:
    alone = machine["gpus"] or 2
    assert room_for(seeds, alone, required=0, **machine) == expected
