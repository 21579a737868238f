"""Tries a request again that Prefect's server could not answer because its database was busy.

The server answers 503 where two transactions of SQLite meet. Prefect's own clients then send the request again. A
browser does not: a form that is submitted would be refused with "Service Unavailable". So the request is tried again
before anyone is answered.
"""

import asyncio
import random
from collections.abc import MutableMapping
from typing import Any

from flows.server.middleware import Channel, Scope

_BUSY = 503
# Seconds before each further try; each is stretched by chance, so that two requests do not meet again.
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)


class RetryWhenBusy:
    """An ASGI application that sends a request to another one again while that answers 503, a few times."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        """Pass a request on. The last try's answer is sent, whatever it is."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._application(scope, receive, send)
            return
        body = [await receive()]
        while body[-1]["type"] == "http.request" and body[-1].get("more_body"):
            body.append(await receive())
        for pause in _PAUSES:
            # The application may write into the scope.
            if await self._is_answered(dict(scope), _replay(body, receive), send):
                return
            await asyncio.sleep(pause * (1 + random.random()))
        await self._application(scope, _replay(body, receive), send)

    async def _is_answered(self, scope: Scope, receive: Channel, send: Channel) -> bool:
        """Whether a try was answered by anything but 503, which is then sent."""
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
            # Starlette raises an error again after its answer, for the server's log.
            if not busy:
                raise
        return not busy


def _replay(body: list[MutableMapping[str, Any]], receive: Channel) -> Channel:
    """Messages that were received, and then what comes."""
    messages = iter(body)

    async def replayed() -> MutableMapping[str, Any]:
        return next(messages, None) or await receive()

    return replayed
