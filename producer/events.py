"""POST /events: one record a request, of JSON or of any bytes, and CloudEvents in each of their modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from headrace.jsontext import BadJson, check_value
from producer.cloudevents import REQUIRED, Event, batched_events, binary_event, is_json, structured_event
from producer.endpoint import Endpoint, accepted, headers_of
from producer.errors import Answer, Kind, Problem
from producer.keys import KeyPointer, Tagging
from producer.payloads import LINES_TYPES, check_text
from producer.records import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from starlette.types import Receive, Scope

    from producer.bodies import Bodies
    from producer.endpoint import Admit
    from producer.intake import Intake
    from producer.keys import Tags
    from producer.settings import ProducerSettings

    RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

EVENT_BYTES: Final = 512
"""What an event's headers take in memory beside the body, about: so many small ones are held by the budget, too."""
STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
_ATTRIBUTES: Final = frozenset(b"ce-" + name.encode() for name in REQUIRED)


class Events(Endpoint):
    """What comes is the value of a record, byte for byte, and its Content-Type a header; CloudEvents become what
    their Kafka binding says (see producer.cloudevents). All of a batch is published, or nothing is.
    """

    def __init__(
        self, settings: ProducerSettings, intake: Intake, bodies: Bodies | None = None, admit: Admit | None = None
    ) -> None:
        super().__init__(settings, intake, bodies, admit)
        self._tagging = Tagging(settings)
        self._pointer = None if settings.key_pointer is None else KeyPointer(settings.key_pointer)

    async def _take(self, scope: Scope, receive: Receive) -> Answer | None:
        headers = headers_of(scope)
        read = _reading(headers)
        tags = self._tagging.tags(scope, headers)
        caller = None
        if self._admit is not None:
            caller = self._admit(scope, headers)
            caller.check_topic(self._topic)
        body = await self.bodies.read(receive, headers, caller)
        if body is None:
            return None
        reserved = len(body)
        try:
            if caller is not None:
                caller.check_token(b"")  # an event has no place for one
            events = read(scope["headers"], body)
            count = len(events)
            if not count:
                self._intake.release(reserved)
                return accepted(0)
            self._intake.reserve(count * EVENT_BYTES)
            reserved += count * EVENT_BYTES
            publication = self._intake.submit_records(self._records(events, tags), reserved)
        except BaseException:
            self._intake.release(reserved)
            raise
        del events, body  # the intake has what is to be kept of them
        await publication.outcome
        return accepted(count)

    def _records(self, events: Sequence[Event], tags: Tags) -> Records:
        keys: list[bytes | None] = [tags.key or event.key for event in events]
        if self._pointer is not None and None in keys:
            found = self._pointer.keys([event.value or b"" if event.is_json else b"" for event in events])
            keys = [key or other for key, other in zip(keys, found, strict=True)]
        return Records(
            [event.value for event in events],
            tags.headers,
            keys if any(keys) else None,
            [event.headers for event in events],
        )


def _reading(headers: dict[bytes, bytes]) -> Callable[[RawHeaders, bytes], Sequence[Event]]:
    """What makes events of a body, by its headers. Raises Problem for a form that is not taken."""
    media_type = headers.get(b"content-type", b"").decode("latin-1")
    name = media_type.partition(";")[0].strip().lower()
    if name == STRUCTURED:
        return _structured
    if name == BATCHED:
        return _batched
    if name.startswith("application/cloudevents"):
        raise Problem(
            Kind.UNSUPPORTED, f"{name} is not taken. Send CloudEvents as {STRUCTURED}, {BATCHED}, or in binary mode."
        )
    if name in LINES_TYPES:
        raise Problem(
            Kind.UNSUPPORTED, f"{name} is not taken here, where a request is one event. POST /payloads takes lines."
        )
    if not _ATTRIBUTES.isdisjoint(headers):
        return _binary
    return _plain


def _structured(headers: RawHeaders, body: bytes) -> Sequence[Event]:
    del headers  # they may say the same once more (HTTP binding, 3.2.3)
    return [structured_event(body)]


def _batched(headers: RawHeaders, body: bytes) -> Sequence[Event]:
    del headers
    return batched_events(body)


def _binary(headers: RawHeaders, body: bytes) -> Sequence[Event]:
    event = binary_event(headers, body)
    if event.is_json and body:
        _check_json(body)
    return [event]


def _plain(headers: RawHeaders, body: bytes) -> Sequence[Event]:
    media_type = next((value for name, value in headers if name == b"content-type"), None)
    is_checked = media_type is not None and is_json(media_type.decode("latin-1"))
    if is_checked:
        _check_json(body)
    elif not body:
        raise Problem(Kind.EMPTY_BODY, "The body is empty, and an event has something in it.")
    return [Event(body, [("content-type", media_type)] if media_type else [], None, is_json=is_checked)]


def _check_json(body: bytes) -> None:
    check_text(body, "Send a JSON value.")
    try:
        check_value(body)
    except BadJson as bad:
        raise Problem(
            Kind.NOT_JSON, f"The body is not JSON: {bad.what} at byte {bad.position}.{bad.hint}", byte=bad.position
        ) from None
