"""Checks of torch, Ray and Prefect for `numerate doctor`: imports, GPUs, starts and ports."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flows.common.progress import human
from flows.diagnostics.machine_checks import Check, Finding, has_nvidia
from flows.server.app import answers, response_of
from flows.server.settings import configured_api
from storage.workspace import Workspace

_IMPORT_SECONDS, _START_SECONDS = 120.0, 180.0
_SHARED_MEMORY = Path("/dev/shm")
# Size of Ray's object store, as set in `flows.common.engines`.
_STORE_BYTES = 256 << 20
PREFECT_PORT, DASHBOARD_PORT, HEAD_PORT = 4200, 8265, 6379

_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "",
                  "gpus": [[gpu.name, gpu.total_memory] for gpu in gpus]}))
"""
_START_RAY = """
import ray
from flows.common.engines import ray_session
with ray_session() as cpus:
    assert ray.get(ray.remote(lambda: 42).remote()) == 42
print(cpus)
"""
# A head that rejects the token is also a running head.
_CHECK_HEAD = """
from flows.cluster.connect import check_address
from storage.errors import UserError
try:
    check_address("127.0.0.1:{port}")
    print("used by the head node of a Ray cluster")
except UserError as error:
    print(f"used by the head node of a Ray cluster: {{error}}")
"""
# The project's own server, started as every command starts it.
_START_PREFECT = """
import os, sys
from pathlib import Path
from flows.server.app import PrefectServer
from storage.errors import RunFailure
home = Path(os.environ["PREFECT_HOME"])
try:
    server = PrefectServer(home)
except RunFailure:
    sys.exit((home / "server.log").read_text().strip().rpartition("\\n")[2] or "it ended without any output")
print(server.api_url)
server.stop()
"""


def check_gpu(workspace: Workspace) -> Finding:
    """Whether torch can be imported and sees the GPUs of this machine."""
    succeeded, line = _python(_TORCH, _IMPORT_SECONDS)
    if not succeeded:
        return Finding("problem", f"torch cannot be imported ({line})", "run: pip install --force-reinstall torch")
    torch = json.loads(line)
    if torch["gpus"]:
        gpus = ", ".join(f"{name} with {human(size)}B" for name, size in torch["gpus"])
        return Finding("ok", f"{gpus}; torch {torch['version']}")
    if has_nvidia():
        built = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built for CPUs only"
        remedy = "install a build of torch that matches the driver, see https://pytorch.org/get-started/locally"
        return Finding("warning", f"a GPU exists, but torch {torch['version']} ({built}) cannot use it", remedy)
    return Finding("ok", f"none, training uses the CPU; torch {torch['version']}")


def check_ray(workspace: Workspace) -> Finding:
    """Whether Ray can be imported and has enough shared memory."""
    succeeded, line = _python("import ray; print(ray.__version__)", _IMPORT_SECONDS)
    if not succeeded:
        return Finding("problem", f"cannot be imported ({line})", "run: pip install 'ray[default,train]'")
    if _SHARED_MEMORY.exists() and (size := shutil.disk_usage(_SHARED_MEMORY).free) < _STORE_BYTES:
        text = f"{line}, {_SHARED_MEMORY} has {human(size)}B free, Ray needs {human(_STORE_BYTES)}B and uses the disk"
        remedy = "give the container more shared memory, for example: docker run --shm-size=1g"
        return Finding("warning", text, remedy)
    return Finding("ok", line)


def check_prefect(workspace: Workspace) -> Finding:
    """Whether Prefect and its server can be imported, and whether the configured server responds."""
    succeeded, line = _python("import prefect, prefect.server.api.server; print(prefect.__version__)", _IMPORT_SECONDS)
    if not succeeded:
        remedy = "run: pip install 'prefect>=3.8.8,<3.9' 'fastapi>=0.139,<0.151'"
        return Finding("problem", f"cannot be imported ({line})", remedy)
    if not (url := configured_api()):
        return Finding("ok", f"{line}, no server is configured: commands start a temporary one if needed")
    if not answers(url):
        remedy = "start that server, or use none: unset PREFECT_API_URL (or api.url in Prefect's files or profile)"
        return Finding("problem", f"{line}, the server at {url} does not respond", remedy)
    return Finding("ok", f"{line}, the server at {url} responds")


