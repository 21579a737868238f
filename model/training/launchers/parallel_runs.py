"""Trains several seeds in parallel, each as a separate run, under Ray Train or in plain processes.

Seeds share only the machine, so a seed has the same weights as if it were trained alone. A failed seed does not end
the others. On an interruption, every running seed writes a checkpoint.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import NamedTuple

import torch

from model.config.training import STOP_SECONDS
from model.runs.checkpoints import Checkpoints
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.preflight import existing_result
from model.training.trainer import train
from storage.errors import RunFailure, TransientFailure, UserError
from storage.machine import cores

# GPU memory reserved for each seed, and the maximum number of seeds, if several seeds share one GPU.
_GPU_BYTES, _SEEDS_A_GPU = 8 << 30, 8
_POLL_SECONDS = 0.2


class Room(NamedTuple):
    """Number of parallel seeds, and the resources of each."""

    at_once: int
    workers: int
    """DDP workers per seed."""
    gpus: float
    """GPUs per worker: 1 or a fraction; 0 on CPUs."""


def room_for(seeds: int, workers: int, *, required: int, cpus: int, gpus: int, gpu_bytes: int = 0) -> Room:
    """How `seeds` share a machine or cluster on which a single seed would use `workers` workers.

    `required` is the required number of workers per seed, or 0 for any number; `gpu_bytes` is the memory of one GPU.
    On CPUs and on several GPUs, each worker has its own device. A single GPU is shared by several seeds, because
    small encoders leave most of it idle.
    """
    units = gpus or cpus
    if seeds == 1:
        return Room(1, workers, 1.0 if gpus else 0.0)
    if gpus == 1:
        at_once = max(1, min(seeds, _SEEDS_A_GPU, gpu_bytes // _GPU_BYTES, cpus))
        return Room(at_once, 1, 1 / at_once)
    at_once = max(1, min(seeds, units // max(1, required)))
    return Room(at_once, required or max(1, min(workers, units // at_once)), 1.0 if gpus else 0.0)


def gpu_memory() -> int:
    """Memory of this machine's first GPU in bytes; 0 without a GPU."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def room_here(jobs: int) -> Room:
    """The resources for `jobs` jobs of one worker each, in processes of this machine."""
    gpus = torch.cuda.device_count()
    return room_for(jobs, 1, required=1, cpus=cores(), gpus=gpus, gpu_bytes=gpu_memory())


@dataclass(frozen=True)
class Seat:
    """A slot for one of the parallel trainings, with its stop signal and its progress callback."""

    number: int
    stop: Callable[[], bool]
    report: Callable[[Progress], None]


TrainOne = Callable[[TrainingJob, Seat], TrainingResult]


def train_side_by_side(
    jobs: Sequence[TrainingJob],
    train_one: TrainOne,
    at_once: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Mapping[str, Progress]], None] = lambda progress: None,
) -> list[TrainingResult]:
    """Train all jobs, `at_once` at a time, and wait for them; finished runs return their existing result.

    `report` receives the latest progress by run name. An exception in the waiting thread, such as an interruption,
    is raised after all running jobs have stopped. If jobs fail, `RunFailure` at the end names their runs, or
    `TransientFailure` if a retry may help all of them; a single job raises its own exception. If `stop` ends the
    trainings, failures are not raised.
    """
    stopping, seats = threading.Event(), SimpleQueue[int]()
    progress: dict[str, Progress] = {}
    for number in range(at_once):
        seats.put(number)

    def one(job: TrainingJob) -> TrainingResult:
        """Train one job on a free seat."""
        if found := existing_result(job):
            return found
        number = seats.get()
        try:
            return train_one(job, Seat(number, stopping.is_set, lambda now: progress.update({job.config.name: now})))
        finally:
            seats.put(number)

    stopped = False
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            while not stopped and wait(futures, _POLL_SECONDS).not_done:
                report(dict(progress))
                stopped = stop()
        finally:
            # Pending jobs are cancelled; running jobs write a checkpoint.
            stopping.set()
            for future in futures:
                future.cancel()
            wait(futures)
    report(dict(progress))
    if stopped:
        return [_stopped_result(job, future) for job, future in zip(jobs, futures, strict=True)]
    return _results(jobs, futures)


