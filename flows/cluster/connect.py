"""Joins an existing Ray cluster, or fails with a one-line error; leaves nothing on the cluster.

For a wrong address, Ray retries for two minutes and then ends the process. Therefore the head is contacted first.
The driver sends this package's code to the nodes, so they run the same version as this process.
"""

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flows.cluster.local import ray_in_thread
from storage.errors import RunFailure, UserError
from storage.places.place import Location

_HEAD_SECONDS = 10.0
# A node may have to start its first worker, which imports its dependencies.
_NODE_SECONDS = 90.0
TOKEN = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
_PACKAGES = ("flows", "model", "pipelines", "storage")
# Set in a driver that runs as a Ray job, which already has the job's code.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def code_environment() -> dict[str, Any]:
    """A runtime environment that provides this project's packages on every node."""
    repository = Path(__file__).parents[2]
    return {"py_modules": [str(repository / name) for name in _PACKAGES], "excludes": ["__pycache__", "*.pyc"]}


@contextmanager
def joined(address: str, workspace: Location | None) -> Iterator[None]:
    """Connect to the cluster at `address` as a driver for the block.

    Raises `UserError` for an invalid address, a wrong token, another Ray version or a node that cannot see the
    workspace, and `RunFailure` if the head does not respond.
    """
    head = check_address(address)
    environment = {} if _JOB_CONFIG in os.environ else code_environment()
    start = partial(ray.init, address=head, runtime_env=environment, logging_level="ERROR", log_to_driver=False)

    def explained(error: Exception) -> RunFailure:
        return RunFailure(
            f"this machine cannot join the Ray cluster at {address} ({_first_line(error)}): run the command on one of "
            "its nodes, or submit it as a job with 'numerate submit'"
        )

    with ray_in_thread(start, explained):
        if workspace:
            _check_workspace(workspace)
        yield


def check_address(address: str) -> str:
    """Check within seconds that the head responds, accepts the token, and has the same Ray version.

    Returns its host:port. Raises the same errors as `joined`.
    """
    head = _host_and_port(address)
    try:
        with init_grpc_channel(head) as channel:
            reply = NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=_HEAD_SECONDS)
    except AuthenticationError as error:
        raise UserError(f"ray {address!r} requires a token, but none is set: {TOKEN}") from error
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise UserError(f"ray {address!r} rejects the token: {TOKEN}") from error
        raise RunFailure(
            f"no Ray head node responds at {address} ({error.code().name.lower().replace('_', ' ')}): check host and "
            "port ('ray start --head' prints them), and that this machine can reach the port"
        ) from error
    if reply.ray_version != ray.__version__:
        raise UserError(
            f"ray {address!r} runs Ray {reply.ray_version}, this machine has {ray.__version__}: install the same "
            "version on both"
        )
    return head


def _host_and_port(address: str) -> str:
    """The address as host:port; `auto` means the cluster of this machine's own node."""
    scheme, separator, rest = address.partition("://")
    if separator:
        host = rest.partition(":")[0] or "HEAD"
        raise UserError(
            f"ray {address!r}: the address must be host:port, not {scheme}://: run the command on a node of the "
            f"cluster with --ray auto, or submit it with 'numerate submit … --address http://{host}:8265'"
        )
    try:
        head = canonicalize_bootstrap_address(address)
    except Exception as error:
        raise UserError(f"ray {address!r} is not an address: use host:port of the head node, or 'auto'") from error
    if head is None:
        raise UserError(
            f"ray {address!r}: no Ray node runs on this machine: set --ray to host:port of the head node, or omit it "
            "for a private Ray instance"
        )
    return str(head)


def _check_workspace(workspace: Location) -> None:
    """Raise `UserError` with the name of a node that cannot see the workspace's files; runs one probe per node."""
    marker = workspace / f".visible-{uuid.uuid4().hex}"
    marker.write(b"")
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        # All probes start before the first result is awaited.
        probes = [(node, _probe_on(node["NodeID"], marker)) for node in nodes]
        for node, probe in probes:
            if problem := _problem(probe):
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                raise UserError(
                    f"workspace {workspace} cannot be used on node {name}: {problem}; choose a --workspace that all "
                    "nodes share"
                )
    finally:
        marker.remove()


def _probe_on(node: str, marker: Location) -> ray.ObjectRef:
    def probe() -> str:
        """The problem of this node; empty if there is none."""
        if not marker.exists():
            return "files written on this machine do not appear on the node"
        return "" if sys.version_info[:2] == version else f"it has Python {sys.version.split()[0]}"

    version = sys.version_info[:2]
    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node)(probe).remote()


def _problem(probe: ray.ObjectRef) -> str:
    try:
        return str(ray.get(probe, timeout=_NODE_SECONDS))
    except GetTimeoutError:
        return f"it started no worker within {_NODE_SECONDS:.0f} s"
    except RayError as error:
        return f"a worker failed ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    # The last line describes a worker's exception, the first line any other.
    is_of_worker = str(error).startswith("\x1b") or "Traceback" in str(error)
    return f"{type(error).__name__}: {lines[-1 if is_of_worker else 0][:200]}"
