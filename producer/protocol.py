"""HTTP/1.1 as uvicorn speaks it, with bounds on connections and what is read of them, and each answer in one piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from producer.errors import Kind, Problem, answer
from producer.metrics import TALLY

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_BYTES: Final = 8_192
"""At a time from a connection: most requests are shorter. uvloop would read 256,000, from a thousand connections before
the first of their requests is looked at."""
HEAD_BYTES: Final = 65_536
FRAMING: Final = 12
"""Bytes around a piece of a body that comes in pieces; what a client adds to these counts as the head does."""
LEFTOVER_BYTES: Final = 16 * 1024 * 1024
"""Of a body that is answered already: who sends more is cut off, though the answer may be lost to it."""
_BUFFER: Final = memoryview(bytearray(READ_BYTES))


class Reader(asyncio.BufferedProtocol):
    """Reads for a connection, into the one buffer of all, and no more of a body than the app has asked for.

    So what is refused, or waits to be looked at, takes READ_BYTES; the rest of it stays with the kernel and the client.
    """

    def __init__(self, http: Connection) -> None:
        self._http = http
        self.connection_lost = http.connection_lost  # type: ignore[method-assign]
        self.eof_received = http.eof_received  # type: ignore[method-assign]
        self.pause_writing = http.pause_writing  # type: ignore[method-assign]
        self.resume_writing = http.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        http = self._http
        http.idle_since = None
        http.came += nbytes
        http.data_received(cast("bytes", _BUFFER[:nbytes]))  # the parser copies what it keeps
        if http.came > HEAD_BYTES:
            http.check_length()
        if nbytes == READ_BYTES and (cycle := cast("Any", http.cycle)) is not None and not cycle.response_complete:
            http.flow.pause_reading()  # until the app receives, or has answered


class Joined:
    """A transport on which an answer's head waits for what is written next.

    uvicorn writes head and body one after the other. Each would be a system call and a packet: a tenth of all that a
    request costs. Nothing waits beyond its answer: `flush` is called when it is complete.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self.is_closing():
            self._head = b""  # its client is gone, though the app does not know yet; uvloop would raise
        elif self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class Connection(HttpToolsProtocol):
    """One connection. What takes too long is ended by a look at all of them: a timer for each answer costs more.

    What the parser keeps is bounded: bytes that aren't a body's are a head, trailers, or the length of a body's piece.
    """

    most: int
    """Connections at a time: one more is cut before it takes any memory."""
    idle_since: float | None = None
    """The loop's time of the last answer, until something comes."""
    came: int = 0
    """Bytes since the last answer, or the last request's end."""
    body_came: int = 0
    """Of these: those of a body."""
    pieces_came: int = 0
    """Of that body, where it comes in pieces."""
    waited_since: float | None = None
    """The loop's time when `end_slow_heads` first saw that the next request's head, or the rest of an answered body, is
    waited for."""
    waited_after: Any = None
    """The request before that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.joined = Joined(transport)
        transport.set_protocol(Reader(self))
        super().connection_made(cast("asyncio.Transport", self.joined))
        if len(self.connections) > self.most:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's; and requests that wait for their turn never begin. Each holds the connection, which holds it:
        left so, it would stay until Python looks for cycles, which it is told to do seldom.
        """
        super().connection_lost(exc)
        for cycle, _ in self.pipeline:
            cycle.on_response = _nothing
        self.pipeline.clear()

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, and counted; there are no WebSockets here."""
        self.body_came += len(body)
        cycle = cast("Any", self.cycle)
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_chunk_header(self) -> None:
        self.pieces_came += 1

    def on_message_complete(self) -> None:
        """As uvicorn's; what comes now is the next head."""
        self.came = self.body_came = self.pieces_came = 0
        cycle = cast("Any", self.cycle)
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.joined.flush()  # to a HEAD there is no body
        self.came = self.body_came = self.pieces_came = 0
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self.idle_since = self.loop.time()

    @property
    def is_in_head(self) -> bool:
        """Has a request begun whose head isn't whole?"""
        scope, cycle = cast("Any", self.scope), cast("Any", self.cycle)
        return scope is not None and (cycle is None or scope is not cycle.scope)

    @property
    def waits(self) -> bool:
        """For a first request, the rest of a head, or the rest of a body that is answered already."""
        cycle = cast("Any", self.cycle)
        return self.idle_since is None and (cycle is None or cycle.response_complete)

    def check_length(self) -> None:
        """Ends the connection where more comes than is kept or looked at."""
        if self.came - self.body_came - FRAMING * self.pieces_came > HEAD_BYTES:
            self.refuse(
                Kind.HEAD_TOO_LONG,
                f"The head, with all that is no body, has more than {HEAD_BYTES} bytes.",
            )
        elif self.waits and self.body_came > LEFTOVER_BYTES:
            self.transport.close()

    def refuse(self, kind: Kind, detail: str) -> None:
        """Ends the connection, with an answer where that can't be taken for another request's.

        A request that is whole and under way is answered first, by the app; nothing more is read until then.
        """
        cycle = cast("Any", self.cycle)
        under_way = cycle is not None and not cycle.response_complete
        if under_way and (not cycle.more_body or cycle.response_started):
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if (under_way or self.is_in_head) and not self.transport.is_closing():
            status, headers, body = answer(Problem(kind, detail))
            TALLY.requests[status] += 1
            head = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", body)))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what its parser doesn't know, in our words."""
        self.refuse(Kind.BAD_REQUEST, msg)


def _nothing() -> None:
    """What is left to do when a request's connection is gone."""


def bounded_protocol(most: int) -> type[Connection]:
    """Takes `most` connections at a time."""
    return type("Bounded", (Connection,), {"most": most})


def close_idle(connections: Iterable[Any], now: float) -> None:
    """Ends those that have waited for a request for as long as uvicorn's timeout_keep_alive says."""
    for connection in list(connections):
        if connection.idle_since is not None and now - connection.idle_since >= connection.timeout_keep_alive:
            connection.timeout_keep_alive_handler()


def end_slow_heads(connections: Iterable[Any], now: float, seconds: float) -> None:
    """Ends those that have sent no whole head, or not the rest of an answered body, for so long: 408, or silence.

    A connection that is seen waiting is seen again waiting after the same request: then it has waited all the time.
    """
    for connection in list(connections):
        if not connection.waits:
            connection.waited_since = connection.waited_after = None
        elif connection.waited_since is None or connection.waited_after is not connection.cycle:
            connection.waited_since, connection.waited_after = now, connection.cycle
        elif now - connection.waited_since < seconds:
            continue
        elif connection.is_in_head:
            connection.refuse(
                Kind.HEAD_TIMEOUT, f"The request's head was not whole after {seconds:g} s (HEADER_TIMEOUT_SECONDS)."
            )
        else:
            connection.transport.close()
