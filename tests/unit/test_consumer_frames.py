"""Answers gathered whole: over real sockets, plain and TLS, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop
from aiokafka.conn import AIOKafkaProtocol, CloseReason

from consumer.frames import MOST_KEPT, Frames, gather

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SIZES = [1, 5, 70_000, 3, MOST_KEPT + 1, 4, 300_000]


class Connection:
    """What `gather` sees of an aiokafka connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: Any) -> None:
        self._reader: asyncio.StreamReader | None = reader
        self._writer = writer
        self._protocol = protocol
        self._requests: deque[Any] = deque()
        self._read_task = asyncio.create_task(reader.readexactly(4))
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[tuple[CloseReason, BaseException | None]] = asyncio.Future()

    def _handle_frame(self, frame: bytes) -> None:
        if frame == b"bad":
            raise ValueError("bad")
        self.frames.put_nowait(frame)

    def close(self, reason: CloseReason, exc: BaseException | None = None) -> None:
        if self._reader is not None:
            self._reader = None
            self._writer.close()
            self.closed.set_result((reason, exc))


def frame(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


@contextlib.asynccontextmanager
async def connected(*, tls: bool = False) -> AsyncIterator[tuple[Connection, asyncio.StreamWriter, Any]]:
    """A connection, the server's end of it, and the future that tells when it is lost."""
    there: asyncio.Future[asyncio.StreamWriter] = asyncio.Future()
    server_context = client_context = None
    if tls:
        authority = trustme.CA()
        server_context, client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(server_context)
        authority.configure_trust(client_context)
    server = await asyncio.start_server(lambda _, writer: there.set_result(writer), "127.0.0.1", ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    reader, lost = asyncio.StreamReader(), loop.create_future()
    protocol = AIOKafkaProtocol(lost, reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, "127.0.0.1", port, ssl=client_context)
    connection = Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop), protocol)
    await asyncio.sleep(0)  # it reads
    far = await there
    try:
        yield connection, far, lost
    finally:
        transport.close()
        far.close()
        server.close()
        await lost


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str, **given: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(test(**given), 30))

    return run


async def come_back(*, tls: bool) -> None:
    async with connected(tls=tls) as (connection, far, _):
        gather(connection)
        wanted = [bytes([number]) * size for number, size in enumerate(SIZES)]
        far.write(frame(b"a")[:2])
        await far.drain()
        far.write(frame(b"a")[2:] + frame(b"bc"))
        assert [await connection.frames.get(), await connection.frames.get()] == [b"a", b"bc"]
        for content in wanted:
            far.write(frame(content))
        assert [await connection.frames.get() for _ in wanted] == wanted
        connection._writer.write(b"a request")
        await connection._writer.drain()
        assert connection._reader is not None


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_answers_come_whole_and_in_order(loop: str, tls: bool) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(come_back(tls=tls), 30))


@on_each_loop
async def test_a_long_buffer_is_not_kept() -> None:
    async with connected() as (connection, far, _):
        gather(connection)
        far.write(frame(b"x" * (MOST_KEPT + 1)))
        await connection.frames.get()
        frames = connection._writer.transport.get_protocol()
        assert isinstance(frames, Frames)
        assert len(frames._buffer) < MOST_KEPT


@on_each_loop
async def test_a_broker_that_hangs_up_ends_the_connection() -> None:
    async with connected() as (connection, far, lost):
        gather(connection)
        far.write(frame(b"half")[:-1])
        far.close()
        reason, error = await connection.closed
        assert reason is CloseReason.CONNECTION_BROKEN
        assert isinstance(error, EOFError | OSError)
        await lost


@on_each_loop
async def test_an_answer_that_can_t_be_read_ends_the_connection() -> None:
    async with connected() as (connection, far, lost):
        gather(connection)
        far.write(frame(b"bad"))
        reason, error = await connection.closed
        assert reason is CloseReason.CONNECTION_BROKEN
        assert isinstance(error, ValueError)
        await lost


@pytest.mark.parametrize("length", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
async def test_a_length_that_can_t_be_ends_the_connection(length: bytes) -> None:
    async with connected() as (connection, far, _):
        gather(connection)
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        far.write(length)
        reason, error = await connection.closed
        assert reason is CloseReason.CONNECTION_BROKEN
        assert isinstance(error, ValueError)


async def test_only_a_connection_at_rest_is_changed() -> None:
    async with connected() as (connection, far, _):
        transport = connection._writer.transport
        connection._requests.append("under way")
        gather(connection)
        connection._requests.clear()
        far.write(b"\0\0")
        while not connection._reader._buffer:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        gather(connection)
        assert transport.get_protocol() is connection._protocol
        far.write(b"\0\0")
        await connection._read_task
        gather(connection)
        frames = transport.get_protocol()
        assert isinstance(frames, Frames)
        gather(connection)
        assert transport.get_protocol() is frames
        reader, connection._reader = connection._reader, None
        gather(connection)
        connection._reader = reader
