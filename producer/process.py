"""The producer as processes: one, or several on one port that are looked after as one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from headrace.lifecycle import has_parent
from producer.listener import listen, reserved_port
from producer.workers import ANNOUNCE, LISTENER, REPLACES, Workers

if TYPE_CHECKING:
    from producer.settings import ProducerSettings

ENDING_SECONDS: Final = 5.0
"""A worker that was asked to end is gone after DRAIN_SECONDS and these, or is killed."""


def run(settings: ProducerSettings) -> None:
    """Take payloads in this process until SIGTERM or Ctrl-C. Raises HeadraceError."""
    import uvloop

    from producer.server import serve

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if has_parent():
            listener = socket.socket(fileno=int(os.environ[LISTENER]))
            replaces = os.environ.get(REPLACES) == "1"
            runner.run(serve(settings, listener, announce=_announce, replaces=replaces))
        else:
            runner.run(serve(settings, listen(settings.http_host, settings.http_port)))


def _announce() -> None:
    """Tell who looks after this worker that it takes connections."""
    pipe = int(os.environ[ANNOUNCE])
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(pipe, b"1")
    os.close(pipe)


def run_workers(settings: ProducerSettings) -> int:
    """WORKERS processes of `python -m producer` on one port, until SIGTERM or Ctrl-C. Returns an exit code.

    Each has an event loop, connections to Kafka, and limits (memory, queue, connections) of its own; with
    MANAGEMENT_PORT set, the first has that port, the next one the next. One that dies is started again; SIGUSR1 has
    all exchanged, one after the other. Raises HeadraceError.
    """
    with reserved_port(settings.http_host, settings.http_port) as port:
        chosen = {"HTTP_HOST": settings.http_host, "HTTP_PORT": str(port), "KAFKA_TOPIC": settings.kafka_topic}
        environments = []
        for number in range(settings.workers):
            environment = {**os.environ, **chosen, "WORKERS": "1"}
            if settings.management_port:
                environment["MANAGEMENT_PORT"] = str(settings.management_port + number)
            environments.append(environment)
        longest = settings.drain_seconds + ENDING_SECONDS
        address = (settings.http_host, port)
        command = [sys.executable, "-m", "producer"]

        async def look_after() -> int:
            return await Workers(command, environments, address, ending_seconds=longest).run()

        return asyncio.run(look_after())
