"""Connects a flow to its engines: a Prefect server that records it, and a private Ray instance or a Ray cluster."""

import atexit
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flows.cluster.local import ray_in_thread
from flows.server.app import PrefectServer, answers
from flows.server.settings import authorization, configured_api, setting
from storage.errors import RunFailure
from storage.machine import PRIVATE, cores
from storage.places.disk import LocalLocation, cached
from storage.places.place import Location
from storage.workspace import Workspace

_OBJECT_STORE_BYTES = 256 << 20
_SERVED = "served.json"
_HEALTH = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"


def end_quietly() -> None:
    """Redirect stderr to the null device at exit: DuckDB's bindings complain about objects that Prefect still holds."""
    # The exit function that is registered first runs last.
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def serving_folder(workspace: Workspace) -> LocalLocation:
    """This machine's folder for serving a workspace, private to its owner: server address and Prefect's records.

    It is never inside the workspace, which several machines may share. The SQLite database, the port and the
    process belong to one machine.
    """
    root = str(workspace.root) if workspace.root.remote else str(Path(str(workspace.root)).resolve())
    folder = cached(f"serving-{root.rpartition('/')[2]}", f"{socket.gethostname()} {root}")
    folder.path.chmod(0o700)
    return folder


def prefect_home(workspace: Workspace) -> Path:
    """Prefect's home for the runs of a workspace; Prefect's settings may name another one."""
    named = setting("PREFECT_HOME")
    return Path(named).expanduser() if named else serving_folder(workspace).path


def connect_prefect(workspace: Workspace, *, verbose: bool = False) -> None:
    """Configure Prefect before it is imported; existing settings are kept.

    Flow runs are recorded by the configured API. Otherwise the server of a `numerate serve` of this workspace
    records them, or a temporary server that ends with this process.
    """
    configure_prefect(prefect_home(workspace), verbose=verbose)
    if configured_api():
        return
    recorded = serving(workspace)
    if recorded.url:
        use_api(recorded.api, recorded.auth)
        return
    # The port is open to other users of this machine.
    server = PrefectServer(prefect_home(workspace), auth=f"numerate:{secrets.token_hex(32)}")
    atexit.register(server.stop)
    use_api(server.api_url, server.auth)


def use_api(url: str, auth: str) -> None:
    """Make Prefect's clients in this process and its children use a server, with its password if it has one."""
    os.environ["PREFECT_API_URL"] = url
    if auth:
        os.environ["PREFECT_API_AUTH_STRING"] = auth


def configure_prefect(home: Path, *, verbose: bool = False, keep_log: bool = False) -> None:
    """Set Prefect's defaults for this process and its children; `keep_log` sends the log of a run to its page."""
    if not configured_api():
        os.environ.setdefault("PREFECT_HOME", str(home))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose or keep_log else "ERROR")
    if not verbose:
        # The command prints its own one-line error instead of Prefect's traceback, which the API keeps.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


class Served(NamedTuple):
    """The server and the runner of a workspace."""

    url: str = ""
    """URL of the server and its pages; empty if the workspace is not served."""
    runner: int = 0
    """Process id of the runner, which starts the flow runs."""
    own: bool = True
    """Whether `numerate serve` started the server, which then also shows reports."""
    auth: str = ""
    """Password of the server, NAME:PASSWORD; empty if it has none or Prefect's settings contain it."""

    @property
    def api(self) -> str:
        return f"{self.url}/api"


def note_served(workspace: Workspace, server: Served) -> None:
    """Record the server of the workspace."""
    (serving_folder(workspace) / _SERVED).write(json.dumps(server._asdict()).encode())


def forget_served(workspace: Workspace) -> None:
    """Delete the record of the server of the workspace."""
    (serving_folder(workspace) / _SERVED).remove()


def served(workspace: Workspace) -> Served:
    """The recorded server of the workspace; it may have been killed."""
    try:
        return Served(**json.loads((serving_folder(workspace) / _SERVED).read()))
    except (RunFailure, ValueError, RecursionError, TypeError):
        return Served()


def serving(workspace: Workspace) -> Served:
    """The server of the workspace if it is running and responds; otherwise an empty `Served`."""
    server = served(workspace)
    return server if server.url and serving_folder(workspace).is_locked() and answers(server.api) else Served()


def reachable_api(workspace: Workspace) -> tuple[str, dict[str, str]]:
    """URL and authorization headers of the configured API, or else of the server of the workspace.

    The URL is empty if neither exists.
    """
    url, auth = configured_api(), ""
    if not url:
        server = serving(workspace)
        if not server.url:
            return "", {}
        url, auth = server.api, server.auth
    if auth := auth or setting("PREFECT_API_AUTH_STRING"):
        return url, {"Authorization": authorization(auth)}
    key = setting("PREFECT_API_KEY")
    return url, {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def ray_session(address: str = "", workspace: Location | None = None, *, cpus: int = 0) -> Iterator[int]:
    """Provide Ray for the block: the running instance, the cluster at `address`, or a private instance.

    Yields the number of CPUs. Raises `UserError` or `RunFailure` if the cluster cannot be joined, or if one of its
    nodes cannot see the workspace.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    with ExitStack() as stack:
        if address and not ray.is_initialized():
            # Imported late: it imports parts of Ray that a private instance does not need.
            from flows.cluster.connect import joined

            stack.enter_context(joined(address, workspace))
        elif not ray.is_initialized():
            stack.enter_context(_private(cpus))
        yield int(ray.cluster_resources().get("CPU", 1))


@contextmanager
def _private(cpus: int) -> Iterator[None]:
    import ray

    _require_token()
    # For workers on this machine only. On a cluster, Ray's own interval is right.
    is_unset = _HEALTH not in os.environ
    os.environ.setdefault(_HEALTH, "0.1")
    start = partial(
        ray.init,
        address="local",
        namespace=PRIVATE,
        num_cpus=cpus or cores(),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        logging_level="ERROR",
        log_to_driver=False,
    )

    def explained(error: Exception) -> RunFailure:
        # Ray raises plain exceptions if one of its processes does not start in time.
        text = " ".join(str(error).split())
        return RunFailure(
            f"Ray did not start ({text}): run the same command again; 'numerate doctor' may show the cause"
        )

    try:
        with ray_in_thread(start, explained):
            if node := ray._private.worker._global_node:
                # With its logs, which Ray lets other users read.
                Path(node.get_session_dir_path()).chmod(0o700)
            yield
    finally:
        if is_unset:
            del os.environ[_HEALTH]


def _require_token() -> None:
    """Enforce Ray's token authentication, with a token file that only the user can read.

    Ray listens on all interfaces, and the token file that it writes is readable by everyone.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        # The other modes are meant for clusters. A private instance uses the token by default.
        del os.environ["RAY_AUTH_MODE"]
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = Path.home() / ".ray" / "auth_token"
    temporary = token.with_name(f".auth_token-{os.getpid()}")
    # Ray itself reports a home folder that is not writable.
    with suppress(OSError):
        token.parent.mkdir(exist_ok=True)
        if not token.exists():
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32))
            with suppress(FileExistsError):
                # Create the file atomically: another process may start at the same time.
                os.link(temporary, token)
            temporary.unlink()
        token.chmod(0o600)
