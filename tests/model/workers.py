"""Trains in several processes over gloo, without Ray."""

import os
import socket

import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from model.training import TrainingJob, train


class Countdown:
    """Says stop from the given call on."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self) -> bool:
        self.calls -= 1
        return self.calls < 0


def train_with(job: TrainingJob, ranks: int, calls: int = 10**9) -> None:
    """Train with `ranks` processes, in this one if it is alone; stopped at the `calls`-th question whether to stop."""
    if ranks == 1:
        train(job, stop=Countdown(calls))
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_rank, (ranks, port, job, calls), nprocs=ranks)


def _rank(rank: int, ranks: int, port: int, job: TrainingJob, calls: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    train(job, stop=Countdown(calls))
    dist.destroy_process_group()
