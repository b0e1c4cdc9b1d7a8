"""`headrace serve`, which is `python -m producer`, too."""

from __future__ import annotations

import asyncio

import click

from headrace.errors import SettingsError
from headrace.settings import load
from headrace.telemetry import setup_logging
from producer.settings import ProducerSettings


@click.command()
@click.option("--host", help="Address to take payloads at (HTTP_HOST).")
@click.option("--port", type=int, help="Port to take payloads at (HTTP_PORT).")
@click.option("--topic", help="Kafka topic to publish to (KAFKA_TOPIC).")
def serve(host: str | None, port: int | None, topic: str | None) -> None:
    """Take payloads by HTTP and publish them to a Kafka topic.

    A request is answered 200 when all in-sync replicas have all of its payloads. SIGTERM: stop taking, answer what is
    in flight within DRAIN_SECONDS, leave.
    """
    settings = load(ProducerSettings, http_host=host, http_port=port, kafka_topic=topic)
    setup_logging(settings.log_level, settings.log_format)
    try:
        settings.kafka_options()
    except OSError as error:
        raise SettingsError(f"The TLS files of Kafka can't be read (KAFKA_SSL_…): {error}") from error

    import uvloop

    from producer.server import listen
    from producer.server import serve as serve_until_told

    listener = listen(settings.http_host, settings.http_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_told(settings, listener))
