"""Starts the step loop under Ray Train: one process a worker, gloo on CPUs and NCCL on GPUs.

Ray Train only launches and restarts; order, checkpoints and metrics are the loop's own.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from model.training import Progress, TrainingJob, TrainingResult
from storage.errors import RunFailure, UserError

_POLL_SECONDS = 0.5
_STOP_SECONDS = 90.0


class Board:
    """What the driver and the workers tell each other; a Ray actor."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._result: TrainingResult | None = None
        self._failure: Exception | None = None
        self._stop = False

    def report(self, progress: Progress) -> bool:
        """Take rank 0's progress; returns whether to stop."""
        self._progress = progress
        return self._stop

    def finish(self, result: TrainingResult) -> None:
        """Take the result."""
        self._result = result

    def fail(self, failure: Exception) -> None:
        """Take a failure that no retry mends."""
        self._failure = failure

    def failed(self) -> bool:
        """Whether a failure was taken."""
        return self._failure is not None

    def stop(self) -> None:
        """Ask the workers to leave a checkpoint and end."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether they were asked."""
        return self._stop

    def read(self) -> tuple[Progress | None, TrainingResult | None, Exception | None]:
        """Everything known."""
        return self._progress, self._result, self._failure


def choose_workers(asked: int) -> tuple[int, bool]:
    """Number of workers, and whether they use a GPU each: one a GPU of the cluster, else two on CPUs.

    Raises `UserError` for more workers than the cluster can hold.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    room = gpus or cpus
    if asked > room:
        raise UserError(f"workers is {asked}, the Ray cluster has room for {room}: lower workers or add nodes")
    return asked or (gpus if gpus else min(2, cpus)), gpus > 0


def launch(
    job: TrainingJob, workers: int, use_gpu: bool, report: Callable[[Progress], None] = lambda progress: None
) -> TrainingResult:
    """Train with `workers` processes and wait.

    An interruption (SIGINT, SIGTERM, a cancelled flow) lets the workers write a checkpoint and
    is then raised again. Raises `RunFailure` if workers are lost more often than can be mended.
    """
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    name = uuid.uuid4().hex
    storage = job.run / ".launch"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": _with_threads(job, workers, use_gpu), "board": board},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=3)),
    )
    failures: list[Exception] = []
    # An event, not Thread.join: a signal in mid-join makes Python 3.11 take the thread for ended.
    ended = threading.Event()
    # In a thread of its own: Ray Train then leaves this process's signal handlers alone.
    threading.Thread(target=_fit, args=(trainer, failures, ended), daemon=True).start()
    try:
        while not ended.wait(_POLL_SECONDS):
            progress, _, _ = ray.get(board.read.remote())
            if progress:
                report(progress)
    except BaseException:
        ray.get(board.stop.remote())
        ended.wait(_STOP_SECONDS)
        raise
    finally:
        if ended.is_set():
            storage.remove()
    _, result, failure = ray.get(board.read.remote())
    if failure:
        raise failure
    if result is None:
        reason = str(failures[0]).splitlines()[-1] if failures else "no worker finished"
        raise RunFailure(f"training ended early ({reason}): run the same command again, it goes on from its checkpoint")
    return result


def _fit(trainer: TorchTrainer, failures: list[Exception], ended: threading.Event) -> None:
    try:
        trainer.fit()
    except Exception as error:
        failures.append(error)
    finally:
        ended.set()


def _with_threads(job: TrainingJob, workers: int, use_gpu: bool) -> TrainingJob:
    cores = os.cpu_count() or 1
    return replace(job, threads=0 if use_gpu else max(1, cores // workers))


def _worker(config: dict[str, Any]) -> None:
    from model.training import train

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    job, board = config["job"], config["board"]
    if ray.get(board.failed.remote()):
        return
    pending: list[Any] = []

    def stop() -> bool:
        """Whether the board asks to stop."""
        # Answers of the last call, so that a step never waits for the actor.
        answer = bool(pending and ray.get(pending.pop()))
        pending.append(board.stopping.remote())
        return answer

    try:
        result = train(job, stop=stop, report=lambda progress: board.report.remote(progress))
    except (UserError, RunFailure) as error:
        ray.get(board.fail.remote(error))
        raise
    if ray.train.get_context().get_world_rank() == 0:
        ray.get(board.finish.remote(result))
