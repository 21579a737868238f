"""The flow `train-encoder`."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from flows.common.engines import ray_session
from flows.common.flow import stage
from flows.common.parameters import TrainRequest
from flows.common.progress import human, metered, say
from flows.common.timing import note_seconds
from flows.encode_corpus import ensure_tokens
from flows.reports.artifacts import show_training
from model.config.training import TrainingSpec
from model.runs.checkpoints import Checkpoints
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.parallel_runs import Room, Seat, train_side_by_side
from model.training.preflight import found_result, prepare
from model.training.ray_launcher import choose_room, launch
from storage.errors import RunFailure
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace


@stage("train-encoder", "train {request.run_name} for {request.steps} steps")
def train_encoder(request: TrainRequest) -> dict[str, Any]:
    """Train an encoder with DDP on Ray Train; resumes an interrupted run and returns a finished one as it is.

    Several seeds are trained in parallel if there are enough resources. Each seed is a separate run.
    """
    workspace, name, spec = Workspace.create(request.workspace), request.run_name, request.training_spec()
    if request.make_missing:
        ensure_tokens(request, request.corpus, request.tokenizer_name)
    jobs = prepare(workspace, name, request.corpus, request.tokenizer_name, spec, request.seeds)
    for line in (*spec.ignored, *jobs[0].left_out):
        say(f"warning: {line}")
    if missing := sum(not _say_found(job) for job in jobs):
        try:
            with ray_session(request.ray, workspace.root):
                _train(jobs, missing, f"train {name}", spec)
        finally:
            refresh_catalog(workspace)
    found = [_found(job) for job in jobs]
    names = [job.config.name for job in jobs]
    matches = ", ".join(f"{each['run']} {each['exact_match']:.2%}" for each in found)
    show_training(workspace, names, f"{spec.steps:,} steps; exact match on validation: {matches}")
    return found[0] if request.seeds == 1 else {"runs": found}


def _train(jobs: list[TrainingJob], missing: int, title: str, spec: TrainingSpec) -> None:
    """Train the unfinished jobs; raises `RunFailure` if one of them stops early."""
    with metered("train-encoder", title, missing * spec.steps, "steps") as meter:
        room = choose_room(spec, missing)
        begun: dict[str, int] = {}

        def train_one(job: TrainingJob, seat: Seat) -> TrainingResult:
            """Train one job and record its duration."""
            began = time.monotonic()
            try:
                result = launch(job, room, seat.report, seat.stop)
            finally:
                note_seconds(job.run, time.monotonic() - began, add=True)
            _conclude(job, result, time.monotonic() - began, room)
            return result

        def report(progress: Mapping[str, Progress]) -> None:
            """Show the combined progress of all jobs."""
            if latest := list(progress.values()):
                rate = human(sum(one.problems_per_second for one in latest))
                loss, match = (median(getattr(one, name) for one in latest) for name in ("loss", "exact_match"))
                for run, one in progress.items():
                    if run not in begun:
                        # Steps of an earlier call do not count for the rate.
                        begun[run] = one.step
                        meter.found(one.step)
                meter.set(
                    sum(one.step for one in latest), f"{rate} problems/s, loss {loss:.4f}, exact match {match:.2%}"
                )

        train_side_by_side(jobs, train_one, room.at_once, report=report)


def _say_found(job: TrainingJob) -> bool:
    """Return whether a run is already trained; prints its result, and warnings about damaged checkpoints."""
    for line in Checkpoints(job.run / "checkpoints").warnings():
        say(f"warning: {line}")
    if result := found_result(job):
        name, steps, match = job.config.name, result.step, result.exact_match
        say(f"run {name}: up to date, {steps:,} steps, exact match on validation {match:.2%}")
    return result is not None


def _found(job: TrainingJob) -> dict[str, Any]:
    result = found_result(job)
    assert result, "a training that isn't finished is raised as a failure"
    return {
        "run": job.config.name,
        "location": str(job.run),
        "steps": result.step,
        "exact_match": result.exact_match,
    }


def _conclude(job: TrainingJob, result: TrainingResult, seconds: float, room: Room) -> None:
    name, steps = job.config.name, job.config.training.steps
    if not result.finished:
        raise RunFailure(
            f"run {name!r} was stopped at step {result.step:,} of {steps:,}: run the same command again to resume"
        )
    say(
        f"run {name}: {steps:,} steps in {seconds:.1f} s on {room.workers} {'GPU' if room.gpus else 'CPU'} "
        f"worker{'s' if room.workers > 1 else ''}, exact match on validation {result.exact_match:.2%}"
    )
