"""Runs the step loop under Ray Train: one process per worker, gloo on CPUs and NCCL on GPUs.

Ray Train only starts and restarts the workers. The step loop manages data order, checkpoints and metrics.
"""

import logging
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from model.config.training import STOP_SECONDS, TrainingSpec
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.launchers.parallel_runs import Room, gpu_memory, room_for
from storage.errors import RunFailure, TransientFailure, UserError
from storage.machine import PRIVATE
from storage.places.files import arrow_files
from storage.places.place import Location

_POLL_SECONDS = 0.5
# Maximum number of worker failures; an autoscaling cluster loses workers regularly.
_FAILURES, _ELASTIC_FAILURES = 3, 100


class Board:
    """Ray actor that passes messages between the driver and the workers."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._result: TrainingResult | None = None
        self._failure: Exception | None = None
        self._stop = False

    def report(self, progress: Progress) -> None:
        """Store rank 0's progress."""
        self._progress = progress

    def finish(self, result: TrainingResult) -> None:
        self._result = result

    def fail(self, failure: Exception) -> None:
        """Store a failure that a retry cannot repair."""
        self._failure = failure

    def stop(self) -> None:
        """Request that the workers write a checkpoint and stop."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stop

    def read(self) -> tuple[Progress | None, TrainingResult | None, Exception | None]:
        """Progress, result and failure, as far as they exist."""
        return self._progress, self._result, self._failure


@dataclass
class _OnThisMachine(TorchConfig):
    """For workers on one machine: rendezvous through a file, communication over the loopback interface.

    Torch's default is a port that is open to the network, without authentication.
    """

    @property
    def backend_cls(self) -> type[Any]:
        return _FileBackend


def _torch_config(namespace: str, backend: str) -> TorchConfig:
    """How the workers of a Ray instance find each other; all workers of a private one are on this machine."""
    return (_OnThisMachine if namespace == PRIVATE else TorchConfig)(backend=backend)


class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        ranks = len(worker_group)
        with tempfile.TemporaryDirectory(prefix="numerate-ranks-") as folder:
            ray.get(
                [
                    worker_group.execute_single_async(
                        rank, join_on_this_machine, f"{folder}/ranks", backend_config.backend, rank, ranks
                    )
                    for rank in range(ranks)
                ]
            )


def join_on_this_machine(file: str, backend: str, rank: int, ranks: int) -> None:
    """Join a process group on this machine; each group needs a new `file`."""
    (loopback,) = (name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    _setup_torch_process_group(backend, rank, ranks, f"file://{file}")


def choose_room(spec: TrainingSpec, seeds: int = 1) -> Room:
    """The resources of each of `seeds` trainings on the cluster, and how many run in parallel.

    By default, a single training uses one worker per GPU, or two workers without GPUs. Raises `UserError` if the
    cluster is too small for `workers`, or, for an elastic training, for `min_workers`.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    units = gpus or cpus
    for name, required in (("min_workers", spec.min_workers), ("workers", 0 if spec.min_workers else spec.workers)):
        if required > units:
            raise UserError(
                f"{name} is {required}, but the Ray cluster has room for {units}: lower {name} or add nodes"
            )
    alone = spec.workers or max(spec.min_workers, gpus if gpus else min(2, cpus))
    required = max(spec.workers, spec.min_workers)
    return room_for(seeds, alone, required=required, cpus=cpus, gpus=gpus, gpu_bytes=gpu_memory())


def launch(
    job: TrainingJob,
    room: Room,
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train with the workers that `room` allows, and wait for the result.

    With `min_workers`, Ray Train continues with fewer workers after a loss and adds workers when resources return,
    each time from the last checkpoint. On `stop` or an interruption (SIGINT, SIGTERM, a cancelled flow) the workers
    write a checkpoint; an interruption is then raised again. Raises `TransientFailure` if workers fail more often
    than the limit allows, and `UserError` if another process trains this run.
    """
    storage = job.run / ".launch"
    with storage.exclusive(f"run {job.config.name!r}"):
        return _launch(job, room, storage, report, stop)


def _launch(
    job: TrainingJob, room: Room, storage: Location, report: Callable[[Progress], None], stop: Callable[[], bool]
) -> TrainingResult:
    # The actor runs on this process's node, like Ray Train's controller, because other nodes may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    name = uuid.uuid4().hex
    least = min(job.config.training.min_workers, room.workers)
    # Workers read the controller's state from this storage, so all nodes need access to it.
    files, path = arrow_files(storage)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "sharing": 0 if room.gpus else room.at_once, "board": board},
        torch_config=_torch_config(ray.get_runtime_context().namespace, "nccl" if room.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(least, room.workers) if least else room.workers,
            use_gpu=room.gpus > 0,
            resources_per_worker={"CPU": 1, "GPU": room.gpus} if 0 < room.gpus < 1 else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=_ELASTIC_FAILURES if least else _FAILURES),
        ),
    )
    failures: list[Exception] = []
    # An event instead of Thread.join: after a signal during join, Python 3.11 treats the thread as ended.
    ended = threading.Event()
    # In a separate thread, Ray Train does not replace this process's signal handlers.
    threading.Thread(target=_fit, args=(trainer, failures, ended), daemon=True).start()
    try:
        while not ended.wait(_POLL_SECONDS) and not stop():
            progress, _, _ = ray.get(board.read.remote())
            if progress:
                report(progress)
        if not ended.is_set():
            ray.get(board.stop.remote())
            ended.wait(STOP_SECONDS)
    except BaseException:
        ray.get(board.stop.remote())
        ended.wait(STOP_SECONDS)
        raise
    finally:
        if ended.is_set():
            storage.remove()
    _, result, failure = ray.get(board.read.remote())
    if failure:
        raise failure
    if result is None:
        reason = str(failures[0]).splitlines()[-1] if failures else "no worker finished"
        raise TransientFailure(
            f"training ended early ({reason}): run the same command again to continue from the last checkpoint"
        )
    return result


def _fit(trainer: TorchTrainer, failures: list[Exception], ended: threading.Event) -> None:
    try:
        trainer.fit()
    except Exception as error:
        failures.append(error)
    finally:
        ended.set()


def _worker(config: dict[str, Any]) -> None:
    from model.training.trainer import train

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    job, board = config["job"], config["board"]
    if config["sharing"]:
        job = replace(job, threads=_threads(config["sharing"]))
    _, _, failure = ray.get(board.read.remote())
    if failure:
        return
    pending: list[Any] = []

    def stop() -> bool:
        """Whether a stop was requested."""
        # Uses the reply to the previous call, so that a step never waits for the actor.
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


def _threads(sharing: int) -> int:
    """CPU threads of this worker if `sharing` trainings share its node; nodes may have different CPU counts."""
    here = ray.get_runtime_context().get_node_id()
    cpus = next((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == here), 1)
    return max(1, int(cpus) // (ray.train.get_context().get_local_world_size() * sharing))
