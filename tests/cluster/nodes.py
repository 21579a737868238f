"""A real Ray cluster on this machine: `ray start` for each node, with token authentication.

No process outlives the cluster.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from tests.processes import ROOT, command_line, free_port, processes_with, wait_for

_START_SECONDS = 180.0
# Ray gives up a node that has not registered after 30 seconds, which happens on a busy machine.
_GIVEN_UP = "timed out during startup"
_END_SECONDS = 10.0
_OBJECT_STORE_BYTES = 80 << 20
# Every process of the cluster has this environment variable, by which it is identified.
_CLUSTER_VARIABLE = "NUMERATE_CLUSTER"
# Ray Train registers its demands with this actor, which lives as long as the cluster.
_PERMANENT_ACTORS = {"_AutoscalingCoordinatorActor"}
# The cluster notices a lost node within about five seconds instead of thirty.
_HEALTH = {"health_check_period_ms": 1_000, "health_check_failure_threshold": 5, "health_check_timeout_ms": 5_000}


@dataclass
class Node:
    """One process of `ray start --block`."""

    number: int
    process: subprocess.Popen[bytes]
    folder: Path
    words: list[str]
    cpus: int

    def raylet(self) -> int:
        """Process id of the node's raylet."""
        for child in psutil.Process(self.process.pid).children():
            if command_line(child).partition(" ")[0].endswith("raylet/raylet"):
                return child.pid
        raise AssertionError(f"node {self.number} has no raylet")

    def workers(self) -> list[psutil.Process]:
        """The node's worker processes."""
        return psutil.Process(self.raylet()).children()

    def kill(self) -> None:
        """Kill the raylet, which simulates the loss of a machine; its workers end with it."""
        os.kill(self.raylet(), signal.SIGKILL)


@dataclass
class Nodes:
    """A head node and its worker nodes."""

    folder: Path
    gcs: str
    dashboard: str
    token: Path
    name: str
    head: Node = field(init=False)
    workers: list[Node] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command that joins the cluster: it has the token and this source tree."""
        return {
            **os.environ,
            # As in a shell in which the virtual environment is active.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            _CLUSTER_VARIABLE: self.name,
        }

    def start_head(self, cpus: int, *, jobs: bool) -> None:
        """Start the head node, with the job server if `jobs` is set."""
        words = ["--head", "--port", self.gcs.rpartition(":")[2], f"--include-dashboard={str(jobs).lower()}"]
        words += ["--ray-client-server-port", str(free_port())]
        words += ["--dashboard-port", self.dashboard.rpartition(":")[2], "--system-config", json.dumps(_HEALTH)]
        self.head = self._start(0, words, cpus)

    def add_worker(self, cpus: int) -> Node:
        """Start one more worker node."""
        node = self._start(len(self.workers) + 1, ["--address", self.gcs], cpus)
        self.workers.append(node)
        return node

    def _start(self, number: int, words: list[str], cpus: int) -> Node:
        # The path is short because the path of a socket has at most 107 characters.
        folder = self.folder / str(number)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
        command += ["--node-ip-address", f"127.0.0.{number + 1}", "--num-cpus", str(cpus), "--temp-dir", str(folder)]
        command += ["--object-store-memory", str(_OBJECT_STORE_BYTES), "--num-gpus", "0", "--disable-usage-stats"]
        for name in ("object-manager-port", "node-manager-port", "dashboard-agent-listen-port", "metrics-export-port"):
            command += [f"--{name}", str(free_port())]
        # A node has no source tree: each driver uploads it.
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        with open(self.folder / f"{number}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        return Node(number, process, folder, words, cpus)

    def log(self) -> str:
        """The last output of each `ray start`."""
        return "\n".join(path.read_text()[-500:] for path in sorted(self.folder.glob("*.log")))

    def wait(self, nodes: int) -> None:
        """Wait until exactly this number of nodes is alive."""

        def reached() -> bool:
            self._retry()
            return self.alive() == nodes

        try:
            wait_for(reached, _START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{self.alive()} of {nodes} nodes: {self.log()}") from error

    def _retry(self) -> None:
        """Start the workers again that Ray gave up."""
        for node in self.workers:
            if node.process.poll() is None or _GIVEN_UP not in (self.folder / f"{node.number}.log").read_text():
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.process.pid, signal.SIGKILL)
            node.process = self._start(node.number, node.words, node.cpus).process

    def alive(self) -> int:
        """The number of nodes that the head counts as alive; 0 if no head responds."""
        try:
            nodes = self._call("NodeInfo", "GetAllNodeInfo").node_info_list
        except grpc.RpcError:
            return 0
        return sum(node.state == node.ALIVE for node in nodes)

    def running(self) -> list[str]:
        """Drivers, actors and placement groups that still exist, without Ray's permanent ones."""
        jobs = self._call("JobInfo", "GetAllJobInfo").job_info_list
        actors = self._call("ActorInfo", "GetAllActorInfo").actor_table_data
        groups = self._call("PlacementGroupInfo", "GetAllPlacementGroup").placement_group_table_data
        return [
            *(f"driver {job.entrypoint}" for job in jobs if not job.is_dead),
            *(
                f"actor {actor.class_name}"
                for actor in actors
                if actor.state != actor.DEAD and actor.class_name not in _PERMANENT_ACTORS
            ),
            *(f"placement group {group.name}" for group in groups if group.state != group.REMOVED),
        ]

    def _call(self, service: str, call: str) -> Any:
        """The response of the head; it does not depend on this process's Ray settings."""
        stub = getattr(gcs_service_pb2_grpc, f"{service}GcsServiceStub")
        with grpc.insecure_channel(self.gcs) as channel:
            request = getattr(gcs_service_pb2, f"{call}Request")()
            metadata = [("authorization", f"Bearer {self.token.read_text()}")]
            return getattr(stub(channel), call)(request, timeout=5, metadata=metadata)

    def end(self) -> None:
        """Stop every process of the cluster: first with SIGTERM, then with SIGKILL."""
        for node in [*self.workers, self.head]:
            node.process.terminate()
        for node in [*self.workers, self.head]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.process.wait(_END_SECONDS)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for node in [*self.workers, self.head]:
            node.process.wait()

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Processes of this cluster and of its commands, with `title` in their command line, by process id."""
        processes = processes_with(_CLUSTER_VARIABLE, self.name)
        return [process for process in processes if title in command_line(process)]


@contextmanager
def cluster(cpus: int = 1, workers: int = 2, *, head_cpus: int = 0, jobs: bool = False) -> Iterator[Nodes]:
    """A head node and `workers` worker nodes of `cpus` CPUs each."""
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
