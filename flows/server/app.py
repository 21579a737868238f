"""A Prefect server that ends with the process that started it, however that ends.

Prefect's own temporary server outlives a killed parent. One that is served to people also shows the workspace's
reports below `/reports`, so that a run's page can link them.
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
# With less for its records a server wouldn't start, or fail at each of them.
_LEAST_ROOM = 4 << 20


class PrefectServer:
    """A server in a process of its own, started at once; raises `RunFailure` where it doesn't come up."""

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
        """`home` is for its owner alone; `allowed` are names beside the machine's own; `auth` is NAME:PASSWORD."""
        self.home, self.host, self.port, self.auth = home, host, port or free_port(), auth
        self.url = f"http://{_reachable(host)}:{self.port}"
        environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_UI_API_URL": "/api"}
        # Prefect's own default lets every site's pages in.
        environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = self.url
        if auth:
            environment["PREFECT_SERVER_API_AUTH_STRING"] = auth
        # Else the server would report to another one.
        environment.pop("PREFECT_API_URL", None)
        if workspace is None:
            environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        wanted = {
            "parent": os.getpid(),
            "host": host,
            "port": self.port,
            "allowed": list(allowed),
            "workspace": str(workspace.root) if workspace else "",
            # Runs that are under way when all else is killed have so long to say how they ended.
            "linger": _LINGER_SECONDS if workspace else 0.0,
        }
        if (LocalLocation(home).free_bytes() or 0) < _LEAST_ROOM:
            raise RunFailure(f"the disk of {home} is full: free some space and run the same command again")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = home / "server.log"
        with open(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as log:
            _keep_to_owner(home)
            # In a session of its own: Ctrl-C on a terminal isn't for it, it has to be told how the flow ended.
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
        """Where Prefect's clients find it."""
        return f"{self.url}/api"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it and wait for that."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        # Another's server may answer at a port that was taken in the meantime.
        while not (_owner(self.url) == self._process.pid and answers(self.api_url)):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RunFailure(f"Prefect's server didn't start: {self._log} says why; 'numerate doctor' may too")
            time.sleep(_POLL_SECONDS)


def _keep_to_owner(home: Path) -> None:
    """Let nobody else read records and log, also those of a server that others could read."""
    for path in (home / "server.log", *home.glob("prefect.db*")):
        path.chmod(0o600)


def _owner(url: str) -> int:
    """The process that serves there, if it is one of these; else 0."""
    try:
        with urlopen(f"{url}{_OWNER}", timeout=5) as answer:
            return int(answer.read())
    except (URLError, OSError, ValueError):
        return 0


def answers(api_url: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        with urlopen(f"{api_url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


def free_port(host: str = LOOPBACK, wanted: int = 0) -> int:
    """A port that nothing listens on; raises `UserError` where the wanted one is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address[0], wanted, *address[2:]))
            return int(tried.getsockname()[1])
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "ports are 0 to 65535"
        raise UserError(f"port {wanted} of {host} can't be taken ({why}): name another with --port") from error


def _reachable(host: str) -> str:
    """How a URL names an address to listen on; for all of a machine's, by its loopback address."""
    named = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{named}]" if ":" in named else named


def end_with(parent: int, linger: float = 0.0) -> None:
    """Wait in a thread until the parent process is gone, and `linger` seconds more, then ask this one to end."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    time.sleep(linger)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The server's process: ends when its parent is gone."""
    import uvicorn

    wanted = json.loads(sys.argv[1])
    threading.Thread(target=end_with, args=(wanted["parent"], wanted["linger"]), daemon=True).start()
    application = Guard(RetryWhenBusy(_application(wanted["workspace"])), wanted["host"], wanted["allowed"])
    uvicorn.run(application, host=wanted["host"], port=wanted["port"], log_level="error", lifespan="on")


def _application(workspace: str) -> Any:
    """Prefect's application, and before its pages, which take every path, whose it is and the workspace's reports."""
    from prefect.server.api.server import create_app
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from flows.server.report_pages import report_route

    application = create_app()

    def owner(request: Request) -> Response:
        """The number of this process."""
        return PlainTextResponse(str(os.getpid()))

    application.router.routes.insert(0, Route(_OWNER, owner))
    if workspace:
        application.router.routes.insert(
            0, report_route(Workspace.open(workspace), os.environ.get("PREFECT_SERVER_API_AUTH_STRING", ""))
        )
    return application


if __name__ == "__main__":
    main()
