"""Trains in several processes over gloo, without Ray."""

import os
import socket
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from model.training.job import TrainingJob
from model.training.trainer import train


class Countdown:
    """Says stop from the given call on."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self) -> bool:
        self.calls -= 1
        return self.calls < 0


class Ranks(ExitStack):
    """Processes that train one job after the other: to start them takes longer than a test trains."""

    def __init__(self) -> None:
        super().__init__()
        self._started = dict[int, ProcessPoolExecutor]()

    def train(self, job: TrainingJob, ranks: int, calls: int = 10**9) -> None:
        """With `ranks` processes, in this one if it is alone; stopped at the `calls`-th question whether to stop."""
        if ranks == 1:
            train(job, stop=Countdown(calls))
            return
        if ranks not in self._started:
            pool = ProcessPoolExecutor(ranks, multiprocessing.get_context("spawn"))
            self._started[ranks] = self.enter_context(pool)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Each rank waits for all others, so no process takes two of them.
        asked = [self._started[ranks].submit(_rank, rank, ranks, port, job, calls) for rank in range(ranks)]
        for each in asked:
            each.result()


def train_with(job: TrainingJob, ranks: int) -> None:
    """Train with `ranks` processes of its own."""
    with Ranks() as started:
        started.train(job, ranks)


def _rank(rank: int, ranks: int, port: int, job: TrainingJob, calls: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        train(job, stop=Countdown(calls))
    finally:
        # Those that wait for a rank that failed hear of it.
        dist.destroy_process_group()
