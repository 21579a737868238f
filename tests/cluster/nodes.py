"""Real Ray nodes on this machine, each started as a person starts it, with tokens on; none outlives its cluster."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

_POLL_SECONDS = 0.1
_START_SECONDS = 90.0
_END_SECONDS = 10.0
_OBJECT_STORE_BYTES = 80 << 20
# Every process of the cluster carries this name in its environment, so that all can be found again.
_MARK = "NUMERATE_CLUSTER"
# Ray Train registers its demands with it.
_RAYS_OWN = {"_AutoscalingCoordinatorActor"}
# A node that is lost is missed within some five seconds, not thirty.
_HEALTH = {"health_check_period_ms": 1_000, "health_check_failure_threshold": 5, "health_check_timeout_ms": 5_000}


@dataclass
class Node:
    """One `ray start --block`."""

    number: int
    process: subprocess.Popen[bytes]
    folder: Path

    def raylet(self) -> int:
        """The node's raylet."""
        for pid, words in _children(self.process.pid):
            if words[0].endswith(b"raylet/raylet"):
                return pid
        raise AssertionError(f"node {self.number} has no raylet")

    def works_on(self, title: str) -> bool:
        """Whether one of its workers has `title` in its name."""
        return any(title.encode() in words[0] for _, words in _children(self.raylet()))

    def started(self, pid: int) -> bool:
        """Whether a process is one of its workers."""
        return any(child == pid for child, _ in _children(self.raylet()))

    def kill(self) -> None:
        """SIGKILL for the raylet, as when a machine is lost; its workers end by that."""
        os.kill(self.raylet(), signal.SIGKILL)

    def leave(self) -> None:
        """End the node in order."""
        self.process.terminate()
        self.process.wait(_END_SECONDS)


@dataclass
class Nodes:
    """A head and what joined it."""

    folder: Path
    gcs: str
    dashboard: str
    token: Path
    mark: str
    head: Node = field(init=False)
    workers: list[Node] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to join: the token, and our code."""
        return {
            **os.environ,
            # As where `ray start` is typed in an environment that is active.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            _MARK: self.mark,
        }

    def start_head(self, cpus: int, *, jobs: bool) -> None:
        """The head, with the server for jobs if they are wanted."""
        words = ["--head", "--port", self.gcs.rpartition(":")[2], f"--include-dashboard={str(jobs).lower()}"]
        words += ["--ray-client-server-port", str(free_port())]
        words += ["--dashboard-port", self.dashboard.rpartition(":")[2], "--system-config", json.dumps(_HEALTH)]
        self.head = self._start(0, words, cpus)

    def add_worker(self, cpus: int) -> Node:
        """One node more."""
        node = self._start(len(self.workers) + 1, ["--address", self.gcs], cpus)
        self.workers.append(node)
        return node

    def _start(self, number: int, words: list[str], cpus: int) -> Node:
        # Short: the path of a socket has 107 characters at most.
        folder = self.folder / str(number)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
        command += ["--node-ip-address", f"127.0.0.{number + 1}", "--num-cpus", str(cpus), "--temp-dir", str(folder)]
        command += ["--object-store-memory", str(_OBJECT_STORE_BYTES), "--num-gpus", "0", "--disable-usage-stats"]
        for name in ("object-manager-port", "node-manager-port", "dashboard-agent-listen-port", "metrics-export-port"):
            command += [f"--{name}", str(free_port())]
        # A node is told nothing of our code: whoever comes brings it.
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        with open(self.folder / f"{number}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        return Node(number, process, folder)

    def log(self) -> str:
        """The last that each `ray start` said."""
        return "\n".join(path.read_text()[-500:] for path in sorted(self.folder.glob("*.log")))

    def wait(self, nodes: int) -> None:
        """Until so many nodes are alive."""
        until = time.monotonic() + _START_SECONDS
        while (alive := self.alive()) != nodes:
            assert time.monotonic() < until, f"{alive} of {nodes} nodes: {self.log()}"
            time.sleep(_POLL_SECONDS)

    def alive(self) -> int:
        """Nodes that the head counts as alive; 0 where no head answers."""
        try:
            found = self._ask("NodeInfo", "GetAllNodeInfo").node_info_list
        except grpc.RpcError:
            return 0
        return sum(node.state == node.ALIVE for node in found)

    def left(self) -> list[str]:
        """Drivers, actors and placement groups that are still there, but for what Ray itself keeps once a cluster."""
        jobs = self._ask("JobInfo", "GetAllJobInfo").job_info_list
        actors = self._ask("ActorInfo", "GetAllActorInfo").actor_table_data
        groups = self._ask("PlacementGroupInfo", "GetAllPlacementGroup").placement_group_table_data
        return [
            *(f"driver {job.entrypoint}" for job in jobs if not job.is_dead),
            *(
                f"actor {actor.class_name}"
                for actor in actors
                if actor.state != actor.DEAD and actor.class_name not in _RAYS_OWN
            ),
            *(f"placement group {group.name}" for group in groups if group.state != group.REMOVED),
        ]

    def _ask(self, service: str, call: str) -> Any:
        """The head's answer, to whatever environment asks."""
        stub = getattr(gcs_service_pb2_grpc, f"{service}GcsServiceStub")
        with grpc.insecure_channel(self.gcs) as channel:
            request = getattr(gcs_service_pb2, f"{call}Request")()
            metadata = [("authorization", f"Bearer {self.token.read_text()}")]
            return getattr(stub(channel), call)(request, timeout=5, metadata=metadata)

    def end(self) -> None:
        """End every process of the cluster, in order where it can be, and surely."""
        for node in [*self.workers, self.head]:
            node.process.terminate()
        for node in [*self.workers, self.head]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.process.wait(_END_SECONDS)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in [*self.workers, self.head]:
            node.process.wait()

    def processes(self, title: str = "") -> list[int]:
        """Processes of this cluster, and of those who use it, with `title` in their command line."""
        mark, found = f"{_MARK}={self.mark}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes() and title.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return sorted(found)


def _children(parent: int) -> list[tuple[int, list[bytes]]]:
    """The processes that `parent` started, with their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append((int(folder.name), (folder / "cmdline").read_bytes().split(b"\0")))
    return found


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def cluster(cpus: int = 1, workers: int = 2, *, head_cpus: int = 0, jobs: bool = False) -> Iterator[Nodes]:
    """A head and `workers` other nodes, with so many CPUs each."""
    folder = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    nodes = Nodes(folder, f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", token, uuid.uuid4().hex)
    try:
        nodes.start_head(head_cpus, jobs=jobs)
        for _ in range(workers):
            nodes.add_worker(cpus)
        yield nodes
    finally:
        nodes.end()
        shutil.rmtree(folder, ignore_errors=True)
