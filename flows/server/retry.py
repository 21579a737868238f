"""Retries requests that Prefect's server could not handle because its database was busy.

The server returns 503 if two SQLite transactions collide. Prefect's own clients then retry. A browser does not, so
submitting a form would fail with "Service Unavailable". This middleware retries before it sends a response.
"""

import asyncio
import random
from collections.abc import MutableMapping
from typing import Any

from flows.server.middleware import Channel, Scope

_BUSY = 503
# Seconds before each retry; random jitter keeps two requests from colliding again.
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)


class RetryWhenBusy:
    """An ASGI application that repeats a request to another application a few times while the response is 503."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        """Handle a request; the response of the last try is sent in any case."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._application(scope, receive, send)
            return
        body = [await receive()]
        while body[-1]["type"] == "http.request" and body[-1].get("more_body"):
            body.append(await receive())
        for pause in _PAUSES:
            # A copy, because the application may modify the scope.
            if await self._sends_response(dict(scope), _replay(body, receive), send):
                return
            await asyncio.sleep(pause * (1 + random.random()))
        await self._application(scope, _replay(body, receive), send)

    async def _sends_response(self, scope: Scope, receive: Channel, send: Channel) -> bool:
        """Send the response unless it is 503; returns whether it was sent."""
        busy = False

        async def send_unless_busy(message: MutableMapping[str, Any]) -> None:
            nonlocal busy
            if message["type"] == "http.response.start":
                busy = message["status"] == _BUSY
            if not busy:
                await send(message)

        try:
            await self._application(scope, receive, send_unless_busy)
        except Exception:
            # Starlette raises an error again after its response, for the server's log.
            if not busy:
                raise
        return not busy


def _replay(body: list[MutableMapping[str, Any]], receive: Channel) -> Channel:
    """A channel that returns the received messages again, and then new ones."""
    messages = iter(body)

    async def replayed() -> MutableMapping[str, Any]:
        return next(messages, None) or await receive()

    return replayed
