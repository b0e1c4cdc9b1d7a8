"""What all endpoints that publish have in common: bare ASGI, one way for problems, one place to ask who calls."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias

from producer.bodies import Bodies
from producer.errors import Answer, Kind, Problem, answer
from producer.metrics import TALLY

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from producer.intake import Intake
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)


class Caller(Protocol):
    """Who sends a request, as far as its head tells. Each check raises Problem (401, 403), or lets it through."""

    def check_signature(self, body: bytes) -> None:
        """The body is whole, as it came: not inflated yet. `Bodies.read` asks this, for every endpoint."""
        ...

    def check_token(self, collection: bytes) -> None:
        """A collection may bring its own `token`. The body is inflated, and may be anything. POST /payloads asks."""
        ...

    def check_topic(self, topic: str) -> None:
        """Is this caller's topic that one? Endpoints ask before the body is read."""
        ...


Admit: TypeAlias = Callable[["Scope", dict[bytes, bytes]], Caller]
"""Looks at a request's scope and headers before its body is read; raises Problem for who can't be let in."""


class Endpoint(ABC):
    """A request comes in, is published, and gets one answer.

    To write one: `_take` looks at the head, asks `admit` if there is one, reads by `bodies.read`, splits, submits, and
    awaits the outcome. What it refuses it raises as Problem.
    """

    def __init__(
        self, settings: ProducerSettings, intake: Intake, bodies: Bodies | None = None, admit: Admit | None = None
    ) -> None:
        """`bodies`: those of the process; by default, of this endpoint alone. Without `admit` anybody may call."""
        self.bodies = Bodies(settings, intake) if bodies is None else bodies
        self._topic = settings.kafka_topic
        self._intake = intake
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._take(scope, receive)
        except Problem as problem:
            reply = self._refusal(problem)
        except Exception:
            logger.exception("A request to %s failed in an unforeseen way", scope["path"])
            reply = self._refusal(Problem(Kind.INTERNAL, "headrace failed; its log says more. Please report it."))
        if reply is None:
            TALLY.requests[499] += 1
            return
        status, headers, body = reply
        TALLY.requests[status] += 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, problem: Problem) -> Answer:
        """A problem, in the words of those who call here."""
        return answer(problem)

    @abstractmethod
    async def _take(self, scope: Scope, receive: Receive) -> Answer | None:
        """The answer when all is durable; None when the client went away before its body was whole."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers by their names in lower case. One that stands there twice is a list (RFC 9110, 5.3), of which
    nobody may pick a part: the last Content-Encoding, or the last Authorization.
    """
    raw = scope["headers"]
    headers = dict(raw)
    if len(headers) != len(raw):
        headers = {}
        for name, value in raw:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


@lru_cache(4096)
def accepted(payloads: int) -> Answer:
    """The answer to a request whose payloads are all durable."""
    body = b'{"accepted":%d}' % payloads
    return Answer(200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body)
