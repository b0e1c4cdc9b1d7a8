"""POST /payloads, a bare ASGI endpoint: this is the hot path, and nothing else stands on it."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from producer.errors import Answer, Kind, Problem, answer
from producer.metrics import TALLY
from producer.payloads import split_envelope, split_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from producer.batches import Headers
    from producer.intake import Intake
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

MAX_KEY_LENGTH: Final = 255
TICK_SECONDS: Final = 0.25
PIECE_BYTES: Final = 65_536  # a body that comes two bytes at a time must not take twenty times its size
_JSON_TYPES: Final = {
    "",
    "application/json",
    "application/octet-stream",
    "application/x-www-form-urlencoded",  # what `curl -d` says
    "application/csp-report",
}

_LINES_TYPES: Final = {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}


class Form(Enum):
    ENVELOPE = auto()
    LINES = auto()


class _Reading:
    """A body that is coming in: until when (the loop's time), and bytes that came, are reserved, and are promised."""

    __slots__ = ("deadline", "promised", "reserved", "size")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.size = self.reserved = self.promised = 0


class Ingest:
    """Reads a body within the limits, splits it, publishes it, and answers when it is durable.

    A client that goes away while its body comes has published nothing; one that goes later changes nothing.
    """

    def __init__(self, settings: ProducerSettings, intake: Intake) -> None:
        self._max_length = settings.max_length
        self._body_timeout = settings.body_timeout_seconds
        self._intake = intake
        self._loop = asyncio.get_running_loop()
        self._reading: dict[asyncio.Task[None], _Reading] = {}
        self._stalled: set[asyncio.Task[None]] = set()
        self._drain_until = float("inf")
        self.crowded: Callable[[], bool] = lambda: False
        """Are there more connections than may be?"""

    def drain(self, until: float) -> None:
        """No body is waited for beyond `until` (the loop's time)."""
        self._drain_until = until

    async def tick(self) -> None:
        """End what waits too long for a body. Runs until cancelled; a look at all of them beats a timer for each."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._loop.time()
            for task, reading in self._reading.items():
                if now >= min(reading.deadline, self._drain_until) and task not in self._stalled:
                    self._stalled.add(task)
                    task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            accepted = await self._take(scope, receive)
        except Problem as problem:
            status, headers, body = answer(problem)
        except Exception:
            logger.exception("A request to %s failed in an unforeseen way", scope["path"])
            status, headers, body = answer(
                Problem(Kind.INTERNAL, "headrace failed; its log says more. Please report it.")
            )
        else:
            if accepted is None:
                TALLY.requests[499] += 1
                return
            status, headers, body = _accepted(accepted)
        TALLY.requests[status] += 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _take(self, scope: Scope, receive: Receive) -> int | None:
        """How many payloads were made durable; None when the client went away before its body was whole."""
        if self.crowded():
            raise Problem(Kind.CROWDED, "Too many connections are open here (MAX_CONNECTIONS). This one is closed.")
        headers = dict(scope["headers"])
        form = _form(headers.get(b"content-type", b""))
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise Problem(
                Kind.UNSUPPORTED, f"Content-Encoding {encoding.decode('latin-1')} is not taken. Send the body as it is."
            )
        declared = int(headers.get(b"content-length", b"0"))  # 0, too, of a body in chunks
        if declared > self._max_length:
            raise self._too_long(declared)
        key = headers.get(b"idempotency-key")
        if key is not None and len(key) > MAX_KEY_LENGTH:
            raise Problem(
                Kind.BAD_HEADER,
                f"The Idempotency-Key has {len(key)} bytes.",
                header="Idempotency-Key",
                limit=MAX_KEY_LENGTH,
            )
        body = await self._read(receive, declared)
        if body is None:
            return None
        try:
            payloads = split_envelope(body) if form is Form.ENVELOPE else split_lines(body)
            if not payloads:
                self._intake.release(len(body))
                return 0
            record_headers: Headers = [] if key is None else [("idempotency-key", key)]
            outcome = self._intake.submit(payloads, record_headers, len(body))
        except BaseException:
            self._intake.release(len(body))
            raise
        accepted = len(payloads)
        del payloads, body  # the intake has them; while Kafka is awaited memory holds them once
        await outcome
        return accepted

    async def _read(self, receive: Receive, declared: int) -> bytes | None:
        """The body, with as many bytes reserved in the budget; None when the client went away."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        reading = self._reading[task] = _Reading(self._loop.time() + self._body_timeout)
        body: bytes | None = None
        try:
            if declared > PIECE_BYTES:
                await self._intake.promise(declared)
                reading.promised = reading.reserved = declared
            # A short one counts as it comes: who only says how long it will be holds nothing.
            body = await self._collect(receive, reading)
        except asyncio.CancelledError:
            if task not in self._stalled:
                raise
            task.uncancel()
            raise self._too_slow(reading.size) from None
        finally:
            del self._reading[task]
            self._stalled.discard(task)
            if reading.promised:
                self._intake.keep_promise(reading.promised)
            if body is None:
                self._intake.release(reading.reserved)
        return body

    async def _collect(self, receive: Receive, reading: _Reading) -> bytes | None:
        first = b""
        pieces: list[bytearray] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            size = reading.size + len(chunk)
            if size > self._max_length:
                raise self._too_long(None)
            if size > reading.reserved:
                self._intake.reserve(size - reading.reserved)
                reading.reserved = size
            if reading.size == 0:
                first = chunk  # mostly there is no other
            elif pieces and len(pieces[-1]) < PIECE_BYTES:
                pieces[-1] += chunk
            else:
                pieces.append(bytearray(chunk))
            reading.size = size
            if not message.get("more_body", False):
                return b"".join((first, *pieces)) if pieces else first

    def _too_long(self, declared: int | None) -> Problem:
        what = "is longer" if declared is None else f"has {declared} bytes, more"
        return Problem(
            Kind.TOO_LONG, f"The body {what} than the {self._max_length} bytes of MAX_LENGTH.", limit=self._max_length
        )

    def _too_slow(self, size: int) -> Problem:
        if self._loop.time() >= self._drain_until:
            return Problem(Kind.LEAVING, "headrace is leaving, and the body was not whole yet. Nothing was published.")
        return Problem(
            Kind.BODY_TIMEOUT,
            f"The body was not whole after {self._body_timeout:g} s (BODY_TIMEOUT_SECONDS); {size} bytes had come.",
        )


@lru_cache(256)
def _form(content_type: bytes) -> Form:
    """Raises Problem for a type that is not taken; JSON's own and all that clients send when they don't say JSON."""
    name = content_type.split(b";")[0].strip().lower().decode("latin-1")
    if name in _LINES_TYPES:
        return Form.LINES
    if name in _JSON_TYPES or name.startswith("text/") or (name.startswith("application/") and name.endswith("+json")):
        return Form.ENVELOPE
    raise Problem(Kind.UNSUPPORTED, f"Content-Type {name} is not taken. Send application/json or application/x-ndjson.")


@lru_cache(4096)
def _accepted(payloads: int) -> Answer:
    body = b'{"accepted":%d}' % payloads
    return Answer(200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body)