def check_port_4200(workspace: Workspace) -> Finding:
    """Whether the port of Prefect's server is free or has a Prefect server."""

    def owner() -> str:
        return "used by a Prefect server" if answers(f"http://127.0.0.1:{PREFECT_PORT}/api") else ""

    return _port(PREFECT_PORT, owner, "'numerate serve' uses another port")


def check_port_8265(workspace: Workspace) -> Finding:
    """Whether the port of Ray's dashboard is free or has the job server of a healthy head; this needs no token."""

    def owner() -> str:
        response = response_of(f"http://127.0.0.1:{DASHBOARD_PORT}/api/gcs_healthz")
        return "used by the job server of a Ray cluster" if response == b"success" else ""

    return _port(DASHBOARD_PORT, owner, "the head node of a Ray cluster needs it for its dashboard and for jobs")


def check_port_6379(workspace: Workspace) -> Finding:
    """Whether the port of a Ray cluster's head is free or has a head."""

    def owner() -> str:
        is_head, line = _python(_CHECK_HEAD.format(port=HEAD_PORT), _IMPORT_SECONDS)
        return line if is_head else ""

    return _port(HEAD_PORT, owner, "the head node of a Ray cluster needs it")


def check_ray_starts(workspace: Workspace) -> Finding:
    """Whether a private Ray instance starts and runs a task."""
    return _started(_START_RAY, "with {line} CPUs", "see the logs in /tmp/ray/session_latest/logs")


def check_prefect_starts(workspace: Workspace) -> Finding:
    """Whether a Prefect server starts."""
    return _started(_START_PREFECT, "at {line}", "run: prefect server start  to see why")


def _started(code: str, text: str, remedy: str) -> Finding:
    with tempfile.TemporaryDirectory() as home:
        began = time.monotonic()
        succeeded, line = _python(code, _START_SECONDS, PREFECT_HOME=home, RAY_LOG_TO_STDERR="0")
    if not succeeded:
        return Finding("problem", line, remedy)
    return Finding("ok", f"in {time.monotonic() - began:.0f} s, {text.format(line=line)}")


def _python(code: str, seconds: float, **environment: str) -> tuple[bool, str]:
    """Run code in a Python process; returns whether it succeeds, and the last line of its output."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no response within {seconds:.0f} s"
    lines = (ended.stderr if ended.returncode else ended.stdout).strip().splitlines()
    return not ended.returncode, lines[-1] if lines else f"exit code {ended.returncode}"


def _port(port: int, owner: Callable[[], str], use: str) -> Finding:
    """Whether a port is free or has its usual owner, which `owner` names; otherwise which process uses it."""
    import psutil

    connections = psutil.net_connections("tcp")
    listening = [tcp for tcp in connections if tcp.status == psutil.CONN_LISTEN and tcp.laddr.port == port]
    if not listening:
        return Finding("ok", "free")
    if text := owner():
        return Finding("ok", text)
    process = "a process that only root can identify"
    if pid := listening[0].pid:
        words = psutil.Process(pid).cmdline() or [psutil.Process(pid).name()]
        process = f"process {pid} ({' '.join(words)[:80]})"
    return Finding("warning", f"in use by {process}; {use}", "end that process, or use another port")


ENGINE_CHECKS: tuple[Check, ...] = (
    check_gpu,
    check_ray,
    check_prefect,
    check_port_4200,
    check_port_8265,
    check_port_6379,
)
DEEP_CHECKS: tuple[Check, ...] = (check_ray_starts, check_prefect_starts)
