"""The processes of a training: `torch.distributed`, with a single process as the simplest case."""

import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Index of this process; 0 writes checkpoints and metrics."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process calls this function."""
    if dist.is_initialized():
        dist.barrier()


def add_up(values: Tensor) -> Tensor:
    """Sum `values` over all processes, in place; returns `values`."""
    if ranks() > 1:
        dist.all_reduce(values)
    return values
