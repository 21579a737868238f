"""Tasks over a real Ray: several per call if there are many, and each only once."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.generation.fanout import Notes, _batches, make_shards, run_remotely
from storage.datasets.manifest import ShardRecord
from storage.errors import RunFailure
from storage.places.disk import LocalLocation


@dataclass(frozen=True)
class Task:
    number: int
    rows: int = 10

    @property
    def paths(self) -> list[str]:
        return [f"{self.number}.shard"]


def shard_of(folder: Path, number: int) -> ShardRecord:
    """An existing shard of one byte."""
    (folder / f"{number}.shard").write_bytes(b"x")
    return ShardRecord(f"{number}.shard", "train", "grid-16", 10, 1, "", "")


@given(st.integers(0, 5_000), st.integers(1, 64))
def test_batches_contain_every_task_once_in_order_and_leave_some_for_each_worker(tasks: int, in_flight: int) -> None:
    batches = list(_batches(range(tasks), in_flight))  # type: ignore[type-var]
    assert [number for batch in batches for number in batch] == list(range(tasks))
    left = tasks
    for batch in batches:
        assert len(batch) == 1 or len(batch) <= min(16, left // (64 * in_flight))
        left -= len(batch)


def test_tasks_with_valid_notes_do_not_run_again(ray_instance: int, tmp_path: Path) -> None:
    notes = Notes(LocalLocation(tmp_path), "print")
    tasks = [Task(number) for number in range(300)]
    for number in (0, 7, 299):
        notes.write(number, [shard_of(tmp_path, number)])
    notes.write(8, [shard_of(tmp_path, 8)])
    (tmp_path / "8.shard").unlink()
    made, finished = list[int](), list[int]()

    def worker(task: Task) -> list[ShardRecord]:
        """Runs only tasks without an existing shard."""
        assert not (tmp_path / f"{task.number}.shard").exists()
        return [shard_of(tmp_path, task.number)]

    shards = make_shards(worker, tasks, notes, in_flight=1, progress=made.append, finished=finished.append)
    assert [shard.path for shard in shards] == [f"{number}.shard" for number in range(300)]
    assert (finished, sum(made)) == ([30], 2_970)
    # 297 tasks of one worker went in calls of several.
    assert max(made) > 10
    assert len(notes.numbers()) == 300


def test_retried_call_runs_only_tasks_without_notes(ray_instance: int, tmp_path: Path) -> None:
    notes, tasks = Notes(LocalLocation(tmp_path), "print"), [Task(number) for number in range(128)]
    (tmp_path / "made").mkdir()

    def worker(task: Task) -> list[ShardRecord]:
        """Its process dies at the second task of the first call, once."""
        (tmp_path / "made" / f"{task.number}-{os.getpid()}").touch()
        if task.number == 1 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return [shard_of(tmp_path, task.number)]

    make_shards(worker, tasks, notes, in_flight=1, progress=lambda rows: None)
    times = [name.partition("-")[0] for name in os.listdir(tmp_path / "made")]
    assert {number for number in set(times) if times.count(number) > 1} == {"1"}


def test_remote_work_runs_in_another_process(ray_instance: int, tmp_path: Path) -> None:
    assert run_remotely(os.getpid) != os.getpid()
    assert json.loads(run_remotely(lambda: json.dumps([1]), gpu=True)) == [1]

    def fails() -> None:
        raise RunFailure("no room")

    with pytest.raises(RunFailure, match="no room"):
        run_remotely(fails)
