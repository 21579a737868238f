import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from safetensors.torch import load_file
from torch.optim import Optimizer

from model.batches import batches_from, stages_of
from model.checkpoint import Checkpoints
from model.compilation import compiles
from model.config import CurriculumStage, TrainingSpec
from model.metrics import metric_parts
from model.optimizer import set_rates
from model.preparation import prepare
from model.run import RunConfig, claim_run
from model.trained import TrainedEncoder
from model.training import TrainingJob, main, train
from pipelines.spec import CorpusSpec
from storage.errors import RunFailure, UserError
from storage.local import LocalLocation
from tests.builders import TINY_TRAINING, Built, build_small
from tests.model.workers import Countdown, train_with

LONGER = TINY_TRAINING.model_copy(update={"steps": 30, "checkpoint_every": 10, "validate_every": 10})


def job_of(built: Built, folder: Path, spec: TrainingSpec, name: str = "run") -> TrainingJob:
    config = RunConfig.of(name, spec, built.corpus, built.tokens, ("small-digit", built.tokenizer))
    run = LocalLocation(folder / name)
    claim_run(run, config, built.tokenizer)
    return TrainingJob(run, built.tokens.location, config, threads=1)


def final_tensors(job: TrainingJob) -> dict[str, torch.Tensor]:
    last = Checkpoints(job.run / "checkpoints").index().last
    assert last
    return load_file((job.run / "checkpoints" / last.file).path)


def same_bits(one: TrainingJob, other: TrainingJob) -> bool:
    a, b = final_tensors(one), final_tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(job: TrainingJob) -> list[tuple[int, float]]:
    return duckdb.sql(f"SELECT step, loss FROM read_parquet({metric_parts(job.run / 'metrics')}) ORDER BY 1").fetchall()


def assert_a_resume_changes_nothing(built: Built, folder: Path, spec: TrainingSpec, ranks: int) -> None:
    whole, cut = job_of(built, folder / "a", spec), job_of(built, folder / "b", spec)
    train_with(whole, ranks)
    train_with(cut, ranks, calls=1)
    assert Checkpoints(cut.run / "checkpoints").index().last.step == 20  # type: ignore[union-attr]
    train_with(cut, ranks)
    assert same_bits(whole, cut)


def assert_two_ranks_lose_as_one(built: Built, folder: Path, spec: TrainingSpec, tolerance: float) -> None:
    # Muon rounds to bfloat16 on its way, which makes a last bit a thousandth.
    spec = spec.model_copy(update={"optimizer": "adamw"})
    jobs = [job_of(built, folder / str(ranks), spec) for ranks in (1, 2)]
    train(jobs[0])
    train_with(jobs[1], 2)
    for (step, one), (_, other) in zip(*map(losses, jobs), strict=True):
        assert one == pytest.approx(other, rel=tolerance), step


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(small: Built, tmp_path: Path) -> None:
    whole, cut = job_of(small, tmp_path / "a", LONGER), job_of(small, tmp_path / "b", LONGER)
    assert train(whole).finished
    stopped = train(cut, stop=Countdown(1))
    assert (stopped.step, stopped.finished) == (20, False)
    assert train(cut).finished
    assert same_bits(whole, cut)
    assert losses(whole) == losses(cut)
    assert [step for step, _ in losses(cut)] == list(range(1, 31))


def test_a_killed_run_goes_on_from_its_checkpoint_and_drops_later_metrics(small: Built, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(progress: object) -> None:
        if progress.step == 20:  # type: ignore[attr-defined]
            raise KilledError

    whole, cut = job_of(small, tmp_path / "a", LONGER), job_of(small, tmp_path / "b", LONGER)
    train(whole)
    with pytest.raises(KilledError):
        train(cut, report=kill)
    index = Checkpoints(cut.run / "checkpoints").index()
    (cut.run / "checkpoints" / "index.json").write(
        index.model_copy(update={"entries": index.entries[:1]}).model_dump_json().encode()
    )
    assert train(cut).finished
    assert same_bits(whole, cut)
    assert losses(whole) == losses(cut)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resume_on_the_same_number_of_ranks_ends_with_the_same_bits(small: Built, tmp_path: Path, ranks: int) -> None:
    assert_a_resume_changes_nothing(small, tmp_path, LONGER, ranks)


def test_the_number_of_ranks_changes_no_loss_beyond_rounding(small: Built, tmp_path: Path) -> None:
    assert_two_ranks_lose_as_one(small, tmp_path, TINY_TRAINING, 1e-4)


def test_a_run_moves_to_another_number_of_ranks(small: Built, tmp_path: Path) -> None:
    whole, moved = job_of(small, tmp_path / "a", LONGER), job_of(small, tmp_path / "b", LONGER)
    train(whole)
    train(moved, stop=Countdown(0))
    train_with(moved, 2)
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
    longer: Built, tmp_path: Path, ranks: int
) -> None:
    assert_a_resume_changes_nothing(longer, tmp_path, EVERYTHING, ranks)


