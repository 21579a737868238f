"""The command `numerate serve`."""

import json
from typing import Annotated

from cyclopts import Parameter

from flows.cli.command_factory import Json, WorkspaceUri
from flows.common.parameters import WORKSPACE
from storage.errors import UserError
from storage.workspace import Workspace


def serve(
    *,
    host: Annotated[
        str, Parameter(help="Address to listen on. Every address except loopback requires a password, see below.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port of the server; 0 means 4200, or a free port if 4200 is in use.")] = 0,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            help="Host name of a proxy in front of the server, as in a browser: NAME or NAME:PORT. Can be repeated.",
            negative=(),
        ),
    ] = (),
    at_once: Annotated[int, Parameter(help="Maximum number of concurrent flow runs; further runs stay scheduled.")] = 1,
    workspace: WorkspaceUri = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Serve every flow in the Prefect UI, each with a form, until Ctrl-C.

    It starts a server on the loopback interface, unless Prefect's settings name an API. The password of this server is
    Prefect's: PREFECT_SERVER_API_AUTH_STRING=NAME:PASSWORD, in the environment or in a file `.env`. When the command
    ends, running flow runs are cancelled. They resume when they are started again.

    Example: `numerate serve`
    """
    from flows.server.serve import serve as serve_workspace

    if at_once < 1:
        raise UserError(f"at-once is {at_once}: use at least 1")
    opened = Workspace.create(workspace)

    def announce(url: str) -> None:
        if as_json:
            print(json.dumps({"workspace": str(opened.root), "url": url}), flush=True)

    serve_workspace(opened, host=host, port=port, allowed=allow_host, at_once=at_once, announce=announce)
