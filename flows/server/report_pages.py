"""The workspace's reports as the server shows them below `/reports`: pages and pictures that can run nothing.

Whoever can write in a shared workspace can write a page. It is served from the origin of Prefect's API, which starts
flows, so a browser is told to run no script of it and to let it load nothing. Where the server has a password, the
browser asks for it.
"""

import hmac
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.server.settings import authorization
from storage.errors import RunFailure
from storage.workspace import Workspace

REPORTS = "/reports"
HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}
# What is shown: the pages and pictures that the flows write, and nothing else of the workspace.
_SHOWN = re.compile(r"(runs|comparisons)/[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)*/(index\.html|[\w-]+\.png)")
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Numerate", charset="UTF-8"'}
_TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png"}
# The longest page of ours has some 5 MB.
_MOST_BYTES = 64 << 20


def report_route(workspace: Workspace, auth: str = "") -> Route:
    """The route that shows the reports of a workspace, to those who know the password NAME:PASSWORD if there is one."""
    expected = authorization(auth).encode()

    def report(request: Request) -> Response:
        """One page or picture."""
        given = request.headers.get("authorization", "").encode()
        if auth and not hmac.compare_digest(given, expected):
            return PlainTextResponse("name and password, please", 401, headers={**HEADERS, **_CHALLENGE})
        found = shown(workspace, request.path_params["path"])
        if found is None:
            return PlainTextResponse("no such report", 404, headers=HEADERS)
        return Response(found[0], media_type=found[1], headers=HEADERS)

    return Route(REPORTS + "/{path:path}", report)


def shown(workspace: Workspace, path: str) -> tuple[bytes, str] | None:
    """Bytes and type of a report's page or picture below the workspace; None for anything else.

    Symbolic links are not followed, and nothing but a regular file is read.
    """
    if not _SHOWN.fullmatch(path):
        return None
    place = workspace.root
    for part in path.split("/"):
        place = place / part
    if not 0 <= place.size() <= _MOST_BYTES:
        return None
    try:
        return place.read(), _TYPES[Path(path).suffix]
    except RunFailure:
        return None
