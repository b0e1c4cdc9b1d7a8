"""The tests that other Kafka-to-S3 sinks were put through, on a stack of our own: what is lost, what comes twice, and
how long it takes until everything runs again. Time-outs are the defaults; chunks close by a time of 2 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

from tests.chaos.cast import tails
from tests.chaos.fleet import Fleet, compare, publish
from tests.s3_proxy import Fault, S3Proxy, never, s3_proxy
from tests.services import own_stack
from tests.trial import Trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.services import OwnStack

PARTITIONS: Final = 12
LIVE_RECORDS_A_SECOND: Final = 6000
AWAY_SECONDS: Final = 20.0
WHOLE_SECONDS: Final = 600.0
TARGETS: Final = {"kill -9": 12.0, "SIGTERM": 5.0}
"""Seconds until something is committed anew, after it."""


@dataclass
class Bench:
    """What each test is given: a topic of its own on a stack that all of them share."""

    stack: OwnStack
    proxy: S3Proxy
    folder: Path
    consumers: int
    records: int
    kills: int
    rounds: int
    dice: random.Random
    say: Callable[[str], None]

    async def topic(self, hint: str) -> Trial:
        name = f"{hint}-{self.consumers}-{self.dice.randrange(10**6)}"
        trial = Trial(self.stack.environment, name, f"peers/{name}", PARTITIONS, self.folder)
        await trial.create_topic()
        return trial


Row = dict[str, Any]


@contextlib.asynccontextmanager
async def _fleet(bench: Bench, hint: str, row: Row) -> AsyncIterator[Fleet]:
    """Consumers of a topic of their own, ended and judged when the context is left."""
    trial = await bench.topic(hint)
    fleet = Fleet(trial, bench.consumers, bench.proxy.endpoint)
    try:
        yield fleet
        await trial.stored(WHOLE_SECONDS)
        row["complaints"] = await fleet.end()
        row |= await compare(trial)
    finally:
        fleet.cast.kill_all()


@contextlib.asynccontextmanager
async def _live_load(trial: Trial) -> AsyncIterator[None]:
    stop = asyncio.Event()
    load = asyncio.create_task(publish(trial, 10**9, a_second=LIVE_RECORDS_A_SECOND, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await load


async def kills_under_load(bench: Bench) -> list[Row]:
    """All the records, while consumers are killed -9 at any moment: one at a time, and all at once."""
    row: Row = {"test": f"kill -9 {bench.kills} times during {bench.records:,} records"}
    async with _fleet(bench, "kills", row) as fleet:
        fleet.start()
        began = time.monotonic()
        load = asyncio.create_task(publish(fleet.trial, bench.records, a_second=40_000))
        for number in range(bench.kills):
            await asyncio.sleep(bench.dice.uniform(2, 18))
            chosen = [bench.dice.randrange(bench.consumers)] if number % 2 else []
            await fleet.kill(*chosen)
            bench.say(f"{time.monotonic() - began:6.1f} s  kill -9 of {chosen or 'all'}")
        await load
        row["publishing_seconds"] = round(time.monotonic() - began, 1)
        since = time.monotonic()
        await fleet.trial.stored(WHOLE_SECONDS)
        row["whole_after_seconds"] = round(time.monotonic() - since, 1)
    return [row]


async def running_again(bench: Bench) -> list[Row]:
    """After kill -9 and after SIGTERM, of one and of all, under live load."""
    rows = []
    after: Row = {}
    async with _fleet(bench, "again", after) as fleet:
        fleet.start()
        async with _live_load(fleet.trial):
            await fleet.moved(dict.fromkeys(fleet.trial.tps, 0), time.monotonic())
            ways = {"kill -9": fleet.kill, "SIGTERM": fleet.end_and_start}
            choices: list[tuple[int, ...]] = [(), (0,)] if bench.consumers > 1 else [()]
            for _ in range(bench.rounds):
                for name, harm in ways.items():
                    for chosen in choices:
                        await asyncio.sleep(bench.dice.uniform(5, 9))
                        first, every = await _recovery(fleet, harm, chosen)
                        what = f"{name} of {'all' if not chosen else 'one'}, started again at once"
                        rows.append({"test": what, "first_commit_seconds": first, "all_partitions_seconds": every})
                        rows[-1]["in_time"] = first <= TARGETS[name]
                        bench.say(f"{what}: first commit after {first} s, all partitions after {every} s")
    return [row | after for row in rows]


async def _recovery(fleet: Fleet, harm: Callable[..., Awaitable[None]], chosen: tuple[int, ...]) -> tuple[float, float]:
    """Seconds from the signal until something, and until every partition, is committed anew by the new processes."""
    began = time.monotonic()
    await harm(*chosen)
    # What was committed while it ended is no sign of life.
    first, every = await fleet.moved(await fleet.durable(), began)
    return round(first, 1), round(every, 1)


async def away_in_mid_run(bench: Bench) -> list[Row]:
    """S3 answers 503 to everything for 20 s."""
    row: Row = {"test": f"S3 answers 503 for {AWAY_SECONDS:.0f} s in mid-run"}
    async with _fleet(bench, "away", row) as fleet:
        fleet.start()
        async with _live_load(fleet.trial):
            await fleet.moved(dict.fromkeys(fleet.trial.tps, 0), time.monotonic())
            await _away(bench)
            first, every = await fleet.moved(await fleet.durable(), time.monotonic())
            row |= {"first_commit_seconds": round(first, 1), "all_partitions_seconds": round(every, 1)}
    return [row]


async def away_at_the_start(bench: Bench) -> list[Row]:
    """S3 answers 503 to everything when the consumers start, and for 20 s."""
    row: Row = {"test": f"S3 answers 503 at the start, for {AWAY_SECONDS:.0f} s"}
    async with _fleet(bench, "start", row) as fleet, _live_load(fleet.trial):
        fleet.start()
        await _away(bench)
        first, every = await fleet.moved(dict.fromkeys(fleet.trial.tps, 0), time.monotonic())
        row |= {"first_commit_seconds": round(first, 1), "all_partitions_seconds": round(every, 1)}
    return [row]


async def _away(bench: Bench) -> None:
    bench.proxy.choose = lambda _method, _path: (Fault.UNAVAILABLE, 0.0)
    try:
        await asyncio.sleep(AWAY_SECONDS)
    finally:
        bench.proxy.choose = never


async def idle(bench: Bench) -> list[Row]:
    """A few records, then nothing: the part-full chunks close by their age."""
    row: Row = {"test": "idle topic, part-full chunks"}
    async with _fleet(bench, "idle", row) as fleet:
        fleet.start()
        await publish(fleet.trial, 5000)
        await fleet.trial.stored(WHOLE_SECONDS)
        await asyncio.sleep(5)
        since = await fleet.durable()
        await publish(fleet.trial, 5000)
        first, every = await fleet.moved(since, time.monotonic())
        row |= {"first_commit_seconds": round(first, 1), "all_partitions_seconds": round(every, 1)}
    return [row]


TESTS: Final = (kills_under_load, running_again, away_in_mid_run, away_at_the_start, idle)


async def measure(
    *,
    consumers: list[int],
    records: int,
    kills: int,
    rounds: int,
    seed: int,
    only: tuple[str, ...],
    folder: Path,
    say: Callable[[str], None],
) -> list[Row]:
    """All tests with each number of consumers. Rows as they are printed."""
    for noisy in ("aiokafka", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    rows: list[Row] = []
    with own_stack() as stack:
        async with s3_proxy(stack.s3.endpoint) as proxy:
            for count in consumers:
                for test in TESTS:
                    if only and test.__name__ not in only:
                        continue
                    say(f"{count} consumers: {(test.__doc__ or '').strip()}")
                    dice = random.Random(f"{seed} {count} {test.__name__}")
                    bench = Bench(stack, proxy, folder, count, records, kills, rounds, dice, say)
                    try:
                        rows += [{"consumers": count, **row} for row in await test(bench)]
                    except BaseException:
                        say(tails(sorted(folder.glob("*.log")), 4000))
                        raise
    return rows


def _failed(row: Row) -> bool:
    lacking = any(row[name] for name in ("copies", "missing", "different", "complaints"))
    return lacking or not row.get("in_time", True)


@click.command(help=__doc__)
@click.option("--consumers", default="1,2", help="Numbers of consumers to measure with.")
@click.option("--records", default=3_000_000, help="Of the test that kills under load.")
@click.option("--kills", default=6, help="In that test.")
@click.option("--rounds", default=3, help="Of the test that measures how soon everything runs again.")
@click.option("--seed", default=1, help="Of the moments.")
@click.option("--only", multiple=True, help="Tests by name: " + ", ".join(test.__name__ for test in TESTS) + ".")
@click.option("--logs", type=click.Path(path_type=Path), help="Folder for the consumers' logs, to be kept.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def main(
    consumers: str,
    records: int,
    kills: int,
    rounds: int,
    seed: int,
    only: tuple[str, ...],
    logs: Path | None,
    *,
    as_json: bool,
) -> None:
    """Exit code 1 when something was lost, came twice, or took too long."""
    with contextlib.ExitStack() as stack:
        if logs is None:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-peers-")))
        logs.mkdir(parents=True, exist_ok=True)
        rows = asyncio.run(
            measure(
                consumers=[int(part) for part in consumers.split(",")],
                records=records,
                kills=kills,
                rounds=rounds,
                seed=seed,
                only=only,
                folder=logs,
                say=lambda line: click.echo(line, err=True),
            )
        )
    if as_json:
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    else:
        for row in rows:
            rest = {name: value for name, value in row.items() if name not in {"consumers", "test"} and value != []}
            facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rest.items())
            click.echo(f"{row['consumers']} consumers | {row['test']} | {facts}")
    sys.exit(1 if any(_failed(row) for row in rows) else 0)


if __name__ == "__main__":
    main()
