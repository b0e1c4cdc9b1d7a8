"""`python -m tests.simulation 7`, `1000-2000`, `7 --trace`: run schedules, print those that break a promise."""

from __future__ import annotations

import sys
import time

import click

from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.run import simulate


@click.command(help=__doc__)
@click.argument("seeds")
@click.option("--profile", default="any", help="A directed kind of schedules, see plan.py.")
@click.option("--mutant", type=click.Choice(list(MUTANTS)), help="Put a mistake into the code first.")
@click.option("--trace", is_flag=True, help="Print what happened, step by step.")
def main(seeds: str, profile: str, mutant: str | None, *, trace: bool) -> None:
    first, _, last = seeds.partition("-")
    chosen = range(int(first), int(last) if last else int(first) + 1)
    failed, virtual, began = 0, 0.0, time.process_time()
    for seed in chosen:
        with mutated(mutant):
            tally = simulate(seed, profile=profile, tracing=trace)
        virtual += tally.seconds
        for line in tally.trace:
            click.echo(line)
        if tally.violation is not None:
            failed += 1
            click.echo(f"seed {seed}: {tally.violation}")
    spent = time.process_time() - began
    click.echo(f"{len(chosen)} schedules, {failed} failed, {virtual:.0f} virtual seconds in {spent:.1f} s of CPU")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
