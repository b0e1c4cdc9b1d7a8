"""The producer as a process: sockets, signals, and the order of leaving."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.errors import HeadraceError
from headrace.lifecycle import on_ending_signals
from headrace.management import EmbeddedServer, Health, serve_management
from producer.app import PATH, create_app
from producer.ingest import Ingest
from producer.intake import Intake
from producer.publisher import Publisher

if TYPE_CHECKING:
    import signal

    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS: Final = 0.5  # of DRAIN_SECONDS, so that the last answers still get out
FAREWELL_SECONDS: Final = 2.0  # of DRAIN_SECONDS: answers still say that their connection ends
BACKLOG: Final = 2048
SPARE_DESCRIPTORS: Final = 64  # for Kafka, logs, the management port


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises HeadraceError that says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = socket.socket(family, kind, protocol)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen(BACKLOG)
            server.setblocking(False)
        except OSError:
            server.close()
            raise
    except OSError as error:
        raise HeadraceError(_cannot_listen(host, port, error)) from error
    return server


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program. Stop it, or set HTTP_PORT to a free one (0 finds one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} on {host} may not be opened by this user. Set HTTP_PORT to one above 1023."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine. Set HTTP_HOST to one that is, or to 0.0.0.0 for all."
    return f"Could not listen on {host}:{port} (HTTP_HOST, HTTP_PORT): {error}"


def bounded_protocol(most: int) -> type[HttpToolsProtocol]:
    """HTTP/1.1 as uvicorn speaks it, `most` connections at a time: one more is cut before it takes any memory."""

    class Bounded(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()

    return Bounded


def allow_descriptors(count: int) -> None:
    """As many open files as connections need, where the system lets us have them (many shells allow 1,024)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(settings: ProducerSettings, listener: socket.socket) -> None:
    """Take payloads until asked to end; then answer what is in flight, within DRAIN_SECONDS, and return.

    For a moment requests are still taken, and their answers say `Connection: close`: who sends one after the other
    goes elsewhere by itself, where a connection that just ended would look like a failure. A second signal ends all
    at once; what was not answered then may be in Kafka or not.
    """
    loop = asyncio.get_running_loop()
    health = Health()
    intake = Intake(settings)
    publisher = Publisher(settings, health, intake)
    ingest = Ingest(settings, intake)
    app: Any = create_app(ingest, health)
    most = settings.max_connections + settings.max_connections // 4
    allow_descriptors(most)
    farewell = min(FAREWELL_SECONDS, settings.drain_seconds / 4)
    server = EmbeddedServer(
        uvicorn.Config(
            app,
            http=bounded_protocol(most),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds - farewell)),
        )
    )
    connections = server.server_state.connections
    ingest.crowded = lambda: len(connections) > settings.max_connections
    parts: list[asyncio.Task[None]] = []
    leaving = False

    async with asyncio.TaskGroup() as group:

        def leave(number: signal.Signals) -> None:
            nonlocal leaving
            if leaving:
                logger.info("%s: leaving at once", number.name)
                server.should_exit = server.force_exit = True
                for part in parts:
                    part.cancel()
                return
            leaving = True
            logger.info("%s: leaving, requests in flight have %g s", number.name, settings.drain_seconds)
            health.report("leaving", "The producer is leaving.")
            until = loop.time() + max(settings.drain_seconds - LAST_WORDS_SECONDS, 0)
            ingest.drain(until)
            publisher.drain(until)
            parts.append(group.create_task(_say_farewell(server, listener, farewell)))

        with on_ending_signals(leave):
            address = listener.getsockname()
            logger.info(
                "Taking payloads at http://%s:%d%s",
                f"[{address[0]}]" if ":" in address[0] else address[0],
                address[1],
                PATH,
            )
            parts += [
                group.create_task(publisher.run()),
                group.create_task(ingest.tick()),
                group.create_task(serve_management(health, settings.management_host, settings.management_port)),
            ]
            _quiet_garbage_collection()
            await server.serve(sockets=[listener])
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
    logger.info("Left")


async def _say_farewell(server: EmbeddedServer, listener: socket.socket, seconds: float) -> None:
    """From now on each answer ends its connection. Then nobody new is let in, then the server ends.

    Who came in last still has half of the time to ask: a connection that is closed before its first answer looks
    like a failure to its client. None of this waits when nobody is connected.
    """
    close = (b"connection", b"close")
    server.config.encoded_headers.append(close)  # of answers from the next tick on
    server.server_state.default_headers.append(close)  # of those until then
    await _until_alone(server, seconds / 2)
    waiting = _accepted(listener)
    for listening in server.servers:
        listening.close()  # the kernel would reset who still waited to be accepted
    for connection in waiting:
        await asyncio.get_running_loop().connect_accepted_socket(partial(_protocol, server), connection)
    await _until_alone(server, seconds / 2)
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


def _quiet_garbage_collection() -> None:
    """What is there now stays; requests leave no cycles behind, so looking for them often is wasted."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
