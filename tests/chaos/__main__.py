"""Chaos on a stack of its own: everything is killed, paused and cut off under load. Prints what was done and found."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys

import click
import orjson

from tests.chaos.plan import Kind, draw_names
from tests.chaos.run import Options, chaos
from tests.simulation.mutants import MUTANTS


def names(seed: int, form: str | None, object_path: str | None, others: tuple[str, ...]) -> dict[str, str]:
    """The seed's format and layout, but for what is told, and other settings."""
    told = {"FORMAT": form, "OBJECT_PATH": object_path}
    told |= dict(other.split("=", 1) for other in others)
    return {**draw_names(seed), **{name: value for name, value in told.items() if value is not None}}


@click.command(help=__doc__)
@click.option("--seed", type=int, help="The plan's; the same again does the same harm. Default: another each time.")
@click.option("--faults", default=200, help="So many at least.")
@click.option("--minutes", default=0.0, help="Go on for so long at least.")
@click.option("--short", is_flag=True, help="The form that the tests run: shorter waits, milder delays.")
@click.option("--only", multiple=True, help="Only kinds of harm whose names hold this; may be given again.")
@click.option("--mutant", type=click.Choice(list(MUTANTS)), help="Put a mistake into the consumers first.")
@click.option("--format", "form", help="What the consumers write. Default: the seed's choice.")
@click.option("--object-path", help="Where to: `of={/of}/dt=%F` is a layout by a payload's field. Default: the seed's.")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Another setting of the consumers.")
@click.option("--load", type=float, help="Share of the full load. Default: a tenth with FORMAT=object, else all of it.")
@click.option("--keep", is_flag=True, help="Keep the processes' logs, also when nothing was violated.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def main(
    seed: int | None,
    faults: int,
    minutes: float,
    only: tuple[str, ...],
    mutant: str | None,
    form: str | None,
    object_path: str | None,
    others: tuple[str, ...],
    load: float | None,
    *,
    short: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Exit code 0: every promise was kept; 1: one was broken."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    kinds = frozenset(kind for kind in Kind if any(part in kind.value for part in only)) or None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind
    options = Options(
        *(seed, faults, minutes, short, mutant, keep, kinds),
        say=lambda line: click.echo(line, err=True),
        names=names(seed, form, object_path, others),
        load=load,
    )
    report = asyncio.run(chaos(options))
    click.echo(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2) if as_json else report.as_text())
    if report.violations:
        click.echo(report.tails, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
