"""A connection that has ended is gone at once: the producer's collector looks for cycles seldom."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import weakref
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from producer.protocol import HEAD_BYTES, bounded_protocol

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
LAST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


async def app(_: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def lives(stream: bytes, *, reset: bool) -> tuple[int, int]:
    """How many connections there were, and how many are still in memory when all have ended."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(cast("Any", app), lifespan="off", log_config=None, access_log=False, ws="none")
    protocol, state = bounded_protocol(10), ServerState()
    made: list[weakref.ref[Any]] = []
    ended = asyncio.Event()

    class Watched(protocol):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            super().__init__(config, state, {}, loop)
            made.append(weakref.ref(self))

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    server = await loop.create_server(Watched, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, stream)
        if reset:
            while not state.connections:
                await asyncio.sleep(0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            client.shutdown(socket.SHUT_WR)
    await ended.wait()
    while state.tasks:
        await asyncio.gather(*state.tasks)
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)  # the loop itself has let go
    return len(made), sum(each() is not None for each in made)


@pytest.mark.parametrize(
    "stream",
    [
        REQUEST,
        REQUEST * 5,
        REQUEST + LAST + REQUEST * 3,
        LAST + REQUEST,
        REQUEST[:20],
        REQUEST[:-1],
        REQUEST * 2 + REQUEST[:-1],
        LAST + REQUEST[:-1],
        REQUEST + b"\0\0\0\0",
        REQUEST * 2 + b"X" * (HEAD_BYTES + 1),
        b"",
    ],
    ids=range(11),
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(stream: bytes, *, reset: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            made, left = runner.run(lives(stream, reset=reset))
    finally:
        gc.enable()
    assert (made, left) == (1, 0)
