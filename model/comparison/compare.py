"""Compares encoders with and without a symbolic unit, over several seeds, with the same problems and training time.

`python -m model.comparison FILE` needs neither Ray nor Prefect. It first measures the time per step of each encoder,
with as many parallel trainings as later, and gives each encoder the number of steps that fit the time. It then trains
all seeds and evaluates them on problems like those of the training and on longer and deeper ones, with the unit on and
off. The results are `comparisons/<name>/table.parquet`, `curves.parquet` and `table.md`. Finished parts are cached.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from itertools import cycle

from model.comparison.evaluate_run import evaluate_run
from model.comparison.tables import read_json, results_of, write_tables
from model.config.comparison import ComparingSpec, Variant
from model.config.training import TrainingSpec, seed_runs
from model.runs.metrics import step_seconds
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.launchers.parallel_runs import Seat, TrainOne, in_a_process, room_here, train_side_by_side
from model.training.preflight import existing_result, prepare
from storage.errors import RunFailure, UserError
from storage.places.place import Location
from storage.workspace import Workspace

# Nominal number of steps of the timed trainings, and the suffix of their names.
_LONG, _TIMED = 10**6, "-timed"


def compare(spec: ComparingSpec, stop: Callable[[], bool] = lambda: False) -> Location | None:
    """Run the comparison and return the folder of the tables; None if `stop` ended it early.

    Raises `UserError` for parameters that do not match, before any work. Raises `RunFailure` if trainings failed; the
    tables contain the successful ones.
    """
    workspace = Workspace.create(spec.workspace)
    folder = workspace.comparison(spec.name)
    _claim(folder, spec)
    variants = spec.variants()
    runs = len(variants) * spec.seeds
    # By default at most one training per CPU, without a GPU.
    at_once = min(spec.at_once or room_here(max(2, runs)).at_once, runs)
    steps = _steps(workspace, folder, spec, at_once, stop)
    if stop():
        return None
    jobs = _jobs(workspace, spec, {key: spec.planned(variant, steps[key]) for key, variant in variants.items()})
    for line in jobs[0].left_out:
        print(f"warning: {line}", flush=True)
    failure: RunFailure | None = None
    try:
        results = _train(jobs, in_a_process, at_once, stop)
        if not all(result.finished for result in results):
            return None
    except RunFailure as error:
        failure = error
    _evaluate(workspace, folder, spec, [job for job in jobs if existing_result(job)], at_once)
    names = {job.config.name: encoder for job, (encoder, _) in zip(jobs, cycle(variants), strict=False)}
    write_tables(workspace, folder, names, spec.corpus, spec.goal)
    if failure:
        raise failure
    return folder


def _claim(folder: Location, spec: ComparingSpec) -> None:
    """Store the parameters; raise `UserError` if a comparison of this name has other parameters."""
    file = folder / "comparison.json"
    if not file.exists():
        file.write(json.dumps(spec.decides(), indent=2).encode() + b"\n")
    elif read_json(file) != spec.decides():
        raise UserError(
            f"comparison {spec.name!r} exists with other parameters: choose another name, or delete {folder}"
        )


def _jobs(
    workspace: Workspace, spec: ComparingSpec, trainings: dict[Variant, TrainingSpec], suffix: str = ""
) -> list[TrainingJob]:
    """The jobs of all variants and seeds, grouped by seed."""
    found = [
        prepare(workspace, spec.run_name(key) + suffix, spec.corpus, spec.tokenizer_name, training, spec.seeds)
        for key, training in trainings.items()
    ]
    return [job for seed in zip(*found, strict=True) for job in seed]


def _train(
    jobs: Sequence[TrainingJob], train_one: TrainOne, at_once: int, stop: Callable[[], bool]
) -> list[TrainingResult]:
    """Train jobs in parallel, each with one CPU thread, and print their progress."""
    began, reported = time.monotonic(), dict[str, int]()

    def report(progress: Mapping[str, Progress]) -> None:
        for name, now in progress.items():
            if (tenth := 10 * now.step // now.steps) > reported.get(name, 0):
                reported[name] = tenth
                print(f"{time.monotonic() - began:.0f} s {name}: step {now.step} {now.exact_match:.2%}", flush=True)

    return train_side_by_side([replace(job, threads=1) for job in jobs], train_one, at_once, stop=stop, report=report)


def _steps(
    workspace: Workspace, folder: Location, spec: ComparingSpec, at_once: int, stop: Callable[[], bool]
) -> dict[Variant, int]:
    """Number of steps of each variant that fit the time, cached or measured."""
    file, variants = folder / "steps.json", spec.variants()
    if not file.exists():
        seconds = _timed(workspace, spec, at_once, stop)
        if stop():
            return {}
        steps = {"/".join(key): max(1, round(spec.seconds / seconds[key])) for key in variants}
        file.write(json.dumps(steps, indent=2).encode() + b"\n")
    steps, names = read_json(file), {key: "/".join(key) for key in variants}
    if not isinstance(steps, dict) or not all(isinstance(steps.get(name), int) for name in names.values()):
        raise RunFailure(f"{file} is damaged: delete it and repeat the command")
    return {key: steps[name] for key, name in names.items()}


def _timed(workspace: Workspace, spec: ComparingSpec, at_once: int, stop: Callable[[], bool]) -> dict[Variant, float]:
    """Seconds per step of each variant, measured with temporary trainings."""
    variants = {key: spec.planned(training, _LONG) for key, training in spec.variants().items()}
    runs = [
        workspace.run(name)
        for key, training in variants.items()
        for name, _ in seed_runs(spec.run_name(key) + _TIMED, training, spec.seeds)
    ]
    for run in runs:
        run.remove()
    # As many parallel trainings as later, even if there are fewer variants.
    jobs = _jobs(workspace, spec, variants, _TIMED)[: max(len(variants), at_once)]
    try:
        _train(jobs, partial(_train_a_while, spec.timed_seconds), at_once, stop)
        timed = zip(variants, jobs, strict=False)
        return {} if stop() else {key: step_seconds(job.run / "metrics") for key, job in timed}
    finally:
        for run in runs:
            run.remove()


def _train_a_while(seconds: float, job: TrainingJob, seat: Seat) -> TrainingResult:
    """Train in a process for `seconds` after the first progress report."""
    begun: list[float] = []

    def report(now: Progress) -> None:
        begun.append(time.monotonic())

    def stop() -> bool:
        return seat.stop() or (bool(begun) and time.monotonic() > begun[0] + seconds)

    return in_a_process(job, replace(seat, stop=stop, report=report))


def _evaluate(
    workspace: Workspace, folder: Location, spec: ComparingSpec, jobs: Sequence[TrainingJob], at_once: int
) -> None:
    """Evaluate the runs without results, in parallel processes; each writes its rows as JSON."""
    left = []
    for job in jobs:
        if not (target := results_of(folder, job.config.name)).exists():
            left.append((job.run, target, workspace, spec.corpora, spec.problems, spec.curve_problems))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(at_once, max(1, len(left))), mp_context=context) as pool:
        try:
            for future in [pool.submit(evaluate_run, *arguments) for arguments in left]:
                print(f"evaluated {future.result()}", flush=True)
        except BrokenProcessPool as error:
            raise RunFailure("an evaluation process was killed: run the same command again to continue") from error
