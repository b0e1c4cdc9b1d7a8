"""A TLS connection counts and is timed from its first moment, whatever its client does in the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import select
import ssl
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme
import uvicorn
import uvloop

from headrace.management import EmbeddedServer
from producer.farewell import say_farewell
from producer.listener import listen
from producer.protocol import end_slow_heads
from producer.secured import secured_protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import TypeAlias

    Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


async def app(scope: Any, _: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


class Door:
    """A server of `Secured` connections, and all of them that it ever had."""

    def __init__(self, tls: ssl.SSLContext, most: int) -> None:
        self.ever: list[weakref.ref[Any]] = []
        door = self

        class Watched(secured_protocol(most, tls, PATIENCE_SECONDS)):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                door.ever.append(weakref.ref(self))

        config = uvicorn.Config(
            cast("Any", app), http=Watched, lifespan="off", log_config=None, access_log=False, ws="none"
        )
        config.load()
        self.server = EmbeddedServer(config)
        self.state = self.server.server_state
        self.make = partial(Watched, config, self.state, {}, asyncio.get_running_loop())

    async def until_open(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.state.connections) != count:
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def opened(tls: ssl.SSLContext, most: int = 10) -> AsyncIterator[tuple[Door, int]]:
    door = Door(tls, most)
    server = await asyncio.get_running_loop().create_server(door.make, "127.0.0.1", 0)
    try:
        yield door, server.sockets[0].getsockname()[1]
        await door.until_open(0)
    finally:
        server.close()


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read()
    return b""


def test_a_client_that_agrees_is_answered(
    run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def play() -> None:
        async with opened(server_context) as (door, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context)
            for _ in range(2):
                writer.write(HEAD)
                assert (await reader.readuntil(b"https")).startswith(b"HTTP/1.1 200 OK")
            assert len(door.state.connections) == 1
            writer.close()

    run(play())


def test_a_handshake_that_does_not_come_is_a_head_that_does_not_come(run: Run, server_context: ssl.SSLContext) -> None:
    async def play() -> None:
        async with opened(server_context) as (door, port):
            silent, begun = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            begun[1].write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            await door.until_open(2)
            end_slow_heads(door.state.connections, 100.0, 10)
            end_slow_heads(door.state.connections, 109.9, 10)
            assert len(door.state.connections) == 2
            end_slow_heads(door.state.connections, 110.0, 10)
            for reader, writer in (silent, begun):
                assert await read_to_the_end(reader) == b""
                writer.close()

    run(play())


def test_handshakes_take_the_places_of_connections(run: Run, server_context: ssl.SSLContext) -> None:
    async def play() -> None:
        async with opened(server_context, most=2) as (door, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await door.until_open(2)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await read_to_the_end(reader) == b""
            assert len(door.state.connections) == 2
            for _, each in (*held, (reader, writer)):
                each.close()

    run(play())


def without_collector(run: Run, play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    gc.collect()
    gc.disable()
    try:
        run(play())
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "stream", [b"", HEAD, b"\x16\x03\x01\x02\x00", b"\0" * 100], ids=["nothing", "http", "half", "junk"]
)
def test_a_handshake_that_fails_leaves_nothing_to_the_collector(
    run: Run, server_context: ssl.SSLContext, stream: bytes
) -> None:
    async def play() -> None:
        async with opened(server_context) as (door, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(stream)
            writer.close()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not door.ever:
                    await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # the loop itself has let go
        assert [each() for each in door.ever] == [None]

    without_collector(run, play)


@pytest.mark.parametrize("aborts", [False, True], ids=["closed", "aborted"])
@pytest.mark.parametrize("stream", [HEAD, HEAD[:-2], HEAD * 3, b"\0\0"], ids=["whole", "half", "several", "junk"])
def test_a_tls_connection_that_has_ended_leaves_nothing_to_the_collector(
    run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext, stream: bytes, *, aborts: bool
) -> None:
    """It has a buffer of 256 KiB, and OpenSSL's own."""

    async def play() -> None:
        async with opened(server_context) as (door, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context)
            writer.write(stream)
            if aborts:
                writer.transport.abort()
            else:
                writer.close()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not door.ever:
                    await asyncio.sleep(0.001)
        while door.state.tasks:
            await asyncio.gather(*door.state.tasks)
        await asyncio.sleep(0)  # the loop itself has let go
        assert [each() for each in door.ever] == [None]

    without_collector(run, play)


def test_who_is_accepted_last_is_answered_by_tls_too(
    run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A server that leaves lets in who waits in its queue."""

    async def play() -> None:
        door = Door(server_context, 10)
        door.server.lifespan = door.server.config.lifespan_class(door.server.config)
        door.server.servers, door.server.started = [], True
        with listen("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                asking = group.create_task(asyncio.open_connection("127.0.0.1", port, ssl=client_context))
                await asyncio.to_thread(select.select, [listener], [], [])
                group.create_task(say_farewell(door.server, listener, 2 * PATIENCE_SECONDS, replaced=False))
                reader, writer = await asking
                writer.write(HEAD)
                answer = await reader.read()
                writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer

    run(play())
