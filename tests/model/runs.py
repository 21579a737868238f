"""Runs that are trained in this process, and what they ended with."""

import os
from pathlib import Path

import duckdb
import torch
from safetensors.torch import load_file

from model.config.training import TrainingSpec
from model.runs.checkpoints import Checkpoints
from model.runs.metrics import metric_parts
from model.runs.run_config import RunConfig, claim_run
from model.training.job import TrainingJob
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, Built

# `make test-portable` sets another number.
THREADS = int(os.environ.get("NUMERATE_TEST_THREADS", "1"))
LONGER = TINY_TRAINING.model_copy(update={"steps": 30, "checkpoint_every": 10, "validate_every": 10})


def job_of(built: Built, folder: Path, spec: TrainingSpec, name: str = "run") -> TrainingJob:
    """A claimed run of a corpus, in a folder of its own."""
    config = RunConfig.of(name, spec, built.corpus, built.tokens, ("small-digit", built.tokenizer))
    run = LocalLocation(folder / name)
    claim_run(run, config, built.tokenizer)
    return TrainingJob(run, built.tokens.location, config, THREADS)


def final_tensors(job: TrainingJob) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint."""
    last = Checkpoints(job.run / "checkpoints").index().last
    assert last
    return load_file((job.run / "checkpoints" / last.file).path)


def same_bits(one: TrainingJob, other: TrainingJob) -> bool:
    """Whether two runs ended with the same tensors."""
    a, b = final_tensors(one), final_tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(job: TrainingJob) -> list[tuple[int, float]]:
    """Every step with its loss."""
    return duckdb.sql(f"SELECT step, loss FROM read_parquet({metric_parts(job.run / 'metrics')}) ORDER BY 1").fetchall()
