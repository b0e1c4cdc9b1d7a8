"""The producer's server: what belongs together, signals, and the order of leaving."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from headrace.lifecycle import either, on_ending_signals, stop_with_parent
from headrace.management import EmbeddedServer, Health, serve_management
from producer.access import access_for
from producer.app import EVENTS_PATH, PATH, create_app
from producer.bodies import Bodies
from producer.events import Events
from producer.ingest import Ingest
from producer.intake import open_intakes
from producer.protocol import bounded_protocol, close_idle, end_slow_heads
from producer.publisher import Publisher
from producer.rest_proxy import TOPIC_PATHS, RestProxy

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS: Final = 0.5  # of DRAIN_SECONDS, so that the last answers still get out
FAREWELL_SECONDS: Final = 2.0  # of DRAIN_SECONDS: answers still say that their connection ends
CONNECTING_SECONDS: Final = 3.0
IDLE_TICK_SECONDS: Final = 1.0
M_MMAP_THRESHOLD: Final = -3  # malloc.h
LONG_BUFFER_BYTES: Final = 256 * 1024
SPARE_DESCRIPTORS: Final = 64  # for Kafka, logs, the management port


CLIENTS_FAULTS: Final = ("Invalid HTTP request", "Unsupported upgrade request", "No supported WebSocket library")
"""What uvicorn warns of, a line a request: whoever can connect could fill the log with it. They are counted."""


def allow_descriptors(count: int) -> None:
    """As many open files as connections need, where the system lets us have them (many shells allow 1,024)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(settings: ProducerSettings, listener: socket.socket, *, listen_when_connected: bool = False) -> None:
    """Take payloads until asked to end; then answer what is in flight, within DRAIN_SECONDS, and return.

    With `listen_when_connected`, connections are taken once Kafka answers, or doesn't for CONNECTING_SECONDS: until
    then others on the port take them. A worker whose supervisor is gone ends, too.

    For a moment requests are still taken, and their answers say `Connection: close`: who sends one after the other
    goes elsewhere by itself, where a connection that just ended would look like a failure. A second signal ends all
    at once; what was not answered then may be in Kafka or not.
    """
    loop = asyncio.get_running_loop()
    health = Health()
    intakes = open_intakes(settings)
    intake = intakes[settings.kafka_topic]
    publisher = Publisher(settings, health, *intakes.values())
    bodies = Bodies(settings, intake)
    access = access_for(settings)
    admit = None if access is None else access.admit
    ingest = Ingest(settings, intake, bodies, admit)
    events = Events(settings, intake, bodies, admit)
    others = {EVENTS_PATH: events, **dict.fromkeys(TOPIC_PATHS, RestProxy(settings, intakes, bodies, admit))}
    app: Any = create_app(ingest, health, others, origins=settings.cors_origins)
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    tls = settings.tls()
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
            ssl_context_factory=None if tls is None else (lambda *_: tls),
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds - farewell)),
        )
    )
    connections = server.server_state.connections
    bodies.connections, bodies.requests = connections, server.server_state.tasks
    parts: list[asyncio.Task[None]] = []
    leaving, orphaned = asyncio.Event(), asyncio.Event()

    async with stop_with_parent(orphaned), asyncio.TaskGroup() as group:

        def leave(why: str) -> None:
            if leaving.is_set():
                logger.info("%s: leaving at once", why)
                server.should_exit = server.force_exit = True
                for part in parts:
                    part.cancel()
                return
            leaving.set()
            logger.info("%s: leaving, requests in flight have %g s", why, settings.drain_seconds)
            health.report("leaving", "The producer is leaving.")
            until = loop.time() + max(settings.drain_seconds - LAST_WORDS_SECONDS, 0)
            bodies.drain(until)
            publisher.drain(until)
            parts.append(group.create_task(_say_farewell(server, listener, farewell)))

        with on_ending_signals(lambda number: leave(number.name)):
            parts += [
                group.create_task(publisher.run()),
                group.create_task(bodies.tick()),
                group.create_task(serve_management(health, settings.management_host, settings.management_port)),
                group.create_task(_end_slow_ones(server, settings.header_timeout_seconds)),
                group.create_task(_leave_with_parent(orphaned, leaving, leave)),
            ]
            if listen_when_connected:
                await _until_connected(publisher, leaving)
            address = listener.getsockname()
            logger.info(
                "Taking payloads at %s://%s:%d%s",
                "http" if tls is None else "https",
                f"[{address[0]}]" if ":" in address[0] else address[0],
                address[1],
                PATH,
            )
            _quiet_garbage_collection()
            _keep_no_long_buffers()
            await server.serve(sockets=[listener])
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
    logger.info("Left")


def _is_ours(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(CLIENTS_FAULTS)


async def _end_slow_ones(server: EmbeddedServer, head_seconds: float) -> None:
    while True:
        await asyncio.sleep(IDLE_TICK_SECONDS)
        now = asyncio.get_running_loop().time()
        close_idle(server.server_state.connections, now)
        end_slow_heads(server.server_state.connections, now, head_seconds)


async def _leave_with_parent(orphaned: asyncio.Event, leaving: asyncio.Event, leave: Callable[[str], None]) -> None:
    await orphaned.wait()
    if not leaving.is_set():  # a second asking would hurry it
        leave("The supervising process is gone")


async def _until_connected(publisher: Publisher, leaving: asyncio.Event) -> None:
    connecting = asyncio.ensure_future(publisher.connected.wait())
    try:
        async with asyncio.timeout(CONNECTING_SECONDS):
            await either(connecting, leaving)
    except TimeoutError:
        pass  # so it answers 503, and says why
    finally:
        connecting.cancel()


async def _say_farewell(server: EmbeddedServer, listener: socket.socket, seconds: float) -> None:
    """From now on each answer ends its connection. Then nobody new is let in, then the server ends.

    Who came in last still has half of the time to ask: a connection that is closed before its first answer looks
    like a failure to its client. None of this waits when nobody is connected.
    """
    while not server.started:  # noqa: ASYNC110 - a signal may come before it listens; there is nothing to wait for
        await asyncio.sleep(0.02)
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


def _keep_no_long_buffers() -> None:
    """Long bodies and batches go back to the system when they are freed, where the C library is GNU's.

    By itself it would keep such buffers for the next ones once the first is freed, and hold half as much again.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LONG_BUFFER_BYTES)
