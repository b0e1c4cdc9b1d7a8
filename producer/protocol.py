"""HTTP/1.1 as uvicorn speaks it, with a bound on connections, and each answer in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio


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


def bounded_protocol(most: int) -> type[HttpToolsProtocol]:
    """Takes `most` connections at a time: one more is cut before it takes any memory."""

    class Bounded(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.joined = Joined(transport)
            super().connection_made(cast("asyncio.Transport", self.joined))
            if len(self.connections) > most:
                transport.abort()

        def on_response_complete(self) -> None:
            self.joined.flush()  # to a HEAD there is no body
            super().on_response_complete()

    return Bounded
