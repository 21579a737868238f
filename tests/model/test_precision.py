"""A run keeps the arithmetic of its first step, and says which that was."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from model.config.training import TrainingSpec
from model.runs.checkpoints import Checkpoints
from model.runs.run_config import load_run
from model.training.hardware import answering_precision, precision_name, precision_of
from model.training.trainer import train
from tests.builders import TINY_TRAINING, Built
from tests.emulated_bfloat16 import EmulatedBfloat16
from tests.model.runs import job_of
from tests.model.workers import Countdown

CPU = torch.device("cpu")
AUTO = TINY_TRAINING.model_copy(update={"precision": "auto"})
HERE = precision_name(precision_of(AUTO, CPU))
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
    found = precision_of(TrainingSpec(), CPU)
    assert found in (torch.float32, torch.bfloat16)
    if limits & {"default", "avx2", "AVX2"}:
        assert found is torch.float32
    for asked in (torch.float32, torch.bfloat16):
        assert precision_of(TrainingSpec(precision=str(asked).removeprefix("torch.")), CPU) is asked


@pytest.mark.parametrize("asked", ["auto", "bfloat16", "float32"])
def test_encoders_answer_in_bfloat16_only_on_hardware_that_supports_it(asked: str) -> None:
    found = answering_precision(TrainingSpec(precision=asked), CPU)
    fast = precision_of(TrainingSpec(), CPU)
    assert found is (torch.float32 if asked == "float32" else fast)


def test_emulated_bfloat16_is_that_of_the_libraries() -> None:
    """Training of small matrices, because products of bfloat16 are slow where they must be emulated."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))

    def results() -> list[torch.Tensor]:
        leaf, other = inputs.clone().requires_grad_(), weight[0, 0].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = linear(leaf, other) @ leaf
            output = scaled_dot_product_attention(hidden, hidden, hidden)
        output.float().square().sum().backward()
        assert leaf.grad is not None
        assert other.grad is not None
        return [hidden.detach(), output.detach(), leaf.grad, other.grad]

    with EmulatedBfloat16() as emulation:
        emulated = results()
    assert emulation.products == 8
    for one, two in zip(emulated, results(), strict=True):
        assert one.dtype is two.dtype
        # Several roundings to eight bits follow each other; float32 sums in another order can change each.
        torch.testing.assert_close(one.float(), two.float(), rtol=0.05, atol=0.05 * float(two.detach().abs().max()))
