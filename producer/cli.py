"""`headrace serve`, which is `python -m producer`, too."""

from __future__ import annotations

import sys

import click

from headrace.errors import SettingsError
from headrace.settings import load
from headrace.telemetry import setup_logging
from producer.settings import ProducerSettings
from producer.tokens import entry_for, new_token


@click.command()
@click.option("--host", help="Address to take payloads at (HTTP_HOST).")
@click.option("--port", type=int, help="Port to take payloads at (HTTP_PORT).")
@click.option("--topic", help="Kafka topic to publish to (KAFKA_TOPIC).")
@click.option("--workers", type=click.IntRange(1), help="Processes that share the port, one a core (WORKERS).")
def serve(host: str | None, port: int | None, topic: str | None, workers: int | None) -> None:
    """Take payloads by HTTP and publish them to a Kafka topic.

    A request is answered 200 when all in-sync replicas have all of its payloads. SIGTERM: stop taking, answer what is
    in flight within DRAIN_SECONDS, leave. With --workers, one that dies is started again.
    """
    settings = load(ProducerSettings, http_host=host, http_port=port, kafka_topic=topic, workers=workers)
    setup_logging(settings.log_level, settings.log_format)
    try:
        settings.kafka_options()
    except OSError as error:
        raise SettingsError(f"The TLS files of Kafka can't be read (KAFKA_SSL_…): {error}") from error

    from producer.process import run, run_workers

    if settings.workers == 1:
        run(settings)
        return
    sys.exit(run_workers(settings))


@click.command()
@click.argument("name")
@click.option("--topic", "topics", multiple=True, help="A topic that it may publish to; again for more (default: all).")
def token(name: str, topics: tuple[str, ...]) -> None:
    """Make a token for callers named NAME.

    The first line is for them, to be sent as `Authorization: Bearer TOKEN`; it can't be shown again. The second line is
    for HTTP_TOKENS (several: with commas) or a line of HTTP_TOKENS_FILE; it holds only the token's SHA-256.
    """
    made = new_token()
    try:
        entry = entry_for(name, made, topics)
    except ValueError:
        raise click.UsageError(
            "NAME has up to 64 letters, digits, '.', '_' and '-', a topic up to 249 of them."
        ) from None
    click.echo(f"token:   {made}")
    click.echo(f"setting: {entry}")
