"""POST /payloads: this is the hot path, and nothing else stands on it."""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from producer.endpoint import Endpoint, accepted, headers_of
from producer.errors import Answer, Kind, Problem
from producer.keys import NO_TAGS, KeyPointer, Tagging
from producer.payloads import LINES_TYPES, split_envelope, split_lines
from producer.records import Records

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from starlette.types import Receive, Scope

    from producer.bodies import Bodies
    from producer.endpoint import Admit
    from producer.intake import Intake
    from producer.keys import Tags
    from producer.settings import ProducerSettings

_JSON_TYPES: Final = {
    "",
    "application/json",
    "application/octet-stream",
    "application/x-www-form-urlencoded",  # what `curl -d` says
    "application/csp-report",
}
_LOOKED_AT: Final = 256  # bytes of a Content-Type: what is kept of strangers' words is bounded


class Form(Enum):
    ENVELOPE = auto()
    LINES = auto()


class Ingest(Endpoint):
    """Reads a body within the limits, splits it, publishes it, and answers when it is durable.

    A client that goes away while its body comes has published nothing; one that goes later changes nothing.
    """

    def __init__(
        self, settings: ProducerSettings, intake: Intake, bodies: Bodies | None = None, admit: Admit | None = None
    ) -> None:
        super().__init__(settings, intake, bodies, admit)
        self._tagging = Tagging(settings)
        self._has_no_tags = self._tagging.has_none
        self._pointer = None if settings.key_pointer is None else KeyPointer(settings.key_pointer)

    async def _take(self, scope: Scope, receive: Receive) -> Answer | None:
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            headers = headers_of(scope)
        form = _form(headers.get(b"content-type", b"")[:_LOOKED_AT])
        tags = NO_TAGS if self._has_no_tags(headers) else self._tagging.tags(scope, headers)
        caller = None
        if self._admit is not None:
            caller = self._admit(scope, headers)
            caller.check_topic(self._topic)
        body = await self.bodies.read(receive, headers, caller)
        if body is None:
            return None
        try:
            if caller is not None:
                caller.check_token(body if form is Form.ENVELOPE else b"")
            payloads = split_envelope(body) if form is Form.ENVELOPE else split_lines(body)
            if not payloads:
                self._intake.release(len(body))
                return accepted(0)
            if tags.key is None and self._pointer is None:
                outcome = self._intake.submit(payloads, tags.headers, len(body))
            else:
                outcome = self._submit_keyed(payloads, tags, len(body))
        except BaseException:
            self._intake.release(len(body))
            raise
        count = len(payloads)
        del payloads, body  # the intake has them; while Kafka is awaited memory holds them once
        await outcome
        return accepted(count)

    def _submit_keyed(self, payloads: Sequence[bytes], tags: Tags, reserved: int) -> asyncio.Future[None]:
        """A key that the request names is that of all its payloads; else each may have one of its own."""
        if tags.key is not None:
            keys: Sequence[bytes | None] = [tags.key] * len(payloads)
        else:
            assert self._pointer is not None
            keys = self._pointer.keys(payloads)
        return self._intake.submit_records(Records(payloads, tags.headers, keys), reserved).outcome


@lru_cache(256)
def _form(content_type: bytes) -> Form:
    """Raises Problem for a type that is not taken; JSON's own and all that clients send when they don't say JSON."""
    name = content_type.split(b";")[0].strip().lower().decode("latin-1")
    if name in LINES_TYPES:
        return Form.LINES
    if name in _JSON_TYPES or name.startswith("text/") or (name.startswith("application/") and name.endswith("+json")):
        return Form.ENVELOPE
    raise Problem(Kind.UNSUPPORTED, f"Content-Type {name} is not taken. Send application/json or application/x-ndjson.")
