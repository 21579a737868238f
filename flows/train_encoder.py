"""The flow `train-encoder`."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import TrainRequest
from flows.common.presets import CORPUS_PRESETS
from flows.common.progress import counted, human, metered, say
from flows.common.timing import note_seconds
from flows.encode_corpus import ensure_tokens
from flows.reports.artifacts import show_training
from model.config.training import TrainingSpec
from model.runs.checkpoints import Checkpoints
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.launchers.parallel_runs import Room, Seat, train_side_by_side
from model.training.launchers.ray_launcher import choose_room, launch
from model.training.preflight import existing_result, prepare
from model.training.rare_problems import RARE
from pipelines.generation.build import predicate_columns_of, spec_of
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import committed, load
from storage.errors import RunFailure
from storage.reading.subset import check_predicate
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace


@flow(name="train-encoder", flow_run_name="train {request.run_name} for {request.steps} steps")
def train_encoder(request: TrainRequest) -> dict[str, Any]:
    """Train an encoder with DDP on Ray Train; resumes an interrupted run and returns a finished one as it is.

    Several seeds are trained in parallel if there are enough resources. Each seed is a separate run.
    """
    workspace, name, spec = Workspace.create(request.workspace), request.run_name, request.spec(TrainingSpec)
    if request.make_missing:
        if not committed(workspace.tokens(request.corpus, request.tokenizer_name)):
            _check_predicates_of(workspace, request.corpus, spec)
        ensure_tokens(request, request.corpus, request.tokenizer_name)
    jobs = prepare(workspace, name, request.corpus, request.tokenizer_name, spec, request.seeds)
    for line in (*spec.ignored, *jobs[0].left_out):
        say(f"warning: {line}")
    if untrained := sum(not _is_trained(job) for job in jobs):
        try:
            with ray_session(request.ray, workspace.root):
                _train(jobs, untrained, f"train {name}", spec)
        finally:
            refresh_catalog(workspace)
    results = [_result_of(job) for job in jobs]
    names = [job.config.name for job in jobs]
    matches = ", ".join(f"{result['run']} {result['exact_match']:.2%}" for result in results)
    show_training(workspace, names, f"{spec.steps:,} steps; exact match on validation: {matches}")
    return results[0] if request.seeds == 1 else {"runs": results}


def check_predicates(training: TrainingSpec, corpus: CorpusSpec) -> None:
    """Raise `UserError`, before the corpus is generated, if a predicate of the training is invalid."""
    if predicates := _predicates_of(training):
        columns = predicate_columns_of(corpus)
        for predicate in predicates:
            check_predicate(predicate, columns)


def _predicates_of(training: TrainingSpec) -> list[str]:
    oversampled = training.oversample if training.oversample != RARE else ""
    return [each for each in (*(stage.where for stage in training.curriculum), training.where, oversampled) if each]


def _check_predicates_of(workspace: Workspace, corpus: str, training: TrainingSpec) -> None:
    """Raise `UserError` for an invalid predicate, if the corpus exists or has the name of a preset."""
    if not _predicates_of(training):
        return
    if committed(folder := workspace.corpus(corpus)):
        check_predicates(training, spec_of(load(folder, f"corpus {corpus!r}")))
    elif corpus in CORPUS_PRESETS:
        check_predicates(training, CORPUS_PRESETS[corpus].spec(CorpusSpec))


def _train(jobs: list[TrainingJob], untrained: int, title: str, spec: TrainingSpec) -> None:
    """Train the unfinished jobs; raises `RunFailure` if one of them stops early."""
    with metered("train-encoder", title, untrained * spec.steps, "steps") as meter:
        room = choose_room(spec, untrained)
        first_steps: dict[str, int] = {}

        def train_one(job: TrainingJob, seat: Seat) -> TrainingResult:
            began, first = time.monotonic(), _steps_of(job)
            try:
                result = launch(job, room, seat.report, seat.stop)
            finally:
                note_seconds(job.run, time.monotonic() - began, add=True)
            _say_result(job, result, first, time.monotonic() - began, room)
            return result

        def report(progress: Mapping[str, Progress]) -> None:
            if not progress:
                return
            for run, latest in progress.items():
                if run not in first_steps:
                    # Steps of an earlier call do not count for the rate.
                    first_steps[run] = latest.step
                    meter.add_finished(latest.step)
            rate = human(sum(latest.problems_per_second for latest in progress.values()))
            loss = median(latest.loss for latest in progress.values())
            match = median(latest.exact_match for latest in progress.values())
            step = sum(latest.step for latest in progress.values())
            meter.set(step, f"{rate} problems/s, loss {loss:.4f}, exact match {match:.2%}")

        train_side_by_side(jobs, train_one, room.at_once, report=report)


def _is_trained(job: TrainingJob) -> bool:
    """Return whether a run is already trained; prints its result, and a warning about damaged checkpoints."""
    if warning := Checkpoints(job.run / "checkpoints").warning():
        say(f"warning: {warning}")
    if result := existing_result(job):
        name, steps, match = job.config.name, result.step, result.exact_match
        say(f"run {name}: up to date, {steps:,} steps, exact match on validation {match:.2%}")
    return result is not None


def _result_of(job: TrainingJob) -> dict[str, Any]:
    result = existing_result(job)
    assert result, "an unfinished training is raised as a failure"
    return {
        "run": job.config.name,
        "location": str(job.run),
        "steps": result.step,
        "exact_match": result.exact_match,
    }


def _steps_of(job: TrainingJob) -> int:
    """Steps that an interrupted run has done already."""
    last, _ = Checkpoints(job.run / "checkpoints").newest_intact()
    return last.step if last else 0


def _say_result(job: TrainingJob, result: TrainingResult, first: int, seconds: float, room: Room) -> None:
    """Print the result of a training from step `first` on; raises `RunFailure` for one that was stopped."""
    name, steps = job.config.name, job.config.training.steps
    if not result.finished:
        raise RunFailure(
            f"run {name!r} was stopped at step {result.step:,} of {steps:,}: run the same command again to resume"
        )
    say(
        f"run {name}: {_done(first, steps)} in {seconds:.1f} s on "
        f"{counted(room.workers, 'GPU worker' if room.gpus else 'CPU worker')}, exact match on validation "
        f"{result.exact_match:.2%}"
    )


def _done(first: int, steps: int) -> str:
    """The steps of this call, such as `300 steps`, or `steps 201 to 300` after an interruption."""
    return f"steps {first + 1:,} to {steps:,}" if first else f"{steps:,} steps"
