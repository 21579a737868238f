from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from model.config.training import CurriculumStage, TrainingSpec
from model.runs.checkpoints import Checkpoints
from model.runs.metrics import read_metrics
from model.training.batches import batches_from, stages_of
from model.training.job import TrainingJob
from model.training.preflight import existing_result
from model.training.trainer import train
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import LONGER, job_of, losses, same_bits
from tests.model.workers import Countdown, Ranks

# Sums in another order differ by a last bit, which grows from step to step.
COMPARABLE = {"precision": "float32"}


@pytest.fixture(scope="module")
def started() -> Iterator[Ranks]:
    """The ranks of all trainings here."""
    with Ranks() as started:
        yield started


@pytest.fixture(scope="module")
def whole(small: Built, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A run that nothing disturbed; not to be changed by a test."""
    job = job_of(small, tmp_path_factory.mktemp("whole"), LONGER)
    assert train(job).finished
    return job


def assert_a_resume_changes_nothing(started: Ranks, built: Built, folder: Path, spec: TrainingSpec, ranks: int) -> None:
    whole, cut = job_of(built, folder / "a", spec), job_of(built, folder / "b", spec)
    started.train(cut, ranks, calls=1)
    assert Checkpoints(cut.run / "checkpoints").index().last.step == 20  # type: ignore[union-attr]
    # Between the two, so that the resumed one finds nothing in its processes that the stopped one left.
    started.train(whole, ranks)
    started.train(cut, ranks)
    assert same_bits(whole, cut)


def assert_two_ranks_lose_as_one(
    started: Ranks, built: Built, folder: Path, spec: TrainingSpec, tolerance: float
) -> None:
    spec = spec.model_copy(update=COMPARABLE)
    jobs = [job_of(built, folder / str(ranks), spec) for ranks in (1, 2)]
    train(jobs[0])
    started.train(jobs[1], 2)
    for (step, one), (_, other) in zip(*map(losses, jobs), strict=True):
        assert one == pytest.approx(other, rel=tolerance), step


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(
    whole: TrainingJob, small: Built, tmp_path: Path
) -> None:
    cut = job_of(small, tmp_path, LONGER)
    stopped = train(cut, stop=Countdown(1))
    assert (stopped.step, stopped.finished) == (20, False)
    assert train(cut).finished
    assert same_bits(whole, cut)
    assert losses(whole) == losses(cut)
    assert [step for step, _ in losses(cut)] == list(range(1, 31))


def test_a_killed_run_goes_on_from_its_checkpoint_and_drops_later_metrics(
    whole: TrainingJob, small: Built, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(progress: object) -> None:
        if progress.step == 20:  # type: ignore[attr-defined]
            raise KilledError

    cut = job_of(small, tmp_path, LONGER)
    with pytest.raises(KilledError):
        train(cut, report=kill)
    index = Checkpoints(cut.run / "checkpoints").index()
    (cut.run / "checkpoints" / "index.json").write(
        index.model_copy(update={"entries": index.entries[:1]}).model_dump_json().encode()
    )
    assert train(cut).finished
    assert same_bits(whole, cut)
    assert losses(whole) == losses(cut)


def test_seconds_go_on_after_a_resume(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, LONGER)
    train(job, stop=Countdown(1))
    (*_, last) = (name for name in (job.run / "metrics").children())
    place = Path(str(job.run / "metrics" / last))
    table = pq.read_table(place)
    # As if the first twenty steps had taken an hour more.
    later = pc.add(table.column("seconds"), 3_600.0)
    pq.write_table(table.set_column(table.schema.get_field_index("seconds"), "seconds", later), place)
    train(job)
    found = read_metrics(job.run / "metrics")
    seconds = found.column("seconds").to_pylist()
    assert seconds[20:] == sorted(seconds[20:])
    assert 3_600 < seconds[19] < seconds[20] < seconds[-1] < 7_200
    # What README and comparisons ask: rows a second, and the share of waiting.
    assert sum(found.column("data_seconds").to_pylist()) < seconds[-1] - 3_600


def test_metrics_that_cannot_be_read_do_not_keep_a_training_from_going_on(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    train(job, stop=Countdown(0))
    (*_, last) = (name for name in (job.run / "metrics").children())
    (job.run / "metrics" / last).write(b"PAR1")
    assert train(job).finished


def test_a_finished_training_returns_its_result_again(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    first = train(job)
    # Something that no untrained encoder reaches.
    index = Checkpoints(job.run / "checkpoints").index()
    last = index.entries[-1].model_copy(update={"exact_match": 0.75})
    index = index.model_copy(update={"entries": (*index.entries[:-1], last)})
    (job.run / "checkpoints" / "index.json").write(index.model_dump_json().encode())
    assert train(job) == replace(first, exact_match=0.75)


def test_a_damaged_last_checkpoint_is_named_and_training_goes_on_from_the_one_before(
    whole: TrainingJob, small: Built, tmp_path: Path
) -> None:
    cut = job_of(small, tmp_path, LONGER)
    train(cut)
    checkpoints = Checkpoints(cut.run / "checkpoints")
    place = checkpoints.folder / "step-000000030.safetensors"
    place.write(place.read()[:-1])
    assert existing_result(cut) is None
    assert checkpoints.warning() == f"checkpoint {place} is damaged: training continues from step 20"
    assert train(cut) == existing_result(whole)
    assert same_bits(whole, cut)
    assert losses(whole) == losses(cut)
    assert checkpoints.warning() == ""


def test_with_no_whole_checkpoint_left_training_begins_anew(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING.model_copy(update={"checkpoint_every": 10}))
    train(job, stop=Countdown(0))
    checkpoints = Checkpoints(job.run / "checkpoints")
    (checkpoints.folder / "step-000000010.safetensors").write(b"")
    assert checkpoints.warning().endswith("step-000000010.safetensors is damaged: training starts from step 0")
    assert train(job).finished
    for file in checkpoints.folder.children():
        if file.endswith(".safetensors"):
            (checkpoints.folder / file).write(b"")
    text = f"the checkpoints of steps 10, 12 in {checkpoints.folder} are damaged: training starts from step 0"
    assert checkpoints.warning() == text
    assert [step for step, _ in losses(job)] == list(range(1, 13))


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resume_on_the_same_number_of_ranks_ends_with_the_same_bits(
    started: Ranks, small: Built, tmp_path: Path, ranks: int
) -> None:
    assert_a_resume_changes_nothing(started, small, tmp_path, LONGER, ranks)


def test_the_number_of_ranks_changes_no_loss_beyond_rounding(started: Ranks, small: Built, tmp_path: Path) -> None:
    assert_two_ranks_lose_as_one(started, small, tmp_path, TINY_TRAINING, 1e-4)


@pytest.mark.slow
def test_a_run_moves_to_another_number_of_ranks(started: Ranks, small: Built, tmp_path: Path) -> None:
    spec = LONGER.model_copy(update=COMPARABLE)
    whole, moved = job_of(small, tmp_path / "a", spec), job_of(small, tmp_path / "b", spec)
    train(whole)
    train(moved, stop=Countdown(0))
    started.train(moved, 2)
    for (_, one), (_, other) in zip(losses(whole), losses(moved), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


EVERYTHING = LONGER.model_copy(
    update={
        "encoder": LONGER.encoder.model_copy(
            update={
                "positions": ("place-value", "relative"),
                "random_offset": True,
                "layers": 1,
                "min_loops": 1,
                "loops": 3,
                "warm_loops": 3,
                "carry_loops": 1,
            }
        )
    }
)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_several_widths_random_loops_and_offsets_resume_with_the_same_bits(
    started: Ranks, longer: Built, tmp_path: Path, ranks: int
) -> None:
    assert_a_resume_changes_nothing(started, longer, tmp_path, EVERYTHING, ranks)


def test_ranks_draw_the_same_offsets_for_the_same_rows(started: Ranks, longer: Built, tmp_path: Path) -> None:
    assert_two_ranks_lose_as_one(started, longer, tmp_path, EVERYTHING, 1e-3)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_warm_loops_in_bfloat16_resume_with_the_same_bits(
    started: Ranks, longer: Built, tmp_path: Path, ranks: int
) -> None:
    spec = EVERYTHING.model_copy(update={"precision": "bfloat16"})
    assert_a_resume_changes_nothing(started, longer, tmp_path, spec, ranks)


@pytest.mark.slow
def test_a_curriculum_resumes_in_any_stage_with_the_same_bits(longer: Built, tmp_path: Path) -> None:
    stages = (CurriculumStage(where="digits <= 4", steps=7), CurriculumStage(where="operators = '+'", steps=8))
    spec = LONGER.model_copy(update={"curriculum": stages, "where": "digits > 2"})
    whole, cut = job_of(longer, tmp_path / "a", spec), job_of(longer, tmp_path / "b", spec)
    train(whole)
    for _ in range(3):
        train(cut, stop=Countdown(0))
    assert same_bits(whole, cut)
    assert losses(whole) == losses(cut)
    first = {stage.first for stage, _, _ in islice(batches_from(stages_of(longer.tokens, spec), 0), 30)}
    assert first == {0, 7, 15}


@pytest.mark.parametrize("objective", ["anywhere", "all"])
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_objective_with_running_sums_resumes_with_the_same_bits(
    started: Ranks, operations: Built, tmp_path: Path, objective: str, ranks: int
) -> None:
    spec = LONGER.model_copy(update={"objective": objective, "running_sum": 0.5})
    assert_a_resume_changes_nothing(started, operations, tmp_path, spec, ranks)


@pytest.mark.slow
def test_ranks_lose_alike_where_each_hides_another_number_of_tokens(
    started: Ranks, operations: Built, tmp_path: Path
) -> None:
    spec = TINY_TRAINING.model_copy(update={"objective": "anywhere", "running_sum": 0.5})
    assert_two_ranks_lose_as_one(started, operations, tmp_path, spec, 1e-4)


@pytest.mark.slow
def test_compiled_layers_train_alike_and_resume_with_the_same_bits(
    started: Ranks, small: Built, tmp_path: Path
) -> None:
    plainly = LONGER.model_copy(update=COMPARABLE)
    spec = plainly.model_copy(update={"compile": "on"})
    assert_a_resume_changes_nothing(started, small, tmp_path, spec, 1)
    plain = job_of(small, tmp_path / "plain", plainly)
    train(plain)
    compiled = job_of(small, tmp_path / "a", spec)
    for (step, one), (_, other) in zip(losses(plain), losses(compiled), strict=True):
        assert one == pytest.approx(other, rel=1e-3), step
