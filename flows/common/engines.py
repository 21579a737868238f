"""The engines around a flow: a Prefect server that keeps its record, and a Ray, of our own or a cluster's."""

import atexit
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flows.cluster.local import owned
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
    """Let DuckDB's bindings say nothing when this process exits: they complain of objects that Prefect still holds."""
    # Runs last of all exit functions, if it is registered first.
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def serving_folder(workspace: Workspace) -> LocalLocation:
    """What this machine keeps of a workspace's serving, for its owner alone: who serves it, and Prefect's records.

    It is never in the workspace, which may be a folder that several machines share: SQLite's database is one
    machine's, and so are a port and a process.
    """
    root = workspace.root
    whole = str(root) if root.remote else str(Path(str(root)).resolve())
    place = cached(f"serving-{whole.rpartition('/')[2]}", f"{socket.gethostname()} {whole}")
    place.path.chmod(0o700)
    return place


def prefect_home(workspace: Workspace) -> Path:
    """Where Prefect keeps the runs of a workspace, unless its settings name another home."""
    named = setting("PREFECT_HOME")
    return Path(named).expanduser() if named else serving_folder(workspace).path


def connect_prefect(workspace: Workspace, *, verbose: bool = False) -> None:
    """Set Prefect up, before it is imported; what its settings say already is kept.

    Flow runs are recorded by the API that is configured, or else by the server of a `numerate serve` of this
    workspace, or else by a temporary one, which ends with this process.
    """
    configure_prefect(prefect_home(workspace), verbose=verbose)
    if configured_api():
        return
    found = serving(workspace)
    if not found.url:
        # Other users of this machine reach its port, too.
        server = PrefectServer(prefect_home(workspace), auth=f"numerate:{secrets.token_hex(32)}")
        atexit.register(server.stop)
        found = Served(server.url, auth=server.auth)
    use_api(found.api, found.auth)


def use_api(url: str, auth: str) -> None:
    """Let Prefect's clients in this process and its children use a server, by its password where it has one."""
    os.environ["PREFECT_API_URL"] = url
    if auth:
        os.environ["PREFECT_API_AUTH_STRING"] = auth


def configure_prefect(home: Path, *, verbose: bool = False, keep_log: bool = False) -> None:
    """Settings for Prefect in this process and its children; `keep_log` sends a run's lines to its page."""
    if not configured_api():
        os.environ.setdefault("PREFECT_HOME", str(home))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose or keep_log else "ERROR")
    if not verbose:
        # A failure is one line of ours, not Prefect's traceback; the API keeps the traceback.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


class Served(NamedTuple):
    """Who serves a workspace."""

    url: str = ""
    """Of the server and its pages; empty where the workspace isn't served."""
    runner: int = 0
    """The process that starts the flow runs."""
    own: bool = True
    """Whether the server is that of `numerate serve`, which shows reports too."""
    auth: str = ""
    """The server's password, NAME:PASSWORD; empty where it has none, or the settings hold it."""

    @property
    def api(self) -> str:
        """URL of the server's API."""
        return f"{self.url}/api"


def note_served(workspace: Workspace, found: Served) -> None:
    """Say who serves the workspace, from now on."""
    (serving_folder(workspace) / _SERVED).write(json.dumps(found._asdict()).encode())


def forget_served(workspace: Workspace) -> None:
    """Say that nobody serves the workspace any more."""
    (serving_folder(workspace) / _SERVED).remove()


def served(workspace: Workspace) -> Served:
    """Who serves the workspace, or did until it was killed."""
    try:
        return Served(**json.loads((serving_folder(workspace) / _SERVED).read()))
    except (RunFailure, ValueError, RecursionError, TypeError):
        return Served()


def serving(workspace: Workspace) -> Served:
    """Who serves the workspace now, and answers; else nobody."""
    found = served(workspace)
    return found if found.url and serving_folder(workspace).is_held() and answers(found.api) else Served()


def reached_api(workspace: Workspace) -> tuple[str, dict[str, str]]:
    """URL of the API that is configured, or else that serves the workspace, and the headers that it asks for.

    The URL is empty where there is neither.
    """
    found = Served() if (url := configured_api()) else serving(workspace)
    if not url and not found.url:
        return "", {}
    if auth := found.auth or setting("PREFECT_API_AUTH_STRING"):
        return url or found.api, {"Authorization": authorization(auth)}
    key = setting("PREFECT_API_KEY")
    return url or found.api, {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def ray_session(address: str = "", workspace: Location | None = None, *, cpus: int = 0) -> Iterator[int]:
    """A Ray instance for the block: the one that is already there, the cluster at `address`, or a private one.

    Yields its CPUs. Raises `UserError` or `RunFailure` where the cluster can't be joined, or one of its nodes
    doesn't see the workspace.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield _cpus()
        return
    with _joined(address) if address else _private(cpus):
        if address and workspace:
            _check(workspace)
        yield _cpus()


def _joined(address: str) -> AbstractContextManager[None]:
    # Not at once: it imports parts of Ray that a private instance doesn't need.
    from flows.cluster.connect import joined

    return joined(address)


def _check(workspace: Location) -> None:
    from flows.cluster.connect import check_workspace

    check_workspace(workspace)


@contextmanager
def _private(cpus: int) -> Iterator[None]:
    import ray

    _guard_ray()
    # Of workers on this machine alone: on a cluster's nodes Ray's own interval is right.
    own = _HEALTH not in os.environ
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
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(owned(start))
            except Exception as error:
                # Ray raises plain exceptions where one of its processes doesn't come up in time.
                text = " ".join(str(error).split())
                raise RunFailure(
                    f"Ray didn't start ({text}): run the same command again; 'numerate doctor' may say why"
                ) from error
            yield
    finally:
        if own:
            del os.environ[_HEALTH]


def _guard_ray() -> None:
    """Keep Ray's token on, and to its user: Ray listens on all interfaces, and writes a token that all may read."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        # Meant for a cluster. Ray's own default for a private instance is the token.
        del os.environ["RAY_AUTH_MODE"]
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = Path.home() / ".ray" / "auth_token"
    made = token.with_name(f".auth_token-{os.getpid()}")
    # Where the home can't be written, Ray says so.
    with suppress(OSError):
        token.parent.mkdir(exist_ok=True)
        if not token.exists():
            made.touch(mode=0o600)
            made.write_text(secrets.token_hex(32))
            with suppress(FileExistsError):
                # All at once: another process may start just now.
                os.link(made, token)
            made.unlink()
        token.chmod(0o600)


def _cpus() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 1))