def test_ranks_draw_the_same_offsets_for_the_same_rows(longer: Built, tmp_path: Path) -> None:
    assert_two_ranks_lose_as_one(longer, tmp_path, EVERYTHING, 1e-3)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_warm_loops_in_bfloat16_resume_with_the_same_bits(longer: Built, tmp_path: Path, ranks: int) -> None:
    spec = EVERYTHING.model_copy(update={"precision": "bfloat16"})
    assert_a_resume_changes_nothing(longer, tmp_path, spec, ranks)


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


OPERATIONS = CorpusSpec(
    name="operations", terms=2, high=30, operators=("+", "-", "*"), rows_per_shard=3_000, validation=0.1, test=0.1
)


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_small(tmp_path_factory.mktemp("operations"), OPERATIONS)


@pytest.mark.parametrize("objective", ["anywhere", "all"])
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_objective_with_running_sums_resumes_with_the_same_bits(
    operations: Built, tmp_path: Path, objective: str, ranks: int
) -> None:
    spec = LONGER.model_copy(update={"objective": objective, "running_sum": 0.5})
    assert_a_resume_changes_nothing(operations, tmp_path, spec, ranks)


def test_ranks_lose_alike_where_each_hides_another_number_of_tokens(operations: Built, tmp_path: Path) -> None:
    spec = TINY_TRAINING.model_copy(update={"objective": "anywhere", "running_sum": 0.5})
    assert_two_ranks_lose_as_one(operations, tmp_path, spec, 1e-4)


def test_an_encoder_trained_with_running_sums_answers_without_them(operations: Built, tmp_path: Path) -> None:
    job = job_of(operations, tmp_path, TINY_TRAINING.model_copy(update={"running_sum": 1.0}))
    train(job)
    saved = {name for name in final_tensors(job) if "running_sum" in name and not name.startswith("optimizer")}
    assert saved == {"training.running_sum.weight", "training.running_sum.bias"}
    model = TrainedEncoder.open(job.run)
    assert model.encoder.running_sum is None
    assert len(model.solve(["12*3"])[0].answer) <= operations.layout.answer


@pytest.mark.parametrize("change", [{"objective": "anywhere"}, {}])
def test_carries_are_waited_for_in_answers_of_sums_alone(
    operations: Built, small: Built, change: dict[str, str]
) -> None:
    encoder = TINY_TRAINING.encoder.model_copy(update={"carry_loops": 1})
    spec = TINY_TRAINING.model_copy(update={"encoder": encoder, **change})
    built = small if change else operations
    name = built.corpus.manifest.name
    with pytest.raises(UserError, match=r"carry_loops is 1, but only of sums without brackets"):
        prepare(built.workspace, "never", name, f"{name}-digit", spec)


def test_weights_that_are_no_numbers_are_never_saved(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, LONGER)
    train(job, stop=Countdown(0))
    good = Checkpoints(job.run / "checkpoints").index().last
    import model.training as module

    def poisoned(optimizers: dict[str, Optimizer], step: int, spec: TrainingSpec) -> None:
        set_rates(optimizers, step, spec)
        for group in optimizers["adamw"].param_groups:
            group["lr"] = float("nan") if step == 19 else group["lr"]

    module.set_rates = poisoned  # type: ignore[assignment]
    try:
        with pytest.raises(RunFailure, match=r"weights are no finite numbers behind step 20: the last good .* step 10"):
            train(replace(job, config=job.config), stop=Countdown(0))
    finally:
        module.set_rates = set_rates
    assert Checkpoints(job.run / "checkpoints").index().last == good


