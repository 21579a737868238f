"""A Prefect server that ends with the process that started it, even if that process is killed.

Prefect's own temporary server survives a killed parent. The server of `numerate serve` also shows the workspace's
reports below `/reports`, so that the page of a flow run can link to them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from flows.server.middleware import Guard
from flows.server.retry import RetryWhenBusy
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace

LOOPBACK = "127.0.0.1"
PORT = 4200
_OWNER = "/numerate/process"
_START_SECONDS, _STOP_SECONDS, _POLL_SECONDS, _WATCH_SECONDS = 120.0, 10.0, 0.1, 0.5
_LINGER_SECONDS = 20.0
# With less free space the server would not start, or would fail to write its records.
_LEAST_ROOM = 4 << 20


class PrefectServer:
    """A server in a separate process, started by the constructor; raises `RunFailure` if it does not start."""

    def __init__(
        self,
        home: Path,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        workspace: Workspace | None = None,
        allowed: Sequence[str] = (),
        auth: str = "",
    ) -> None:
        """`home` is private to its owner; `allowed` are additional host names; `auth` is NAME:PASSWORD."""
        self.home, self.host, self.port, self.auth = home, host, port or free_port(), auth
        self.url = f"http://{_reachable(host)}:{self.port}"
        environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_UI_API_URL": "/api"}
        # Prefect's default allows pages of every site.
        environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = self.url
        if auth:
            environment["PREFECT_SERVER_API_AUTH_STRING"] = auth
        # Otherwise the server would report to another server.
        environment.pop("PREFECT_API_URL", None)
        if workspace is None:
            environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        wanted = {
            "parent": os.getpid(),
            "host": host,
            "port": self.port,
            "allowed": list(allowed),
            "workspace": str(workspace.root) if workspace else "",
            # After all other processes are killed, running flow runs have this long to report their final state.
            "linger": _LINGER_SECONDS if workspace else 0.0,
        }
        if (LocalLocation(home).free_bytes() or 0) < _LEAST_ROOM:
            raise RunFailure(f"the disk of {home} is full: free some space and run the same command again")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = home / "server.log"
        with open(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as log:
            _keep_to_owner(home)
            # A separate session, so that Ctrl-C does not reach the server: it still has to record how the flow ended.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.server.app", json.dumps(wanted)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def api_url(self) -> str:
        """URL of the API for Prefect's clients."""
        return f"{self.url}/api"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def runs(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        # Another server may respond on a port that was taken in the meantime.
        while not (_owner(self.url) == self._process.pid and answers(self.api_url)):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RunFailure(f"Prefect's server did not start: see {self._log}, or run 'numerate doctor'")
            time.sleep(_POLL_SECONDS)


def _keep_to_owner(home: Path) -> None:
    """Make records and log private to their owner, including those of an earlier server that were readable."""
    for path in (home / "server.log", *home.glob("prefect.db*")):
        path.chmod(0o600)


def _owner(url: str) -> int:
    """Process id of the server at the URL if it is a server of this module; otherwise 0."""
    try:
        with urlopen(f"{url}{_OWNER}", timeout=5) as answer:
            return int(answer.read())
    except (URLError, OSError, ValueError):
        return 0


def answers(api_url: str) -> bool:
    """Whether a Prefect server responds at this URL."""
    try:
        with urlopen(f"{api_url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


def free_port(host: str = LOOPBACK, wanted: int = 0) -> int:
    """A free port; raises `UserError` if the requested port is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address[0], wanted, *address[2:]))
            return int(tried.getsockname()[1])
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "ports are 0 to 65535"
        raise UserError(f"port {wanted} of {host} cannot be used ({why}): choose another with --port") from error


def _reachable(host: str) -> str:
    """The host for a URL, for an address to listen on; the loopback address if it means all interfaces."""
    named = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{named}]" if ":" in named else named


def end_with(parent: int, linger: float = 0.0) -> None:
    """Wait until the parent process has ended, and `linger` seconds more, then send SIGTERM to this process."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    time.sleep(linger)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the server; it ends when its parent has ended."""
    import uvicorn

    wanted = json.loads(sys.argv[1])
    threading.Thread(target=end_with, args=(wanted["parent"], wanted["linger"]), daemon=True).start()
    application = Guard(RetryWhenBusy(_application(wanted["workspace"])), wanted["host"], wanted["allowed"])
    uvicorn.run(application, host=wanted["host"], port=wanted["port"], log_level="error", lifespan="on")


def _application(workspace: str) -> Any:
    """Prefect's application, with routes for the process id and for reports before its catch-all page route."""
    from prefect.server.api.server import create_app
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from flows.server.report_pages import report_route

    application = create_app()

    def owner(request: Request) -> Response:
        """Process id of this server."""
        return PlainTextResponse(str(os.getpid()))

    application.router.routes.insert(0, Route(_OWNER, owner))
    if workspace:
        application.router.routes.insert(
            0, report_route(Workspace.open(workspace), os.environ.get("PREFECT_SERVER_API_AUTH_STRING", ""))
        )
    return application


if __name__ == "__main__":
    main()
