"""Stands before the Prefect server, which has no password: no page of another site can ask it for anything.

A browser sends along whose page asks (`Origin`, `Sec-Fetch-Site`) and by which name the server was reached (`Host`). A
page of another site is told apart by the first, one that had its own name point here (DNS rebinding) by the second.
"""

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Channel = Callable[..., Awaitable[Any]]


class Guard:
    """An ASGI application that passes on what comes from this server's own pages, or from no page at all."""

    def __init__(self, application: Any, host: str) -> None:
        """`host` is the address or name at which the server was asked to listen."""
        self._application, self._names = application, {"localhost", host.lower()}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        """Pass a request or a web socket on, or refuse it with 403."""
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else ""
        if not refusal:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closed before it is accepted: the answer is 403.
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{refusal}\n".encode()})

    def refusal(self, scope: Scope) -> str:
        """Why what has these headers isn't passed on; empty where it is."""
        headers = [(name, value.decode("latin-1").lower()) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "this server isn't known by that name: open it by its address or by localhost"
        given = dict(headers)
        # A link from elsewhere opens a page here; a frame or picture there has nothing of ours to show.
        elsewhere = given.get(b"sec-fetch-site") in ("cross-site", "same-site")
        embedded = elsewhere and given.get(b"sec-fetch-dest") != "document"
        origins = [value for name, value in headers if name == b"origin"]
        if embedded or any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
            return "pages of other sites may ask this server for nothing"
        return ""

    def _is_ours(self, host: str) -> bool:
        """Whether a `Host` header names this machine. An address does: only a name can be made to point elsewhere."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, as far as its text tells."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
