"""The command `headrace up`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.local.discover import FOLDER_VARIABLE

if TYPE_CHECKING:
    from headrace.local.environment import UpSettings
    from headrace.local.stack import Stack
    from headrace.local.up import Service

_PORT = click.IntRange(1, 65535)


@click.command()
@click.option("--http-port", type=_PORT, envvar="HTTP_PORT", help="Where payloads are taken (8000).")
@click.option("--kafka-port", type=_PORT, help="Kafka's port (9092, another when that is taken).")
@click.option("--s3-port", type=_PORT, help="The S3 server's port (8333, another when that is taken).")
@click.option("--partitions", type=click.IntRange(1, 10_000), help="Partitions of a topic that is made anew (4).")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=FOLDER_VARIABLE,
    default=Path(".headrace"),
    show_default=True,
    help="Where everything is kept between runs.",
)
@click.option("--no-producer", is_flag=True, help="Start no producer.")
@click.option("--no-consumer", is_flag=True, help="Start no consumer.")
def up(
    *,
    http_port: int | None,
    kafka_port: int | None,
    s3_port: int | None,
    partitions: int | None,
    data: Path,
    no_producer: bool,
    no_consumer: bool,
) -> None:
    """Start everything on this machine: Kafka, S3, the producer and the consumer.

    Needs no Docker and no Java. Everything listens on this machine only, and what was sent stays in the data folder
    for the next time. Ctrl-C stops all of it, in order; a second Ctrl-C at once.

    While it runs, `headrace send`, `status` and `verify` find it by themselves when they are called in the same folder.
    """
    from headrace.local import ports
    from headrace.local.environment import UpSettings, read_toml
    from headrace.local.progress import for_terminal
    from headrace.local.stack import Stack
    from headrace.local.up import Up, stop_with_make
    from headrace.settings import config_file

    given = {"HTTP_PORT": http_port, "KAFKA_TOPIC_PARTITIONS": partitions}
    overrides = {name: str(value) for name, value in given.items() if value is not None}
    settings = UpSettings({**os.environ, **overrides}, read_toml(config_file()))
    host, port = settings.get("HTTP_HOST", ""), int(settings.number("HTTP_PORT", ""))
    if not no_producer and ":" not in host:
        way_out = f"choose another port: headrace up --http-port {port + 1} (or HTTP_PORT={port + 1} make up)"
        ports.require_free(port, "The producer", way_out, host=host)
    stop_with_make()
    progress = for_terminal(terminal=sys.stderr.isatty())
    stack = Stack(data, kafka_port=kafka_port, s3_port=s3_port, progress=progress)

    def services() -> list[Service]:
        children = settings.for_children(stack.environment)
        stack.tell(settings.for_others(children))
        found = []
        if not no_producer:
            found.append(_service("producer", children, url(host, port), settings))
        if not no_consumer:
            (management,) = ports.free_ports(1, but=frozenset({port}))
            children = {**children, "MANAGEMENT_HOST": ports.LOOPBACK, "MANAGEMENT_PORT": str(management)}
            found.append(_service("consumer", children, f"http://{ports.LOOPBACK}:{management}", settings))
        return found

    def announce(seconds: float) -> None:
        with contextlib.suppress(OSError):  # nobody looks: no reason to stop
            click.echo(banner(stack, settings, seconds, producer=not no_producer, consumer=not no_consumer))

    Up(stack, progress).run(services, announce)


def _service(name: str, environment: dict[str, str], base: str, settings: UpSettings) -> Service:
    from headrace.local.up import Service

    drain = settings.number("DRAIN_SECONDS", "20")
    return Service(name, [sys.executable, "-m", name], environment, f"{base}/readyz", drain + 10)


def url(host: str, port: int) -> str:
    """How to reach a server that listens there from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reachable}:{port}"


def banner(stack: Stack, settings: UpSettings, seconds: float, *, producer: bool, consumer: bool) -> str:
    """What a person wants to know when everything runs."""
    folder = _relative(stack.folder)
    topic, prefix = settings.get("KAFKA_TOPIC", ""), settings.get("S3_PREFIX", "")
    target = "/".join(part for part in (stack.s3.bucket, prefix.strip("/"), topic) if part)
    command = "headrace" if shutil.which("headrace") else str(_relative(Path(sys.executable).parent / "headrace"))
    lines = ["", f"headrace is up after {seconds:.1f} s. Ctrl-C stops it.", ""]
    if producer:
        post = f"{url(settings.get('HTTP_HOST', ''), int(settings.number('HTTP_PORT', '')))}/payloads"
        body = shlex.quote('{"version": "1", "token": "any", "data": [{"hello": "world"}]}')
        lines += [
            f"  POST payloads to  {post}",
            f"    curl -i {post} -H 'Content-Type: application/json' -d {body}",
            "",
        ]
    lines += [f"  They wait in      Kafka at {stack.kafka.bootstrap}, topic {topic}"]
    if consumer:
        soon = settings.get("CHUNK_MAX_SECONDS", "")
        lines += [
            f"  They end up in    s3://{target}/ about {soon} s later",
            f"                    S3 at {stack.s3.endpoint}, keys {stack.s3.access_key} / {stack.s3.secret_key}",
        ]
    lines += [
        "",
        "  Have a look, from another terminal in this folder:",
        f"    {command} status    what is in Kafka and what is in S3",
        f"    {command} verify    is every record in S3, exactly once?",
        "",
        f"  Logs are in {folder / 'logs'}/. The data stays in {folder}/; to start afresh, remove that folder.",
        "",
    ]
    return "\n".join(lines)


def _relative(path: Path) -> Path:
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path