def train_in_processes(jobs: Sequence[TrainingJob], stop: Callable[[], bool]) -> list[TrainingResult]:
    """Train all jobs on this machine without Ray, one process per job, and print their progress."""
    room = room_here(len(jobs))
    threads = 0 if room.gpus else max(1, cores() // room.at_once)
    shown: dict[str, Progress] = {}

    def report(progress: Mapping[str, Progress]) -> None:
        """Print a line for each run whose progress differs from the last printed one."""
        for name, now in progress.items():
            if shown.get(name) != now:
                print(f"{name}: {now}", flush=True)
        shown.update(progress)

    jobs = [replace(job, threads=threads) for job in jobs]
    return train_side_by_side(jobs, in_a_process, room.at_once, stop=stop, report=report)


def in_a_process(job: TrainingJob, seat: Seat) -> TrainingResult:
    """Train one job in a new process, on the GPU of its seat if the machine has GPUs.

    Raises the `UserError` or `RunFailure` of `train`. Raises `RunFailure` for any other exception, or if the process
    ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, job, seat.number), daemon=True)
    with _interrupts_held_back():
        process.start()
    theirs.close()
    outcome: TrainingResult | Exception | None = None
    stop_sent = 0.0
    while outcome is None:
        if not stop_sent and seat.stop():
            stop_sent = time.monotonic()
            with suppress(OSError):
                ours.send(None)
        if stop_sent and time.monotonic() - stop_sent > STOP_SECONDS:
            process.kill()
        if not ours.poll(_POLL_SECONDS):
            continue
        try:
            message = ours.recv()
        except EOFError:
            break
        if isinstance(message, Progress):
            seat.report(message)
        else:
            outcome = message
    process.join()
    if isinstance(outcome, TrainingResult):
        return outcome
    raise outcome or RunFailure(f"the training process ended with exit code {process.exitcode}")


def _child(pipe: Connection, job: TrainingJob, seat: int) -> None:
    """Entry point of a seed's process: sends progress, then the result or the exception."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    if torch.cuda.is_available():
        torch.cuda.set_device(seat % torch.cuda.device_count())

    def send(message: object) -> None:
        """Send to the parent process, if it still exists."""
        with suppress(OSError):
            pipe.send(message)

    try:
        # The pipe becomes readable when the parent sends the stop message or exits.
        send(train(job, stop=lambda: bool(received) or pipe.poll(), report=send))
    except (UserError, RunFailure) as error:
        send(error)
    except Exception as error:
        send(RunFailure(_reason(error)))


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started in this block ignore SIGINT, which a terminal sends to all; they are stopped by message."""
    # Otherwise the first process start launches the tracker, which unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _results(jobs: Sequence[TrainingJob], futures: Sequence[Future[TrainingResult]]) -> list[TrainingResult]:
    if len(jobs) == 1:
        return [futures[0].result()]
    errors = [future.exception() for future in futures]
    failed = {job.config.name: error for job, error in zip(jobs, errors, strict=True) if error}
    if failed:
        text = "; ".join(f"run {name}: {_reason(error)}" for name, error in failed.items())
        rest = "; the other seeds are trained" if len(failed) < len(jobs) else ""
        transient = all(isinstance(error, TransientFailure) for error in failed.values())
        kind = TransientFailure if transient else RunFailure
        raise kind(f"{len(failed)} of {len(jobs)} seeds failed ({text}){rest}")
    return [future.result() for future in futures]


def _stopped_result(job: TrainingJob, future: Future[TrainingResult]) -> TrainingResult:
    """Result of a job that may have been stopped, may have failed, or may never have started."""
    if future.cancelled() or future.exception():
        last = Checkpoints(job.run / "checkpoints").index().last
        return TrainingResult(last.step if last else 0, False, last.exact_match if last else 0.0)
    return future.result()


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, UserError | RunFailure) else f"{type(error).__name__}: {text}"
