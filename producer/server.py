"""The producer's server: what belongs together, signals, and the order of leaving."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from headrace.lifecycle import either, on_ending_signals, stop_with_parent
from headrace.management import EmbeddedServer, Health, serve_management
from producer.access import access_for
from producer.app import EVENTS_PATH, PATH, create_app
from producer.bodies import Bodies
from producer.ending import Ending
from producer.events import Events
from producer.farewell import farewell_seconds
from producer.footprint import allow_descriptors, keep_no_long_buffers, quiet_garbage_collection
from producer.ingest import Ingest
from producer.intake import open_intakes
from producer.metrics import TALLY
from producer.protocol import bounded_protocol, close_idle, end_slow_heads
from producer.publisher import Publisher
from producer.rest_proxy import TOPIC_PATHS, RestProxy
from producer.secured import secured_protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

CONNECTING_SECONDS: Final = 3.0
IDLE_TICK_SECONDS: Final = 1.0


CLIENTS_FAULTS: Final = ("Invalid HTTP request", "Unsupported upgrade request", "No supported WebSocket library")
"""What uvicorn warns of, a line a request: whoever can connect could fill the log with it. They are counted."""


class Announcing(EmbeddedServer):
    """Calls when it takes connections."""

    def __init__(self, announce: Callable[[], None] | None, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._announce is not None:
            self._announce()


async def serve(
    settings: ProducerSettings,
    listener: socket.socket,
    *,
    announce: Callable[[], None] | None = None,
    replaces: bool = False,
) -> None:
    """Take payloads until asked to end; then answer what is in flight, within DRAIN_SECONDS, and return.

    A worker `announce`s that it takes connections. It does so once Kafka answers, or doesn't for CONNECTING_SECONDS:
    until then others on the port take them; one that `replaces` another lets that one go on until Kafka answers. A
    worker that is replaced takes no more connections at once: whoever waits in the queue is its successor's. One
    whose supervisor is gone ends, too.

    For a moment requests are still taken, and their answers say `Connection: close`: who sends one after the other
    goes elsewhere by itself, where a connection that just ended would look like a failure. A second signal ends all
    at once; what was not answered then may be in Kafka or not.
    """
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
    server = _server(settings, app, announce)
    TALLY.connections = server.server_state.connections
    bodies.connections, bodies.requests = server.server_state.connections, server.server_state.tasks
    orphaned = asyncio.Event()

    async with stop_with_parent(orphaned), asyncio.TaskGroup() as group:
        ending = Ending(settings, server, listener, health, group, (bodies, publisher))
        with on_ending_signals(lambda number: ending.ask(number.name)), ending.on_exchange(worker=announce is not None):
            ending.management = group.create_task(
                serve_management(health, settings.management_host, settings.management_port, wait_for_port=replaces)
            )
            ending.parts += [
                ending.management,
                group.create_task(publisher.run()),
                group.create_task(bodies.tick()),
                group.create_task(_end_slow_ones(server, settings.header_timeout_seconds)),
                group.create_task(_leave_with_parent(orphaned, ending)),
            ]
            if announce is not None:
                await _until_connected(publisher, ending.begun, None if replaces else CONNECTING_SECONDS)
            logger.info("Taking payloads at %s", _url(settings, listener))
            quiet_garbage_collection()
            keep_no_long_buffers()
            await server.serve(sockets=[listener])
            for part in ending.parts:
                part.cancel()
            await asyncio.wait(ending.parts)
    logger.info("Left")


def _url(settings: ProducerSettings, listener: socket.socket) -> str:
    scheme = "http" if settings.http_tls_certificate_file is None else "https"
    host, port, *_ = listener.getsockname()
    return f"{scheme}://[{host}]:{port}{PATH}" if ":" in host else f"{scheme}://{host}:{port}{PATH}"


def _server(settings: ProducerSettings, app: Any, announce: Callable[[], None] | None) -> EmbeddedServer:
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    tls = settings.tls()
    most = settings.max_connections + settings.max_connections // 4
    allow_descriptors(most)
    protocol = bounded_protocol(most) if tls is None else secured_protocol(most, tls, settings.header_timeout_seconds)
    return Announcing(
        announce,
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds - farewell_seconds(settings))),
        ),
    )


def _is_ours(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(CLIENTS_FAULTS)


async def _end_slow_ones(server: EmbeddedServer, head_seconds: float) -> None:
    while True:
        await asyncio.sleep(IDLE_TICK_SECONDS)
        await asyncio.sleep(0)  # what came while this process stood still is read first: its sender was not slow
        now = asyncio.get_running_loop().time()
        close_idle(server.server_state.connections, now)
        end_slow_heads(server.server_state.connections, now, head_seconds)


async def _leave_with_parent(orphaned: asyncio.Event, ending: Ending) -> None:
    await orphaned.wait()
    if not ending.begun.is_set():  # a second asking would hurry it
        ending.ask("The supervising process is gone")


async def _until_connected(publisher: Publisher, leaving: asyncio.Event, seconds: float | None) -> None:
    connecting = asyncio.ensure_future(publisher.connected.wait())
    try:
        async with asyncio.timeout(seconds):
            await either(connecting, leaving)
    except TimeoutError:
        pass  # so it answers 503, and says why
    finally:
        connecting.cancel()
