"""HTTP/1.1 as uvicorn speaks it, with bounds on connections and what is read of them, and each answer in one piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_BYTES: Final = 8_192
"""At a time from a connection: most requests are shorter. uvloop would read 256,000, from a thousand connections before
the first of their requests is looked at."""
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
        http.data_received(cast("bytes", _BUFFER[:nbytes]))  # the parser copies what it keeps
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
        if self._head:
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
    """One connection. `close_idle` ends those that wait for a next request: a timer for each answer costs more."""

    most: int
    """Connections at a time: one more is cut before it takes any memory."""
    idle_since: float | None = None
    """The loop's time of the last answer, until something comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.joined = Joined(transport)
        transport.set_protocol(Reader(self))
        super().connection_made(cast("asyncio.Transport", self.joined))
        if len(self.connections) > self.most:
            transport.abort()

    def on_response_complete(self) -> None:
        self.joined.flush()  # to a HEAD there is no body
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self.idle_since = self.loop.time()


def bounded_protocol(most: int) -> type[Connection]:
    """Takes `most` connections at a time."""
    return type("Bounded", (Connection,), {"most": most})


def close_idle(connections: Iterable[Any], now: float) -> None:
    """Ends those that have waited for a request for as long as uvicorn's timeout_keep_alive says."""
    for connection in list(connections):
        if connection.idle_since is not None and now - connection.idle_since >= connection.timeout_keep_alive:
            connection.timeout_keep_alive_handler()
