"""`numerate serve`: runs a Prefect server and the runner of its flows until Ctrl-C.

Both are separate processes in separate sessions. A signal reaches them only when this process passes it on, so it
controls their order.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from flows.common.engines import (
    configure_prefect,
    forget_served,
    prefect_home,
    served,
    serving,
    serving_folder,
    use_api,
)
from flows.common.progress import say
from flows.server.app import LOOPBACK, PORT, PrefectServer, stop_process
from flows.server.middleware import checked_name, is_loopback
from flows.server.settings import configured_api, setting
from model.config.training import STOP_SECONDS
from storage.errors import RunFailure, UserError
from storage.workspace import Workspace

# A cancelled training has to write a checkpoint, and its runner has to report that it ended.
_STOP_SECONDS = STOP_SECONDS + 30.0
_POLL_SECONDS = 0.2


def serve(
    workspace: Workspace,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    allowed: Sequence[str] = (),
    at_once: int = 1,
    announce: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve every flow until SIGINT or SIGTERM; raises `UserError` if the workspace is already served.

    `announce` is called with the URL of the pages when they are available.

    A configured Prefect API is used as the server. Otherwise a server is started at `host` and `port`; port 0 takes
    4200, or a free port if 4200 is taken. The server also accepts the `allowed` host names. Its password is Prefect's
    setting `server.api.auth_string`; raises `UserError` if it is missing and other machines can reach the server.
    """
    auth = "" if configured_api() else _checked_auth(host, [checked_name(name) for name in allowed])
    configure_prefect(prefect_home(workspace), keep_log=True)
    if url := serving(workspace).url:
        raise UserError(f"workspace {workspace.root} is already served: open {url}")
    with serving_folder(workspace).exclusive(f"workspace {workspace.root}"):
        _serve(workspace, partial(_start_server, workspace, host, port, allowed, auth), at_once, announce)


def _checked_auth(host: str, allowed: Sequence[str]) -> str:
    """Password for the server that is started; raises `UserError` if it is invalid, or missing but required."""
    auth = setting("PREFECT_SERVER_API_AUTH_STRING")
    remedy = "set PREFECT_SERVER_API_AUTH_STRING=NAME:PASSWORD (or server.api.auth_string in a prefect.toml)"
    # Prefect compares ASCII only; a browser asks for a name and a password.
    if auth and not (all(auth.partition(":")) and auth.isascii() and auth.isprintable()):
        raise UserError(f"Prefect's password is not valid: {remedy}, in printable ASCII characters")
    if not auth and not is_loopback(host):
        raise UserError(
            f"host {host} can be reached by other users, who could run commands as you, and the server has no "
            f"password: {remedy}, or listen on {LOOPBACK}"
        )
    if not auth and allowed:
        say("warning: the server has no password: everyone who reaches it through your proxy can run commands as you")
    return auth


def _serve(
    workspace: Workspace, start_server: Callable[[], PrefectServer], at_once: int, announce: Callable[[str], None]
) -> None:
    # Detect runs within one second instead of ten.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    os.environ.setdefault("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT", "false")
    api, server, runner = configured_api(), None, None
    stopped = _on_signals()
    try:
        if not api:
            server = start_server()
            api = server.api_url
            use_api(api, server.auth)
        own, ready = server is not None, False
        options = {"parent": os.getpid(), "workspace": str(workspace.root), "own_server": own, "at_once": at_once}
        command = [sys.executable, "-m", "flows.server.runner", json.dumps(options)]
        runner = subprocess.Popen(command, start_new_session=True)
        while not stopped():
            _check(runner, server)
            if not ready and served(workspace).runner == runner.pid:
                ready = True
                page = f"{api.removesuffix('/api')}/v2/deployments"
                say(f"workspace {workspace.root} is served: open {page}")
                announce(page)
            time.sleep(_POLL_SECONDS)
        say("shutting down: running flows are cancelled; each resumes where it stopped when it is started again")
    finally:
        if runner:
            stop_process(runner, _STOP_SECONDS)
        if server:
            server.stop()
        forget_served(workspace)


def _start_server(workspace: Workspace, host: str, port: int, allowed: Sequence[str], auth: str) -> PrefectServer:
    start = partial(PrefectServer, prefect_home(workspace), host=host, workspace=workspace, allowed=allowed, auth=auth)
    if port:
        return start(port=port)
    try:
        return start(port=PORT)
    except UserError:
        # The port is taken.
        return start()


def _on_signals() -> Callable[[], bool]:
    """Install signal handlers; returns a function that tells whether SIGINT or SIGTERM has arrived."""
    arrived: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: arrived.append(number))
    return lambda: bool(arrived)


def _check(runner: "subprocess.Popen[bytes]", server: PrefectServer | None) -> None:
    if runner.poll() == UserError.exit_code:
        # The runner has printed the reason.
        raise SystemExit(UserError.exit_code)
    if runner.poll() is not None:
        raise RunFailure("the runner of the flows ended unexpectedly: start 'numerate serve' again")
    if server and not server.is_running():
        raise RunFailure("Prefect's server ended unexpectedly: start 'numerate serve' again")
