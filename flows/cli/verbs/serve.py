"""The command `numerate serve`."""

import json
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.command_factory import Json, Place
from flows.common.parameters import WORKSPACE
from storage.errors import UserError
from storage.workspace import Workspace


def register_serve(app: App) -> None:
    app.command(serve)


def serve(
    *,
    host: Annotated[
        str, Parameter(help="Address to listen on. Any other than the loopback one needs a password, see below.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port of the server; 0 takes 4200, or a free one if that is taken.")] = 0,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            help="Name by which a proxy passes requests on, as a browser shows it: NAME or NAME:PORT. May be repeated.",
            negative=(),
        ),
    ] = (),
    at_once: Annotated[int, Parameter(help="Flow runs that work at once; others stay scheduled.")] = 1,
    workspace: Place = WORKSPACE,
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
        raise UserError(f"at-once is {at_once}: let one run work at the least")
    place = Workspace.create(workspace)

    def announce(url: str) -> None:
        """Print the URL of the pages when they are available, with --json only."""
        if as_json:
            print(json.dumps({"workspace": str(place.root), "url": url}), flush=True)

    serve_workspace(place, host=host, port=port, allowed=allow_host, at_once=at_once, announce=announce)
