"""Checks every request before it reaches the Prefect server: pages of other sites cannot use the server.

A browser sends the site of the page that makes the request (`Origin`, `Sec-Fetch-Site`) and the name by which it
reached the server (`Host`). The first identifies pages of other sites. The second identifies names that were made to
point here (DNS rebinding). Requests with a body that is too long or of unknown length are rejected before it is read.
"""

import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from storage.errors import UserError

Scope = MutableMapping[str, Any]
Channel = Callable[..., Awaitable[Any]]

# A flow run's report with its figures has about 5 MB.
_MOST_BODY, _LONGEST_NUMBER = 32 << 20, 18


class Guard:
    """An ASGI application that passes on requests from this server's own pages, or from outside a browser."""

    def __init__(self, application: Any, host: str, allowed: Sequence[str] = ()) -> None:
        """`host` is the address or name on which the server listens.

        `allowed` are further names of the server, used by a proxy, with a port if a browser shows one.
        """
        self._application, self._names = application, {"localhost", host.lower()}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names |= {_name_of(each) for each in allowed}
        # A proxy may send the server's own address as `Host`.
        self._origins = {f"{scheme}://{each.lower()}" for each in allowed for scheme in ("http", "https")}

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        """Pass on or reject a request or a web socket."""
        status, refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else (0, "")
        if not refusal:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closing a web socket before it is accepted sends status 403.
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": f"{refusal}\n".encode()})

    def refusal(self, scope: Scope) -> tuple[int, str]:
        """Status and reason if a request with these headers is rejected; 0 and an empty text if it is accepted."""
        headers = [(name, value.decode("latin-1").lower()) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            return 403, (
                "the host name is not allowed: open this server by its IP address or localhost, or start it with "
                "--allow-host NAME"
            )
        given = dict(headers)
        # A link on another site may open a page here. Frames and images of other sites are rejected.
        from_other_site = given.get(b"sec-fetch-site") in ("cross-site", "same-site")
        embedded = from_other_site and given.get(b"sec-fetch-dest") != "document"
        origins = {value for name, value in headers if name == b"origin"}
        if embedded or origins - {f"http://{hosts[0]}", f"https://{hosts[0]}"} - self._origins:
            return 403, "requests from pages of other sites are not allowed"
        return _refusal_of_body(given)

    def _is_allowed(self, host: str) -> bool:
        """Whether a `Host` header names this machine. Any IP address is accepted: only names can be rebound."""
        name = _name_of(host)
        return name in self._names or _is_address(name)


def checked_name(name: str) -> str:
    """Return `name` if it is a valid host name with an optional port; raises `UserError` otherwise."""
    if not name or any(character in name for character in "/@ \t") or not _name_of(name):
        raise UserError(f"host name {name!r} is not valid: write it as a browser shows it, NAME or NAME:PORT")
    return name


def is_loopback(host: str) -> bool:
    """Whether the text of an address shows that only this machine can reach it."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _refusal_of_body(headers: dict[bytes, str]) -> tuple[int, str]:
    """Status and reason for a request whose body is too long or has no stated length."""
    if b"transfer-encoding" in headers:
        return 411, "a request must state the length of its body (Content-Length)"
    length = headers.get(b"content-length", "0")
    if not length.isdecimal() or len(length) > _LONGEST_NUMBER or int(length) > _MOST_BODY:
        return 413, f"the body of a request must not exceed {_MOST_BODY:,} bytes"
    return 0, ""


def _name_of(host: str) -> str:
    """The host name or address in a `Host` header, without its port; empty if the header is invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
