"""FLOPs as torch itself counts them."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config.encoder import EncoderConfig
from model.network.encoder import Encoder
from model.network.flops import training_flops
from model.objectives.training_pass import Loops, TrainingPass
from model.training.hardware import peak_flops
from model.training.step_metrics import StepMetrics
from storage.places.disk import LocalLocation
from tests.benchmarks.tokenizers import digit_tokenizer
from tests.model.test_objectives import complete


@pytest.mark.parametrize(
    "values", [{}, {"layers": 3, "norm": "post"}, {"layers": 1, "loops": 4, "positions": ("relative",)}]
)
@pytest.mark.parametrize("last", [5, 16])
@pytest.mark.parametrize("warm", [0, 3])
def test_flops_are_those_that_torch_counts(values: dict[str, object], last: int, warm: int) -> None:
    config, tokenizer = EncoderConfig(width=32, heads=4, feedforward=48, **values), digit_tokenizer()
    encoder, rows = Encoder(config, tokenizer), complete(tokenizer, "12+3", "7-5", "8*9")
    forward = TrainingPass(encoder, torch.float32)
    with FlopCounterMode(display=False) as counter:
        positions = encoder.token_positions(rows, 5)
        forward(rows, 5, positions, last, Loops(config.loops, warm)).sum().backward()
    counted = counter.get_total_flops()
    assert training_flops(config, tokenizer.size, rows.shape[1], last, config.loops, warm) * len(rows) == counted


def test_share_of_peak_is_flops_over_possible_flops(tmp_path: Path) -> None:
    peak = peak_flops(torch.device("cpu"), torch.float32)
    metrics = StepMetrics(LocalLocation(tmp_path), 0, peak)
    for problems, flops in ((10, 1_000), (20, 3_000), (0, 0)):
        metrics.add({"step": 1}, torch.zeros(()), problems, flops)
        if problems != 10:
            assert metrics.settle() is None
    one, other, third = metrics.writer.rows
    for row in (one, other):
        assert row["share_of_peak"] / row["problems_per_second"] == pytest.approx(4_000 / 30 / peak)
    assert third["problems_per_second"] == 0
