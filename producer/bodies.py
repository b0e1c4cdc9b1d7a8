"""Bodies come in here: within their limits and their time, and with their bytes counted in the budget."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from producer.errors import Kind, Problem
from producer.inflating import ACCEPTED, BadPacking, coding_of, inflate

if TYPE_CHECKING:
    from collections.abc import Sized

    from starlette.types import Receive

    from producer.endpoint import Caller
    from producer.inflating import Coding
    from producer.intake import Intake
    from producer.settings import ProducerSettings

TICK_SECONDS: Final = 0.25
TURNS: Final = 2
"""Of the loop, before it is told who is slow: what came while this process stood still is read, and then taken."""
STEPS_AT_A_TIME: Final = 16  # of inflating, a millisecond or two: then others have their turn
_ENCODINGS: Final = frozenset({b"content-encoding", b"transfer-encoding"})
PIECE_BYTES: Final = 65_536  # a body that comes two bytes at a time must not take twenty times its size


class _Reading:
    """A body that is coming in: until when (the loop's time), and bytes that came, are reserved, and are promised."""

    __slots__ = ("deadline", "promised", "reserved", "size")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.size = self.reserved = self.promised = 0


class Bodies:
    """Reads requests' bodies, for all endpoints of a process.

    Promises: a body that `read` returns is whole, and its length is reserved in the intake's budget: whoever has it
    gives these bytes on to `Intake.submit`, or back by `Intake.release`. Whatever else `read` does, nothing stays
    reserved.
    """

    def __init__(self, settings: ProducerSettings, intake: Intake) -> None:
        self._max_length = settings.max_length
        self._max_inflated = settings.max_inflated_bytes or settings.max_length
        self._max_connections = settings.max_connections
        self._max_requests = settings.max_requests
        self._timeout = settings.body_timeout_seconds
        self._intake = intake
        self._loop = asyncio.get_running_loop()
        self._reading: dict[asyncio.Task[None], _Reading] = {}
        self._stalled: set[asyncio.Task[None]] = set()
        self._drain_until = float("inf")
        self.connections: Sized = ()
        """Those that are open now; the server's."""
        self.requests: Sized = ()
        """Those that are not answered yet; the server's."""

    def drain(self, until: float) -> None:
        """No body is waited for beyond `until` (the loop's time)."""
        self._drain_until = until

    async def tick(self) -> None:
        """End what waits too long for a body. Runs until cancelled; a look at all of them beats a timer for each."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            now = self._loop.time()
            for task, reading in self._reading.items():
                if now >= min(reading.deadline, self._drain_until) and task not in self._stalled:
                    self._stalled.add(task)
                    task.cancel()

    async def read(self, receive: Receive, headers: dict[bytes, bytes], caller: Caller | None = None) -> bytes | None:
        """The body of the request with these headers, inflated; None when its client went away.

        Raises Problem where there are too many connections, the body is too long, too slow or packed in a way that
        can't be undone, or the caller's signature is not its.
        """
        if len(self.connections) > self._max_connections or len(self.requests) > self._max_requests:
            raise self._too_many()
        coding = None if _ENCODINGS.isdisjoint(headers) else _coding(headers)
        declared = int(headers.get(b"content-length", b"0"))  # 0, too, of a body in chunks
        if declared > self._max_length:
            raise self._too_long(declared)
        task = asyncio.current_task(self._loop)
        assert task is not None
        reading = self._reading[task] = _Reading(self._loop.time() + self._timeout)
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
        if body is not None and (caller is not None or coding is not None):
            return await self._open(body, caller, coding)
        return body

    async def _open(self, packed: bytes, caller: Caller | None, coding: Coding | None) -> bytes:
        """Who signs does so as it comes; what nobody would answer for is not inflated."""
        reserved = len(packed)
        pieces: list[bytes] = []
        size = 0
        try:
            if caller is not None:
                caller.check_signature(packed)
            if coding is None:
                return packed
            for step, piece in enumerate(inflate(coding, packed), 1):
                size += len(piece)
                if size > self._max_inflated:
                    raise self._unfolds_too_far()
                self._intake.reserve(len(piece))
                reserved += len(piece)
                pieces.append(piece)
                if step % STEPS_AT_A_TIME == 0:
                    await asyncio.sleep(0)
        except BadPacking as bad:
            self._intake.release(reserved)
            raise Problem(
                Kind.BAD_ENCODING, f"The body is no {coding.value if coding else 'such thing'}: {bad}."
            ) from None
        except BaseException:
            self._intake.release(reserved)
            raise
        self._intake.release(len(packed))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

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

    def _too_many(self) -> Problem:
        if len(self.connections) > self._max_connections:
            return Problem(Kind.CROWDED, "Too many connections are open here (MAX_CONNECTIONS). This one is closed.")
        return Problem(Kind.BUSY, f"More than {self._max_requests} requests are under way (MAX_REQUESTS).")

    def _too_long(self, declared: int | None) -> Problem:
        what = "is longer" if declared is None else f"has {declared} bytes, more"
        return Problem(
            Kind.TOO_LONG, f"The body {what} than the {self._max_length} bytes of MAX_LENGTH.", limit=self._max_length
        )

    def _unfolds_too_far(self) -> Problem:
        return Problem(
            Kind.TOO_LONG,
            f"Inflated, the body is longer than {self._max_inflated} bytes (MAX_INFLATED_BYTES, or else MAX_LENGTH).",
            limit=self._max_inflated,
        )

    def _too_slow(self, size: int) -> Problem:
        if self._loop.time() >= self._drain_until:
            return Problem(Kind.LEAVING, "headrace is leaving, and the body was not whole yet. Nothing was published.")
        return Problem(
            Kind.BODY_TIMEOUT,
            f"The body was not whole after {self._timeout:g} s (BODY_TIMEOUT_SECONDS); {size} bytes had come.",
        )


def _coding(headers: dict[bytes, bytes]) -> Coding | None:
    """Raises Problem for what can't be inflated. The server has taken chunks apart, and done nothing else."""
    transfer = headers.get(b"transfer-encoding", b"chunked")
    if transfer.strip().lower() != b"chunked":
        raise Problem(
            Kind.UNSUPPORTED,
            f"Transfer-Encoding {transfer.decode('latin-1')} is not taken, but chunked alone. Content-Encoding may say "
            "what the body is packed with.",
        )
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return None
    try:
        return coding_of(encoding)
    except ValueError:
        raise Problem(
            Kind.UNSUPPORTED,
            f"Content-Encoding {encoding.decode('latin-1')} is not taken. Send one of {ACCEPTED}, or it as it is.",
            accept_encoding=ACCEPTED,
        ) from None
