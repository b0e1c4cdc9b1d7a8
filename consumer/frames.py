"""Kafka's answers gathered whole, each in one go, where asyncio's StreamReader copies a long one four times.

Inner parts used (tests/unit/test_aiokafka_parts.py fails when a new version moves them): a connection's reader, its
task, its protocol, what it does with an answer, and how it is closed.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import weakref
from typing import Any, Final

from aiokafka.conn import CloseReason

log = logging.getLogger(__name__)

_LENGTH: Final = struct.Struct(">i")
MOST_KEPT: Final = 4 * 1024 * 1024
"""A buffer that was longer once is let go after its answer."""


def gather(connection: Any) -> None:
    """Let an aiokafka connection get its answers this way from now on, if nothing is under way on it."""
    reader, writer = connection._reader, connection._writer
    if reader is None or connection._requests or reader._buffer or reader._paused:
        return
    if writer.transport.is_closing() or isinstance(writer.transport.get_protocol(), Frames):
        return
    connection._read_task.cancel()
    writer.transport.set_protocol(Frames(connection))


class Frames(asyncio.BufferedProtocol):
    """Reads answers: four bytes of length, then as much as these tell. All else it tells the former protocol."""

    def __init__(self, connection: Any) -> None:
        self._connection = weakref.ref(connection)  # one that nobody holds any more may go, as ever
        self._former = connection._protocol
        self._begin()
        self._buffer = bytearray(_LENGTH.size)

    def _begin(self) -> None:
        self._wanted = _LENGTH.size
        self._have = 0
        self._in_body = False

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return memoryview(self._buffer)[self._have : self._wanted]

    def buffer_updated(self, nbytes: int) -> None:
        self._have += nbytes
        if self._have < self._wanted:
            return
        if not self._in_body:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size <= 0:
                raise ValueError(f"an answer of {size} bytes")  # the loop ends the connection
            self._wanted, self._have, self._in_body = size, 0, True
            if size > len(self._buffer):
                self._buffer = bytearray(size)
            return
        frame = bytes(memoryview(self._buffer)[: self._wanted])
        if len(self._buffer) > MOST_KEPT:
            self._buffer = bytearray(_LENGTH.size)
        self._begin()
        self._handle(frame)

    def _handle(self, frame: bytes) -> None:
        connection = self._connection()
        if connection is None:
            return
        try:
            connection._handle_frame(frame)
        except Exception as error:
            log.exception("an answer of %s can't be read", connection)
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)

    def pause_writing(self) -> None:
        self._former.pause_writing()

    def resume_writing(self) -> None:
        self._former.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        connection = self._connection()
        if connection is not None:
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=exc or EOFError("the broker hung up"))
        self._former.connection_lost(exc)
