"""A run keeps the arithmetic of its first step, and says which that was."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from model.evaluation.predictor import TrainedEncoder
from model.runs.checkpoints import Checkpoints
from model.runs.run_config import load_run
from model.training import hardware
from model.training.hardware import precision_name, precision_of
from model.training.trainer import train
from storage.workspace import Workspace
from tests.builders import TINY_TRAINING, Built
from tests.emulated_bfloat16 import EmulatedBfloat16
from tests.model.runs import job_of
from tests.model.workers import Countdown

CPU = torch.device("cpu")
AUTO = TINY_TRAINING.model_copy(update={"precision": "auto"})
HERE = precision_name(precision_of(AUTO.precision, CPU))
ELSEWHERE = {"float32": "bfloat16", "bfloat16": "float32"}[HERE]


def test_what_auto_chose_is_in_the_runs_configuration(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, AUTO)
    assert load_run(job.run).precision == ""
    train(job, stop=Countdown(0))
    assert load_run(job.run).precision == HERE


def test_a_resume_on_another_machine_keeps_the_arithmetic(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, AUTO)
    begun = load_run(job.run).model_copy(update={"precision": ELSEWHERE})
    (job.run / "run.json").write(begun.model_dump_json().encode())
    assert train(job).finished
    assert load_run(job.run).precision == ELSEWHERE
    last = Checkpoints(job.run / "checkpoints").index().last
    assert last
    assert last.step == AUTO.steps


def test_a_name_is_free_for_the_same_training_whatever_arithmetic_it_took(small: Built, tmp_path: Path) -> None:
    train(job_of(small, tmp_path, AUTO), stop=Countdown(0))
    assert train(job_of(small, tmp_path, AUTO)).finished


def test_auto_is_float32_if_the_libraries_may_not_use_bfloat16_instructions() -> None:
    """`make test-portable` runs this with each of these limits."""
    limits = {os.environ.get("ATEN_CPU_CAPABILITY"), os.environ.get("ONEDNN_MAX_CPU_ISA")}
    found = precision_of("auto", CPU)
    assert found in (torch.float32, torch.bfloat16)
    if limits & {"default", "avx2", "AVX2"}:
        assert found is torch.float32
    assert precision_of("float32", CPU) is torch.float32
    assert precision_of("bfloat16", CPU) is torch.bfloat16


@pytest.mark.parametrize("supported", [False, True])
def test_encoders_answer_as_they_were_trained_but_in_bfloat16_only_on_hardware_that_supports_it(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    job = job_of(small, tmp_path, AUTO.model_copy(update={"steps": 2}))
    train(job)
    monkeypatch.setattr(hardware, "supports_bfloat16", lambda device: supported)
    for trained, expected in (("bfloat16", supported), ("float32", False), ("", supported)):
        noted = load_run(job.run).model_copy(update={"precision": trained})
        (job.run / "run.json").write(noted.model_dump_json().encode())
        assert (TrainedEncoder.open(job.run).precision is torch.bfloat16) == expected


def test_a_training_in_emulated_bfloat16_has_one_process(small: Built, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    workspace = shutil.copytree(small.workspace.root.path, tmp_path / "w", ignore=shutil.ignore_patterns("runs"))
    values = {"workspace": str(workspace), "corpus": "small", "name": "emulated"}
    training = AUTO.model_copy(update={"steps": 2}).model_dump(mode="json")
    command = [sys.executable, "-m", "tests.emulated_bfloat16", "model.training", str(file)]
    file.write_text(json.dumps({**values, "training": training}))
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"([\d,]+) products of bfloat16 were emulated", result.stderr)
    assert found
    assert int(found[1].replace(",", "")) > 50
    assert load_run(Workspace.open(str(workspace)).run("emulated")).precision == "bfloat16"
    file.write_text(json.dumps({**values, "name": "several", "training": training, "seeds": 2}))
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "2 of 2 seeds failed" in result.stderr
    assert "train one seed at a time" in result.stderr


def test_emulated_bfloat16_is_that_of_the_libraries() -> None:
    """Training of small matrices, because products of bfloat16 are slow where they must be emulated."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))

    def results() -> list[torch.Tensor]:
        leaf, other = inputs.clone().requires_grad_(), weight[0, 0].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = linear(leaf, other) @ leaf
            output = (hidden @ hidden.transpose(-1, -2)).softmax(-1).to(hidden.dtype) @ hidden
        output.float().square().sum().backward()
        assert leaf.grad is not None
        assert other.grad is not None
        return [hidden.detach(), output.detach(), leaf.grad, other.grad]

    with EmulatedBfloat16() as emulation:
        emulated = results()
    assert emulation.products == 12
    for one, two in zip(emulated, results(), strict=True):
        assert one.dtype is two.dtype
        # Several roundings to eight bits follow each other; float32 sums in another order can change each.
        torch.testing.assert_close(one.float(), two.float(), rtol=0.05, atol=0.05 * float(two.detach().abs().max()))
