import asyncio
from collections.abc import Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.server import retry

Post = Callable[..., tuple[httpx.Response, list[bytes]]]


class Busy(Exception):
    """What a database raises whose transactions meet."""


def application(busy: int, path: str, seen: list[bytes]) -> Starlette:
    """Answers as Prefect's server does: `busy` times with 503, and raises for the log; then with what it was sent."""

    async def answer(request: Request) -> Response:
        seen.append(await request.body())
        if len(seen) <= busy:
            raise Busy
        return Response(seen[-1], 201)

    def unavailable(request: Request, error: Exception) -> Response:
        return JSONResponse({"exception_message": "Service Unavailable"}, 503)

    return Starlette(routes=[Route(path, answer, methods=["POST"])], exception_handlers={Exception: unavailable})


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    monkeypatch.setattr(retry, "_PAUSES", (0.01,) * 5)

    def ask(busy: int, path: str = "/api/runs") -> tuple[httpx.Response, list[bytes]]:
        seen: list[bytes] = []

        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(
                retry.RetryWhenBusy(application(busy, path, seen)), raise_app_exceptions=False
            )
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.post(path, content=b"x" * 100_000)

        return asyncio.run(sent()), seen

    return ask


@pytest.mark.parametrize("busy", [0, 1, 5])
def test_request_is_retried_if_the_database_is_busy(busy: int, post: Post) -> None:
    answer, seen = post(busy)
    assert (answer.status_code, answer.content) == (201, b"x" * 100_000)
    assert seen == [b"x" * 100_000] * (busy + 1)


def test_number_of_retries_is_limited(post: Post) -> None:
    answer, seen = post(100)
    assert (answer.status_code, len(seen)) == (503, 6)


def test_only_requests_to_the_api_are_retried(post: Post) -> None:
    answer, seen = post(1, "/reports/x")
    assert (answer.status_code, len(seen)) == (503, 1)
