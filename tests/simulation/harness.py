"""`simulate`: a seed's schedule from beginning to end, in virtual time, leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from aiokafka.consumer import group_coordinator, subscription_state

import consumer.chunk
import consumer.packer
from tests.simulation.kinds import kind_of, with_kind
from tests.simulation.profiles import draw, profile_of
from tests.simulation.run import Run
from tests.simulation.virtual import OWNER, Stuck
from tests.simulation.world import Tally, Weather, World

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def virtual_time(world: World) -> Iterator[None]:
    """aiokafka's clock is the loop's, the wall clock is the world's, and jitter comes from the seed."""
    state, monotonic = random.getstate(), SimpleNamespace(monotonic=world.loop.time)
    random.seed(world.seed)
    try:
        with (
            patch.object(group_coordinator, "time", monotonic),
            patch.object(subscription_state, "time", monotonic),
            patch.object(time, "time", lambda: world.wall_ms() / 1000),
            # Records and budgets are a thousandth of real ones, and so is what buckets cost beside.
            patch.multiple(consumer.chunk, BUCKET_BYTES=10, PART_BYTES=1),
            patch.object(consumer.packer, "BODY_BYTES", 20),
        ):
            yield
    finally:
        random.setstate(state)


class _TraceHandler(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        owner = OWNER.get()
        who = "world" if owner is None else owner.name
        self._world.say(who, f"log: {record.levelname.lower()} {record.name}: {record.getMessage()}")


@contextlib.contextmanager
def _logging(world: World) -> Iterator[None]:
    root = logging.getLogger()
    if not world.tracing:
        before = root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
        return
    handler, level, others = _TraceHandler(world), root.level, root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = others
        root.setLevel(level)


def simulate(seed: int, *, profile: str = "", kind: str | None = None, tracing: bool = False) -> Tally:
    """Run the seed's schedule. The same seed gives the same run, step by step, in any process.

    `profile`: other schedules than the seed's own. `kind`: a format and layout that are not the seed's own.
    """
    profile = profile or profile_of(seed)
    kind = kind_of(seed) if kind is None else kind
    world = World(seed, tracing=tracing)
    loop = world.loop
    loop.set_exception_handler(partial(_unhandled, world))
    with virtual_time(world), _logging(world):
        run: Run | None = None

        async def main() -> None:
            nonlocal run
            run = Run(world, with_kind(draw(world.dice, profile), kind, seed))
            going = asyncio.ensure_future(run.go())
            await asyncio.wait((going, world.over), return_when=asyncio.FIRST_COMPLETED)
            if going.done():
                going.result()

        try:
            loop.run_until_complete(main())
        except Stuck as stuck:
            world.violated(str(stuck))
            loop.most_steps += 100_000
        if run is not None:
            _dispose(run)
        loop.close()
    what = f"{profile}, {kind}" if kind else profile
    return Tally(seed, what, world.violation, loop.now, loop.steps, world.counts, world.trace)


def _unhandled(world: World, _loop: Any, context: dict[str, Any]) -> None:
    error = context.get("exception")
    world.violated(f"unhandled: {context.get('message')} {error!r}")


def _dispose(run: Run) -> None:
    """End what the run has left, dead processes too, so that nothing of it is found by the garbage collector."""
    loop = run.world.loop
    loop.set_exception_handler(lambda _loop, _context: None)
    run.world.weather = Weather()
    run.world.traps.clear()
    run.world.tracing = False
    for process in run.fleet.archives:
        process.dead = False
        loop.resume(process)
    for _ in range(20):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            return
        for task in sorted(tasks, key=hash):
            task.cancel()
        with contextlib.suppress(Stuck):
            loop.run_until_complete(asyncio.wait(tasks, timeout=100))
    raise AssertionError(f"tasks can't be ended: {asyncio.all_tasks(loop)}")
