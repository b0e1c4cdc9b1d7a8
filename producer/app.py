"""The producer's ASGI app: Starlette for everything but the hot paths, which go past it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from headrace.management import management_routes
from producer.cors import Cors
from producer.errors import Kind, Problem, answer
from producer.metrics import TALLY
from producer.reference import reference_routes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from headrace.management import Health

PATH = "/payloads"
EVENTS_PATH = "/events"


class App(Starlette):
    """POST to a hot path goes straight to its endpoint: middleware and router would cost half as much again."""

    def __init__(self, hot: dict[str, ASGIApp], **options: Any) -> None:
        super().__init__(**options)
        self._hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and (endpoint := self._hot.get(scope["path"])) is not None
        ):
            await endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    ingest: ASGIApp, health: Health, others: Mapping[str, ASGIApp] | None = None, *, origins: Sequence[str] = ()
) -> ASGIApp:
    """`others` are endpoints for POST beside /payloads, by path; a path may have `{parameters}`.

    `origins` are those whose pages may publish from browsers; none: nothing is said of origins.
    """
    endpoints = {PATH: ingest, **(others or {})}
    routes = [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()),
        *management_routes(health),
        *reference_routes(endpoints),
    ]
    hot = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}
    app = App(hot, routes=routes, exception_handlers={HTTPException: _refuse, Exception: _fail})
    app.router.redirect_slashes = False
    return Cors(app, origins) if origins else app


async def _refuse(request: Request, error: Exception) -> Response:
    """Starlette's refusals, in our words."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allow = (error.headers or {}).get("Allow", "")
        problem = Problem(
            Kind.METHOD_NOT_ALLOWED, f"{request.method} is not taken at {path}, but {allow} is.", allow=allow
        )
        if path == PATH:
            TALLY.requests[405] += 1
    else:
        problem = Problem(Kind.NOT_FOUND, f"There is no {path} here. Payloads go to {PATH}; /docs tells the rest.")
    return _response(problem)


async def _fail(request: Request, error: Exception) -> Response:
    del error  # Starlette raises it again, so that it is logged
    return _response(Problem(Kind.INTERNAL, f"{request.method} {request.url.path} failed; headrace's log says more."))


def _response(problem: Problem) -> Response:
    status, headers, body = answer(problem)
    return Response(body, status, {name.decode(): value.decode("latin-1") for name, value in headers})
