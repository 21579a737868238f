import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from torch.optim import Optimizer

from model.config.training import TrainingSpec
from model.evaluation.predictor import TrainedEncoder
from model.network.flops import training_flops
from model.process import prepare_torch
from model.runs.checkpoints import Checkpoints
from model.runs.metrics import metric_parts
from model.training.__main__ import main
from model.training.optimizer import set_rates
from model.training.trainer import train
from storage.errors import RunFailure
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import LONGER, final_tensors, job_of, losses
from tests.model.workers import Countdown


def test_an_encoder_trained_with_running_sums_answers_without_them(operations: Built, tmp_path: Path) -> None:
    job = job_of(operations, tmp_path, TINY_TRAINING.model_copy(update={"running_sum": 1.0}))
    train(job)
    saved = {name for name in final_tensors(job) if "running_sum" in name and not name.startswith("optimizer")}
    assert saved == {"training.running_sum.weight", "training.running_sum.bias"}
    model = TrainedEncoder.open(job.run)
    assert model.encoder.running_sum is None
    assert len(model.solve(["12*3"])[0].answer) <= operations.layout.answer


def test_weights_that_are_no_numbers_are_never_saved(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, LONGER)
    train(job, stop=Countdown(0))
    good = Checkpoints(job.run / "checkpoints").index().last
    import model.training.optimizer as module

    def poisoned(optimizers: dict[str, Optimizer], step: int, spec: TrainingSpec) -> None:
        set_rates(optimizers, step, spec)
        for group in optimizers["adamw"].param_groups:
            group["lr"] = float("nan") if step == 19 else group["lr"]

    module.set_rates = poisoned  # type: ignore[assignment]
    try:
        with pytest.raises(RunFailure, match=r"weights are not finite after step 20: the last good .* step 10"):
            train(replace(job, config=job.config), stop=Countdown(0))
    finally:
        module.set_rates = set_rates
    assert Checkpoints(job.run / "checkpoints").index().last == good


def test_a_process_uses_no_more_threads_than_the_granted_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("model.process.cores", lambda: 1)
    try:
        torch.set_num_threads(2)
        prepare_torch()
        assert torch.get_num_threads() == 1
        prepare_torch(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_metrics_say_how_fast_and_how_near_to_the_peak_a_step_is(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = 1e12
    monkeypatch.setattr("model.training.trainer.peak_flops", lambda device, precision: peak)
    job, encoder = job_of(small, tmp_path, TINY_TRAINING), TINY_TRAINING.encoder
    train(job)
    query = f"SELECT problems_per_second, share_of_peak FROM read_parquet({metric_parts(job.run / 'metrics')})"
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == TINY_TRAINING.steps
    # Whatever the seconds, the share is the rate times what a problem takes.
    layout = small.layout
    flops = training_flops(encoder, small.tokenizer.size, layout.width, layout.answer, encoder.loops)
    assert [share / rate for rate, share in rows] == pytest.approx([flops / peak] * len(rows))


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
    import model.objectives.answers as module

    module.cross_entropy = lambda *a, **k: original(*a, **k) * float("nan")  # type: ignore[assignment]
    try:
        with pytest.raises(RunFailure, match="loss is nan at step 11: the last good checkpoint is at step 10"):
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
def test_a_file_without_a_training_is_a_one_line_error(
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
    command, environment = (
        [sys.executable, "-m", "model.training", str(file)],
        {**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr


def test_a_job_of_more_threads_trains_alike(small: Built, tmp_path: Path) -> None:
    # More threads add in another order.
    spec = TINY_TRAINING.model_copy(update={"precision": "float32"})
    one, two = (replace(job_of(small, tmp_path / str(n), spec), threads=n) for n in (1, 2))
    before = torch.get_num_threads()
    train(one)
    train(two)
    torch.set_num_threads(before)
    for (_, a), (_, b) in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
