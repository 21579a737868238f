"""The engines around a flow: Prefect's settings before its import, and a Ray, of our own or a cluster's."""

import os
import signal
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from storage.location import Location

_OBJECT_STORE_BYTES = 256 << 20


def configure_prefect(home: Path, *, verbose: bool = False) -> None:
    """Set Prefect up, before it is imported; what the environment says already is kept.

    Without a configured API the runs are kept in a Prefect home of the workspace, by a
    temporary server on the loopback interface.
    """
    if not _api_is_configured():
        os.environ.setdefault("PREFECT_HOME", str(home))
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "ERROR")
    if not verbose:
        # A failure is one line of ours, not Prefect's traceback; the API keeps the traceback.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def start_prefect() -> None:
    """Start the temporary server, where no API is configured, so that Ctrl-C doesn't end it.

    A terminal sends SIGINT to the whole process group. The server has to outlive it, to be told
    how the flow ended; a child inherits the signals that are blocked at its start.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _api_is_configured() -> bool:
    if any(os.environ.get(name) for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")):
        return True
    try:
        profiles = tomllib.loads((Path.home() / ".prefect" / "profiles.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False
    active = profiles.get("profiles", {}).get(profiles.get("active", ""), {})
    return bool(active.get("PREFECT_API_URL"))


@contextmanager
def ray_session(address: str = "", workspace: Location | None = None, *, cpus: int = 0) -> Iterator[int]:
    """A Ray instance for the block: the one that is already there, the cluster at `address`, or a private one.

    Yields its CPUs. Raises `UserError` or `RunFailure` where the cluster can't be joined, or one of its nodes
    doesn't see the workspace.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield _cpus()
        return
    # ray.init replaces the handler by which a cancelled flow ends in order.
    handler = signal.getsignal(signal.SIGTERM)
    with _joined(address) if address else _private(cpus):
        signal.signal(signal.SIGTERM, handler)
        if address and workspace:
            _check(workspace)
        yield _cpus()


def _joined(address: str) -> AbstractContextManager[None]:
    # Not at once: it imports parts of Ray that a private instance doesn't need.
    from flows.cluster import joined

    return joined(address)


def _check(workspace: Location) -> None:
    from flows.cluster import check_workspace

    check_workspace(workspace)


@contextmanager
def _private(cpus: int) -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=cpus or os.cpu_count() or 1,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _cpus() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 1))
