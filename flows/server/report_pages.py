"""Serves the workspace's reports below `/reports`: pages and images that cannot run scripts.

Everyone who can write to a shared workspace can write a page. It is served from the origin of Prefect's API, which
can start flows. Therefore headers forbid scripts and loading of other resources. If the server has a password, the
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
# Only pages and images that the flows write are served, and no other file of the workspace.
_SHOWN = re.compile(r"(runs|comparisons)/[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)*/(index\.html|[\w-]+\.png)")
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Numerate", charset="UTF-8"'}
_TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png"}
# The largest page has about 5 MB.
_MOST_BYTES = 64 << 20


def report_route(workspace: Workspace, auth: str = "") -> Route:
    """The route for the reports of a workspace; it requires the password NAME:PASSWORD if there is one."""
    expected = authorization(auth).encode()

    def report(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if auth and not hmac.compare_digest(given, expected):
            return PlainTextResponse("name and password required", 401, headers={**HEADERS, **_CHALLENGE})
        page = page_at(workspace, request.path_params["path"])
        if page is None:
            return PlainTextResponse("no such report", 404, headers=HEADERS)
        content, media_type = page
        return Response(content, media_type=media_type, headers=HEADERS)

    return Route(REPORTS + "/{path:path}", report)


def page_at(workspace: Workspace, path: str) -> tuple[bytes, str] | None:
    """Content and media type of a report's page or image at a path in the workspace; None for any other path.

    Symbolic links are not followed, and only regular files are read.
    """
    if not _SHOWN.fullmatch(path):
        return None
    file = workspace.root
    for part in path.split("/"):
        file = file / part
    if not 0 <= file.size() <= _MOST_BYTES:
        return None
    try:
        return file.read(), _TYPES[Path(path).suffix]
    except RunFailure:
        return None
