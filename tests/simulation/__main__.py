"""Run schedules of the simulation, and print those that break a promise."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from typing import TYPE_CHECKING

import click

from tests.simulation.harness import simulate
from tests.simulation.kinds import KINDS
from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.profiles import PROFILES

if TYPE_CHECKING:
    from tests.simulation.world import Tally

BLOCK = 100


def _block(work: tuple[range, str, str | None, str | None]) -> tuple[list[Tally], float, float]:
    """Those that failed, virtual seconds, seconds of CPU."""
    seeds, profile, kind, mutant = work
    began, virtual, failed = time.process_time(), 0.0, []
    with mutated(mutant):
        for seed in seeds:
            tally = simulate(seed, profile=profile, kind=kind)
            virtual += tally.seconds
            if tally.violation is not None:
                failed.append(tally)
    return failed, virtual, time.process_time() - began


@click.command(help=__doc__)
@click.argument("seeds")
@click.option("--profile", default="", type=click.Choice(["", *PROFILES]), help="A kind of schedule, see profiles.py.")
@click.option("--kind", type=click.Choice(["", *KINDS]), help="A format and layout; by default by the seed.")
@click.option("--mutant", type=click.Choice(list(MUTANTS)), help="Put a mistake into the code first.")
@click.option("--trace", is_flag=True, help="Print what happened, step by step. With one seed.")
@click.option("--jobs", default=os.cpu_count() or 1, help="Processes side by side.")
def main(seeds: str, profile: str, kind: str | None, mutant: str | None, jobs: int, *, trace: bool) -> None:
    """SEEDS: 7, or 1000-2000 (the last one not included)."""
    first, _, last = seeds.partition("-")
    chosen = range(int(first), int(last) if last else int(first) + 1)
    if trace:
        with mutated(mutant):
            tally = simulate(chosen[0], profile=profile, kind=kind, tracing=True)
        for line in tally.trace:
            click.echo(line)
        sys.exit(0 if tally.violation is None else 1)
    blocks = [(chosen[at : at + BLOCK], profile, kind, mutant) for at in range(0, len(chosen), BLOCK)]
    failures, virtual, spent = 0, 0.0, 0.0
    with multiprocessing.Pool(min(jobs, len(blocks))) as pool:
        for number, (failed, seconds, cpu) in enumerate(pool.imap_unordered(_block, blocks), 1):
            virtual += seconds
            spent += cpu
            for tally in failed:
                failures += 1
                click.echo(f"seed {tally.seed} ({tally.profile}): {tally.violation}")
            if number % 50 == 0:
                click.echo(f"{number * BLOCK} of {len(chosen)} schedules, {failures} failed", err=True)
    click.echo(
        f"{len(chosen)} schedules, {failures} failed; {virtual:.0f} virtual seconds in {spent:.1f} s of CPU. "
        f"One again, step by step: python -m tests.simulation SEED --trace"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
