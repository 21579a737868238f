"""The flow `train-encoder`."""

import time
from typing import Any

from prefect import flow

from flows.progress import human, metered, say
from flows.requests import TrainRequest
from flows.session import ray_session
from flows.timing import note_seconds
from model.checkpoint import Checkpoints
from model.launch import choose_workers, launch
from model.training import Progress, TrainingResult, prepare
from storage.catalog import refresh_catalog
from storage.errors import RunFailure
from storage.location import Workspace


@flow(name="train-encoder", flow_run_name="train {request.corpus}", persist_result=False)
def train_encoder(request: TrainRequest) -> dict[str, Any]:
    """Train an encoder by DDP over Ray Train, go on where an earlier call ended, or find it trained."""
    workspace, name, spec = Workspace.create(request.workspace), request.run_name, request.training_spec()
    job = prepare(workspace, name, request.corpus, request.tokenizer_name, spec)
    last = Checkpoints(job.run / "checkpoints").index().last
    if last and last.step >= spec.steps:
        say(f"run {name}: found, {last.step:,} steps, exact match on validation {last.exact_match:.2%}")
        return {"run": name, "location": str(job.run), "steps": last.step, "exact_match": last.exact_match}
    began = time.monotonic()
    try:
        with ray_session(), metered("train-encoder", f"train {name}", spec.steps, "steps") as meter:
            workers, use_gpu = choose_workers(spec.workers)

            def report(progress: Progress) -> None:
                """Show how far the training is."""
                rate, match = human(progress.problems_per_second), progress.exact_match
                meter.set(progress.step, f"{rate} problems/s, loss {progress.loss:.4f}, exact match {match:.2%}")

            result = launch(job, workers, use_gpu, report)
    finally:
        note_seconds(job.run, time.monotonic() - began, add=True)
        refresh_catalog(workspace)
    _conclude(name, spec.steps, result, time.monotonic() - began, f"{workers} {'GPU' if use_gpu else 'CPU'} workers")
    return {"run": name, "location": str(job.run), "steps": result.step, "exact_match": result.exact_match}


def _conclude(name: str, steps: int, result: TrainingResult, seconds: float, workers: str) -> None:
    if not result.finished:
        raise RunFailure(
            f"run {name!r} was stopped at step {result.step:,} of {steps:,}: run the same command to go on"
        )
    say(
        f"run {name}: {steps:,} steps in {seconds:.1f} s on {workers}, "
        f"exact match on validation {result.exact_match:.2%}"
    )
