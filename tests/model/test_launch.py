"""Training on one machine opens no port to the network but Ray's own, which ask for a token."""

import ipaddress
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
import torch
import torch.distributed as dist

from model.training.job import Progress
from model.training.launchers import ray_launcher
from model.training.launchers.parallel_runs import Room
from model.training.launchers.ray_launcher import join_on_this_machine, launch
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import job_of

RANKS = 2


def open_ports(process: psutil.Process) -> list[str]:
    """Addresses at which a process listens for other machines."""
    found = [it.laddr.ip for it in process.net_connections("inet") if it.status == psutil.CONN_LISTEN]
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def _by_file(folder: str, rank: int) -> None:
    join_on_this_machine(f"{folder}/ranks", "gloo", rank, RANKS)


def _by_port(folder: str, rank: int) -> None:
    """Rank 0 listens at a port that the system chooses, so no other process can have it."""
    handed_over = dist.FileStore(f"{folder}/port", RANKS)
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, RANKS, is_master=True, wait_for_workers=False)
        handed_over.set("port", str(store.port))
    else:
        store = dist.TCPStore("127.0.0.1", int(handed_over.get("port")), RANKS, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)


def _ports_of_rank(join: Callable[[str, int], None], folder: str, rank: int) -> tuple[float, list[str]]:
    """The sum over all ranks of their numbers, and the ports that are open meanwhile."""
    join(folder, rank)
    value = torch.tensor(float(rank))
    dist.all_reduce(value)
    ports = open_ports(psutil.Process())
    dist.barrier()
    dist.destroy_process_group()
    return value.item(), ports


def test_ranks_of_one_machine_meet_without_a_port_that_is_open_to_others(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(RANKS) as pool:
        # Torch's own way is here to show that an open port would be seen.
        for join, is_open in ((_by_file, False), (_by_port, True)):
            asked = [(join, str(tmp_path), rank) for rank in range(RANKS)]
            found = pool.starmap_async(_ports_of_rank, asked, chunksize=1).get(timeout=120)
            assert [value for value, _ in found] == [1.0, 1.0]
            assert any(ports for _, ports in found) == is_open


def test_workers_of_a_private_ray_meet_through_a_file(ray_instance: int) -> None:
    namespace = ray.get_runtime_context().namespace
    assert ray_launcher._torch_config(namespace, "gloo").backend_cls is ray_launcher._FileBackend
    assert ray_launcher._torch_config("another", "gloo").backend_cls is not ray_launcher._FileBackend


@pytest.mark.slow
def test_a_training_of_a_private_ray_opens_no_port_beside_ray_s(
    small: Built, tmp_path: Path, ray_instance: int
) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING.model_copy(update={"steps": 500}))
    seen = dict[int, list[str]]()

    def look(progress: Progress) -> None:
        """At all of Ray's workers, while they train."""
        for process in psutil.Process().children(recursive=True):
            name = " ".join(process.cmdline())
            if "RayTrainWorker" in name or "ray::Board" in name:
                seen[process.pid] = open_ports(process)

    result = launch(job, Room(1, RANKS, 0.0), look, stop=lambda: len(seen) > RANKS)
    assert result.step > 0
    # Board is a process of Ray's that knows nothing of torch.
    assert len(seen) == RANKS + 1
    assert len({len(ports) for ports in seen.values()}) == 1
