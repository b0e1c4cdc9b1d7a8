"""The producer as processes: one, or several on one port that are looked after as one."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Final

from headrace.lifecycle import has_parent, supervise
from producer.listener import join_port, listen, reserved_port

if TYPE_CHECKING:
    from producer.settings import ProducerSettings

ENDING_SECONDS: Final = 5.0
"""A worker that was asked to end is gone after DRAIN_SECONDS and these, or is killed."""


def run(settings: ProducerSettings) -> None:
    """Take payloads in this process until SIGTERM or Ctrl-C. Raises HeadraceError."""
    import uvloop

    from producer.server import serve

    shared = has_parent()
    listener = (join_port if shared else listen)(settings.http_host, settings.http_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener, listen_when_connected=shared))


def run_workers(settings: ProducerSettings) -> int:
    """WORKERS processes of `python -m producer` on one port, until SIGTERM or Ctrl-C. Returns an exit code.

    Each has an event loop, connections to Kafka, and limits (memory, queue, connections) of its own; with
    MANAGEMENT_PORT set, the first has that port, the next one the next. One that dies is started again. Raises
    HeadraceError.
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
        return supervise([sys.executable, "-m", "producer"], environments, ending_seconds=longest)
