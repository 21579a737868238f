import os

import pytest
import torch

from model.config.training import TrainingSpec
from model.training.optimizer import answering_precision, precision_of

CPU = torch.device("cpu")


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
def test_encoders_answer_in_bfloat16_only_where_the_hardware_multiplies_it(asked: str) -> None:
    found = answering_precision(TrainingSpec(precision=asked), CPU)
    fast = precision_of(TrainingSpec(), CPU)
    assert found is (torch.float32 if asked == "float32" else fast)
