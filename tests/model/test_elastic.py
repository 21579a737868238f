"""Training over a real Ray of two nodes that loses a worker, or a node, and goes on."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from model.training import train
from tests.builders import Built
from tests.model.test_training import LONGER, job_of, losses

LONG = LONGER.model_copy(update={"steps": 1_500, "checkpoint_every": 50, "validate_every": 500, "workers": 2})


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "least", "nodes"), [("worker", 0, 2), ("node", 1, 1)])
def test_what_is_lost_in_the_middle_of_a_training_changes_no_step(
    small: Built, tmp_path: Path, loss: str, least: int, nodes: int
) -> None:
    whole = job_of(small, tmp_path / "a", LONG)
    hurt = job_of(small, tmp_path / "b", LONG.model_copy(update={"min_workers": least}))
    (tmp_path / "job").write_bytes(pickle.dumps(hurt))
    result = subprocess.run(
        [sys.executable, "-m", "tests.model.elastic", str(tmp_path / "job"), loss],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMERATE_TEST": str(tmp_path)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"finished True at {LONG.steps} with {nodes} nodes" in result.stdout
    train(whole)
    # The rows and masks of a step don't depend on the ranks, rounding does; it grows with the steps.
    alone, together = losses(whole), losses(hurt)
    assert [step for step, _ in together] == list(range(1, LONG.steps + 1))
    for (step, one), (_, other) in zip(alone[:300], together[:300], strict=True):
        assert one == pytest.approx(other, rel=0.02), step
