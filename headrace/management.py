"""/healthz, /readyz and /metrics: the same three on each service, also on a port of their own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request


PORT_SECONDS: Final = 0.05


class Health:
    """Ready as long as nobody has a problem. Owned by the service; any part may report under a name of its own."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def report(self, part: str, problem: str | None) -> None:
        """Say what keeps `part` from being ready; None takes it back."""
        if problem is None:
            self._problems.pop(part, None)
        else:
            self._problems[part] = problem

    @property
    def problems(self) -> dict[str, str]:
        return dict(self._problems)

    @property
    def ready(self) -> bool:
        return not self._problems


def management_routes(health: Health) -> list[Route]:
    async def healthz(_: Request) -> Response:
        return Response(b'{"alive":true}', media_type="application/json")

    async def readyz(_: Request) -> Response:
        body = orjson.dumps({"ready": health.ready, "problems": health.problems})
        return Response(body, 200 if health.ready else 503, media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class EmbeddedServer(uvicorn.Server):
    """A uvicorn server inside somebody's TaskGroup: signals stay with the owner, cancellation closes it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_management(health: Health, host: str, port: int, *, wait_for_port: bool = False) -> None:
    """Serve until cancelled. A port of 0 means: not wanted, return at once.

    With `wait_for_port`, a process whose place this one takes may still have it.
    """
    if port == 0:
        return
    app: Any = Starlette(routes=management_routes(health))
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, lifespan="off")
    sockets = [await _freed(host, port)] if wait_for_port else None
    server = EmbeddedServer(config)
    try:
        await server.serve(sockets)
    finally:
        for listening in getattr(server, "servers", ()):
            listening.close()


async def _freed(host: str, port: int) -> socket.socket:
    while True:
        try:
            return socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        await asyncio.sleep(PORT_SECONDS)