def test_running_sums_of_a_corpus_without_products_are_refused(small: Built) -> None:
    with pytest.raises(UserError, match=r"running_sum is 0.5, but corpus 'small' has no products: set it to 0"):
        prepare(small.workspace, "never", "small", "small-digit", TINY_TRAINING.model_copy(update={"running_sum": 0.5}))
    assert not small.workspace.run("never").exists()


def test_compiling_without_a_compiler_is_refused_and_left_to_itself_never_fails(
    small: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for choice, device in (("auto", "cpu"), ("auto", "cuda"), ("off", "cpu")):
        assert not compiles(TINY_TRAINING.model_copy(update={"compile": choice}), torch.device(device))
    with pytest.raises(UserError, match=r"compile is on, but no C.. compiler was found: install g"):
        prepare(small.workspace, "never", "small", "small-digit", TINY_TRAINING.model_copy(update={"compile": "on"}))


@pytest.mark.slow
def test_compiled_layers_train_alike_and_resume_with_the_same_bits(small: Built, tmp_path: Path) -> None:
    spec = LONGER.model_copy(update={"compile": "on"})
    assert_a_resume_changes_nothing(small, tmp_path, spec, 1)
    plain = job_of(small, tmp_path / "plain", LONGER)
    train(plain)
    compiled = job_of(small, tmp_path / "a", spec)
    for (step, one), (_, other) in zip(losses(plain), losses(compiled), strict=True):
        assert one == pytest.approx(other, rel=1e-3), step


def test_metrics_say_how_fast_and_how_near_to_the_peak_a_step_is(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    train(job)
    query = f"SELECT problems_per_second, share_of_peak FROM read_parquet({metric_parts(job.run / 'metrics')})"
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == TINY_TRAINING.steps
    assert all(rate > 0 and 0 < share < 1 for rate, share in rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"where": "digits <"}, "is no predicate over"),
        ({"curriculum": (CurriculumStage(where="oops > 1", steps=3),)}, "is no predicate over"),
        ({"where": "digits > 99"}, "the split holds 0 rows"),
    ],
)
def test_a_bad_where_is_refused_before_any_work(longer: Built, values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(longer.workspace, "never", "longer", "longer-digit", TINY_TRAINING.model_copy(update=values))
    assert not longer.workspace.run("never").exists()


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"places": 9}, r"encoder.places is 9, 10 is needed for this corpus"),
        ({"operands": 2, "positions": ("learned",), "longest": 16}, r"encoder.longest is 16, 19 is needed"),
    ],
)
def test_an_encoder_whose_positions_are_too_few_is_refused(
    longer: Built, encoder: dict[str, object], message: str
) -> None:
    spec = TINY_TRAINING.model_copy(update={"encoder": TINY_TRAINING.encoder.model_copy(update=encoder)})
    with pytest.raises(UserError, match=message):
        prepare(longer.workspace, "never", "longer", "longer-digit", spec)
    assert not longer.workspace.run("never").exists()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_learns_with_either_optimizer_and_the_papers_norm(
    small: Built, tmp_path: Path, optimizer: str
) -> None:
    encoder = LONGER.encoder.model_copy(update={"norm": "post", "positions": ("sinusoidal",)})
    job = job_of(small, tmp_path, LONGER.model_copy(update={"optimizer": optimizer, "encoder": encoder}))
    train(job)
    curve = [loss for _, loss in losses(job)]
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])


def test_training_learns(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, LONGER)
    train(job)
    curve = [loss for _, loss in losses(job)]
    assert sum(curve[-5:]) < 0.7 * sum(curve[:5])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, LONGER)
    train(job, stop=Countdown(0))
    place = job.run / "checkpoints" / Checkpoints(job.run / "checkpoints").index().last.file  # type: ignore[union-attr]
    before = place.read()
    original = torch.nn.functional.cross_entropy
    import model.training as module

    module.cross_entropy = lambda *a, **k: original(*a, **k) * float("nan")  # type: ignore[assignment]
    try:
        with pytest.raises(RunFailure, match="loss is nan at step 11: the last good checkpoint is of step 10"):
            train(job)
    finally:
        module.cross_entropy = original
    assert place.read() == before
    assert Checkpoints(job.run / "checkpoints").index().last.step == 10  # type: ignore[union-attr]


