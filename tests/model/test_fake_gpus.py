"""What is decided by the number and kind of GPUs, on machines that have none: the devices are made up."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.config.training import TrainingSpec
from model.network.compilation import compiles
from model.training.hardware import peak_flops, precision_of
from model.training.job import TrainingResult
from model.training.launchers import parallel_runs as seeds
from model.training.launchers import ray_launcher as launch
from model.training.launchers.parallel_runs import Room
from storage.errors import UserError
from storage.places.disk import LocalLocation

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """So many GPUs of 80 GiB."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30))
    return count


@pytest.mark.parametrize(
    ("gpus", "jobs", "room"),
    [(4, 6, Room(4, 1, 1.0)), (1, 3, Room(3, 1, 1 / 3)), (1, 40, Room(8, 1, 1 / 8)), (1, 1, Room(1, 1, 1.0))],
    indirect=["gpus"],
)
def test_jobs_of_one_worker_share_the_gpus_of_this_machine(
    gpus: int, jobs: int, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "cores", lambda: 16)
    assert seeds.room_here(jobs) == room


@pytest.mark.parametrize("gpus", [3], indirect=True)
@pytest.mark.parametrize(("seat", "device"), [(0, 0), (2, 2), (4, 1)])
def test_a_process_of_a_seed_trains_on_the_gpu_of_its_seat(
    gpus: int, seat: int, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, result = list[int](), TrainingResult(1, True, 1.0)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(seeds.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(seeds, "train", lambda job, **others: result)
    sent = list[object]()
    seeds._child(SimpleNamespace(send=sent.append, poll=lambda: False), None, seat)  # type: ignore[arg-type]
    assert (chosen, sent) == ([device], [result])


@pytest.mark.parametrize(
    ("values", "count", "seeds", "room"),
    [
        ({}, 4, 1, Room(1, 4, 1.0)),
        ({"workers": 2}, 4, 1, Room(1, 2, 1.0)),
        ({"workers": 4, "min_workers": 2}, 2, 1, Room(1, 4, 1.0)),
        ({}, 4, 2, Room(2, 2, 1.0)),
        ({}, 1, 5, Room(5, 1, 1 / 5)),
    ],
)
@pytest.mark.parametrize("gpus", [1], indirect=True)
def test_a_cluster_with_gpus_has_one_worker_on_each(
    gpus: int, values: dict[str, int], count: int, seeds: int, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.ray, "cluster_resources", lambda: {"GPU": float(count), "CPU": 16.0})
    assert launch.choose_room(TrainingSpec(**values), seeds) == room
    with pytest.raises(UserError, match=f"workers is {count + 1}, but the Ray cluster has room for {count}"):
        launch.choose_room(TrainingSpec(workers=count + 1))


class Actor:
    """An object whose methods are called as those of a Ray actor."""

    def __init__(self, of: object) -> None:
        self._of = of

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._of, name))


@pytest.mark.parametrize(
    ("room", "backend", "resources"),
    [
        (Room(1, 4, 1.0), "nccl", {"GPU": 1}),
        (Room(4, 1, 0.25), "nccl", {"CPU": 1, "GPU": 0.25}),
        (Room(1, 2, 0.0), "gloo", {"CPU": 1}),
    ],
)
def test_ray_train_receives_the_chosen_resources(
    room: Room, backend: str, resources: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    asked, result = dict[str, Any](), TrainingResult(1, True, 1.0)

    class Trainer:
        def __init__(self, worker: object, **others: Any) -> None:
            asked.update(others)

        def fit(self) -> None:
            asked["train_loop_config"]["board"].finish.remote(result)

    ray = SimpleNamespace(
        remote=lambda **options: lambda kind: SimpleNamespace(remote=lambda: Actor(kind())),
        get=lambda value: value,
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "0" * 56, namespace="a cluster's"),
    )
    monkeypatch.setattr(launch, "ray", ray)
    monkeypatch.setattr(launch, "TorchTrainer", Trainer)
    job = SimpleNamespace(
        run=LocalLocation(tmp_path), config=SimpleNamespace(name="run", training=TrainingSpec()), threads=0
    )
    assert launch.launch(job, room) == result  # type: ignore[arg-type]
    scaling = asked["scaling_config"]
    assert (scaling.num_workers, asked["torch_config"].backend) == (room.workers, backend)
    assert scaling.use_gpu == (room.gpus > 0)
    assert {name: amount for name, amount in scaling._resources_per_worker_not_none.items() if amount} == resources
    # Threads are only shared out among trainings on CPUs.
    assert asked["train_loop_config"]["sharing"] == (0 if room.gpus else room.at_once)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12)],
)
def test_the_peak_of_a_gpu_is_its_data_sheets(name: str, peak: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(CUDA, torch.bfloat16) == peak


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_computes_in_bfloat16_where_it_can_and_layers_are_compiled_where_there_is_a_compiler(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has)
    assert precision_of("auto", CUDA) is (torch.bfloat16 if has else torch.float32)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if has else None)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    assert compiles(TrainingSpec(), CUDA) == has
    if not has:
        with pytest.raises(UserError, match="compile is on, but no"):
            compiles(TrainingSpec(compile="on"), CUDA)
