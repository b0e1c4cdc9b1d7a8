"""How a server leaves: answers end their connections, nobody who came is sent away, and then it ends."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket

    from headrace.management import EmbeddedServer
    from producer.settings import ProducerSettings

SECONDS: Final = 2.0


def farewell_seconds(settings: ProducerSettings) -> float:
    """Of DRAIN_SECONDS: how long answers still say that their connection ends."""
    return min(SECONDS, settings.drain_seconds / 4)


async def say_farewell(server: EmbeddedServer, listener: socket.socket, seconds: float, *, replaced: bool) -> None:
    """From now on each answer ends its connection. Then nobody new is let in, then the server ends.

    One that is `replaced` lets nobody in at once: others have copies of its socket, so its queue goes on without it.

    Who came in last still has half of the time to ask: a connection that is closed before its first answer looks
    like a failure to its client. None of this waits when nobody is connected.
    """
    while not server.started:  # noqa: ASYNC110 - a signal may come before it listens; there is nothing to wait for
        await asyncio.sleep(0.02)
    close = (b"connection", b"close")
    server.config.encoded_headers.append(close)  # of answers from the next tick on
    server.server_state.default_headers.append(close)  # of those until then
    if not replaced:
        await _until_alone(server, seconds / 2)
    waiting = [] if replaced else _accepted(listener)
    for listening in server.servers:
        listening.close()  # the kernel would reset who still waited to be accepted
    for connection in waiting:
        await asyncio.get_running_loop().connect_accepted_socket(partial(_protocol, server), connection)
    await _until_alone(server, seconds if replaced else seconds / 2)
    server.should_exit = True


def _accepted(listener: socket.socket) -> list[socket.socket]:
    """All connections that are there and that nobody has accepted yet."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listener.accept()[0])
    return found


def _protocol(server: EmbeddedServer) -> asyncio.Protocol:
    protocol: Any = server.config.http_protocol_class
    made: asyncio.Protocol = protocol(
        config=server.config, server_state=server.server_state, app_state=server.lifespan.state
    )
    return made


async def _until_alone(server: EmbeddedServer, seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while server.server_state.connections and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 - a set
        await asyncio.sleep(0.02)