def test_best_last_and_a_few_checkpoints_are_kept(small: Built, tmp_path: Path) -> None:
    spec = LONGER.model_copy(update={"checkpoint_every": 3, "validate_every": 3, "keep": 1})
    job = job_of(small, tmp_path, spec)
    train(job)
    index = Checkpoints(job.run / "checkpoints").index()
    files = {name for name in (job.run / "checkpoints").children() if name.endswith(".safetensors")}
    assert files == {entry.file for entry in index.entries}
    assert {30, 27} <= {entry.step for entry in index.entries}
    assert len(files) <= 3


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    train(job)
    checkpoints = Checkpoints(job.run / "checkpoints")
    last = checkpoints.index().last
    assert last
    foreign = job.config.model_copy(update={"tokenizer_identity": "0" * 64})
    with pytest.raises(RunFailure, match="belongs to another corpus, tokenizer or configuration"):
        checkpoints.load(last, foreign)
    place = job.run / "checkpoints" / last.file
    for data in (place.read()[:-100], b"\x80\x04pickle", b""):
        place.write(data)
        with pytest.raises(RunFailure, match="is damaged"):
            checkpoints.load(last, job.config)


def test_a_run_name_in_use_with_another_configuration_is_refused(small: Built, tmp_path: Path) -> None:
    job_of(small, tmp_path, TINY_TRAINING)
    with pytest.raises(UserError, match=r"training.seed: 0 there, 5 asked.*choose another name"):
        job_of(small, tmp_path, TINY_TRAINING.model_copy(update={"seed": 5}))
    job_of(small, tmp_path, TINY_TRAINING.model_copy(update={"workers": 2}))


def test_a_split_that_is_too_small_is_refused_before_any_work(small: Built) -> None:
    spec = TINY_TRAINING.model_copy(update={"batch_size": 1 << 14})
    with pytest.raises(UserError, match="less than one batch of 16,384"):
        prepare(small.workspace, "never", "small", "small-digit", spec)
    assert not small.workspace.run("never").exists()


def test_a_flipped_byte_in_the_tokens_is_refused_before_any_work(own_small: Built) -> None:
    place = own_small.tokens.checked(own_small.tokens.of_split("train")[0])
    data = bytearray(place.read())
    data[200] ^= 1
    place.write(bytes(data))
    with pytest.raises(RunFailure, match=r"shard .* is damaged: delete it and run the 'numerate encode'"):
        prepare(own_small.workspace, "never", "small", "small-digit", TINY_TRAINING)
    assert not own_small.workspace.run("never").exists()


def test_the_loop_runs_from_a_file_in_a_plain_process(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "workspace": str(small.workspace.root),
        "name": "plain",
        "corpus": "small",
        "tokenizer": "small-digit",
        "training": TINY_TRAINING.model_dump(),
    }
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    monkeypatch.setattr("sys.argv", ["model.training", str(file)])
    assert main() == 0
    assert "step 12 of 12" in capsys.readouterr().out
    small.workspace.run("plain").remove()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "corpus is missing: add it"),
        ({"corpus": "small", "steps": 3}, "steps is not a parameter"),
        ({"corpus": "small", "training": {"steps": 0}}, "training.steps is 0: "),
        ({"corpus": "small", "training": 3}, "training is 3: "),
        ({"corpus": "small", "seeds": "x"}, "seeds is 'x': "),
    ],
)
def test_a_file_that_says_no_training_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    values: dict[str, Any],
    words: str,
) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(values))
    monkeypatch.setattr("sys.argv", ["model.training", str(file)])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: {words}")
    assert said.count("\n") == 1


def test_what_is_refused_with_one_thread_is_one_line(small: Built, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({"workspace": str(small.workspace.root), "corpus": "small", "name": "No"}))
    command, environment = [sys.executable, "-m", "model.training", str(file)], {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr


def test_a_job_of_more_threads_trains_alike(small: Built, tmp_path: Path) -> None:
    one, two = job_of(small, tmp_path / "a", TINY_TRAINING), job_of(small, tmp_path / "b", TINY_TRAINING)
    train(one)
    train(replace(two, threads=2))
    torch.set_num_threads(1)
    for (_, a), (_, b) in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
