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
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from flows.server.middleware import Guard
from flows.server.new_records import RECORDS, begin_records, keep_empty_tables
from flows.server.retry import RetryWhenBusy
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace

LOOPBACK = "127.0.0.1"
PORT = 4200
_PROCESS = "/numerate/process"
# A server that ends is noticed at once. On two busy cores, its imports alone took 110 seconds.
_START_SECONDS = 600.0
_STOP_SECONDS, _POLL_SECONDS, _WATCH_SECONDS = 10.0, 0.1, 0.5
_BACKLOG = 2_048
_LINGER_SECONDS = 20.0
# With less free space the server would not start, or would fail to write its records.
_LEAST_FREE_BYTES = 4 << 20


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
        """`home` is private to its owner; `allowed` are additional host names; `auth` is NAME:PASSWORD.

        Raises `UserError` if the port is taken; 0 is any free port.
        """
        if (LocalLocation(home).free_bytes() or 0) < _LEAST_FREE_BYTES:
            raise RunFailure(f"the disk of {home} is full: free some space and run the same command again")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log, is_new = home / "server.log", begin_records(home)
        listener = listening_socket(host, port)
        self.home, self.host, self.port, self.auth = home, host, int(listener.getsockname()[1]), auth
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
        options = {
            "parent": os.getpid(),
            "host": host,
            "socket": listener.fileno(),
            "allowed": list(allowed),
            "workspace": str(workspace.root) if workspace else "",
            # After all other processes are killed, running flow runs have this long to report their final state.
            "linger": _LINGER_SECONDS if workspace else 0.0,
        }
        with listener, open(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as log:
            # Records of an earlier server were perhaps readable by others.
            for path in (self._log, *home.glob(f"{RECORDS}*")):
                path.chmod(0o600)
            # A separate session, so that Ctrl-C does not reach the server: it still has to record how the flow ended.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.server.app", json.dumps(options)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                pass_fds=[listener.fileno()],
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        if is_new:
            keep_empty_tables(home)

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        stop_process(self._process, _STOP_SECONDS)

    def _wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        # Another server may respond at another address of the same host name.
        while response_of(f"{self.url}{_PROCESS}") != b"%d" % self._process.pid or not answers(self.api_url):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > until:
                reason = _error_of(self._log) if ended else f"no response within {_START_SECONDS:.0f} s"
                raise RunFailure(
                    f"Prefect's server did not start ({reason}): see {self._log}, or run 'numerate doctor'"
                )
            time.sleep(_POLL_SECONDS)


def _error_of(log: Path) -> str:
    """The last error in a server's log, such as `DatabaseError: …` or `[Errno 98] …`, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Err" in line]
    return (errors or lines or ["it printed nothing"])[-1][:200]


def stop_process(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Send SIGTERM and wait until the process has ended; kill it if this takes longer than `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def response_of(url: str) -> bytes | None:
    """The first 100 bytes of a server's response; None if there is none or its status is an error."""
    try:
        with urlopen(url, timeout=5) as response:
            return bytes(response.read(100))
    except (OSError, ValueError, HTTPException):
        return None


def answers(api_url: str) -> bool:
    """Whether a Prefect server responds at this URL."""
    return response_of(f"{api_url}/health") is not None


def listening_socket(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A socket that listens on the requested port, or on any free one for 0; raises `UserError` if it is taken.

    A server that inherits it has its port from the start. A port that is only known to be free can be taken during the
    seconds in which the server imports Prefect.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            # Connections of an earlier server do not keep its port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "ports are 0 to 65535"
        raise UserError(f"port {port} of {host} cannot be used ({reason}): choose another with --port") from error


def _reachable(host: str) -> str:
    """The host for a URL, for an address to listen on; the loopback address if it means all interfaces."""
    address = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{address}]" if ":" in address else address


def end_with(parent: int, linger: float = 0.0) -> None:
    """Watch the parent process: `linger` seconds after it has ended, this process gets SIGTERM."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        time.sleep(linger)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the server; it ends when its parent has ended."""
    import uvicorn

    options = json.loads(sys.argv[1])
    end_with(options["parent"], options["linger"])
    application = Guard(RetryWhenBusy(_application(options["workspace"])), options["host"], options["allowed"])
    # uvicorn.run takes a socket by its number too, but treats it as a Unix socket.
    listener = socket.socket(fileno=options["socket"])
    uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="on")).run(sockets=[listener])


def _application(workspace: str) -> Any:
    """Prefect's application, with routes for the process id and for reports before its catch-all page route."""
    from prefect.server.api.server import create_app
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from flows.server.report_pages import report_route

    application = create_app()

    def process_id(request: Request) -> Response:
        return PlainTextResponse(str(os.getpid()))

    routes = [Route(_PROCESS, process_id)]
    if workspace:
        auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
        routes.append(report_route(Workspace.open(workspace), auth))
    application.router.routes[:0] = routes
    return application


if __name__ == "__main__":
    main()
