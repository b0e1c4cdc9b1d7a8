"""Random, truncated and hostile HTTP at a producer process, on a Kafka of its own (or HEADRACE_TEST_KAFKA's)."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import tempfile
from pathlib import Path

import click

from tests.fuzz.cases import case
from tests.fuzz.run import fuzz
from tests.papers import Papers
from tests.services import kafka_service, subprocess_environment


@click.command(help=__doc__)
@click.option("--seed", type=int, help="The same again sends the same. Default: another each time.")
@click.option("--seconds", default=60.0, help="For so long at least.")
@click.option("--case", "only", type=int, help="Only the connection of this number, as a violation tells it.")
@click.option("--tls", is_flag=True, help="By HTTPS.")
@click.option("--show", is_flag=True, help="Print what that connection sends, and send nothing.")
def main(seed: int | None, seconds: float, only: int | None, *, tls: bool, show: bool) -> None:
    """Exit code 0: every promise was kept; 1: one was broken."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    if show:
        click.echo(repr(case(seed, only or 0)))
        return
    click.echo(f"seed {seed}", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind
    with kafka_service() as kafka, tempfile.TemporaryDirectory() as folder:
        environment = subprocess_environment(kafka.bootstrap, {})
        topic = f"fuzz-{secrets.token_hex(5)}"
        outcome = asyncio.run(
            fuzz(
                environment,
                topic,
                seed=seed,
                seconds=seconds,
                only=only,
                tls=Papers(Path(folder)) if tls else None,
                say=lambda line: click.echo(line, err=True),
            )
        )
    click.echo(str(outcome))
    sys.exit(bool(outcome.violations))


if __name__ == "__main__":
    main()
