"""What browsers ask before their pages may publish: Cross-Origin Resource Sharing, only where CORS_ORIGINS is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from producer.errors import Kind, Problem, answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Header = tuple[bytes, bytes]

PREFLIGHT_SECONDS: Final = 7200  # the longest that Chromium keeps one
EXPOSED: Final = b"Retry-After"
METHODS: Final = b"GET, POST"


class Cors:
    """Stands around the app. No cookies or other credentials of the browser are asked for: tokens are sent by the page.

    A request without an Origin, and one from another origin, is passed on as it is: whether its answer may be read is
    the browser's to keep, and a beacon is sent without asking.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._everybody = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        allowed = self._allowed(headers.get(b"origin"))
        if scope["method"] == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers:
            status, told, body = self._preflight(headers, allowed)
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body", "body": body})
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *allowed]
            await send(message)

        await self._app(scope, receive, send_on)

    def _allowed(self, origin: bytes | None) -> list[Header]:
        """What is said of an origin; a cache must not give one's answer to another."""
        if self._everybody:
            return [] if origin is None else [(b"access-control-allow-origin", b"*"), _EXPOSE]
        vary = (b"vary", b"Origin")
        if origin is None or origin not in self._origins:
            return [vary]
        return [(b"access-control-allow-origin", origin), _EXPOSE, vary]

    def _preflight(self, headers: dict[bytes, bytes], allowed: list[Header]) -> tuple[int, list[Header], bytes]:
        if len(allowed) < 2:
            status, told, body = answer(
                Problem(Kind.FORBIDDEN, "Pages of this origin may not publish here (CORS_ORIGINS).")
            )
            return status, [*told, *allowed], body
        told = [
            *allowed,
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        ]
        if wanted := headers.get(b"access-control-request-headers"):
            told += [(b"access-control-allow-headers", wanted), (b"vary", b"Access-Control-Request-Headers")]
        return 204, told, b""


_EXPOSE: Final = (b"access-control-expose-headers", EXPOSED)
