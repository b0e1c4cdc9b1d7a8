"""A run: archivers, producers and an adversary, until the plan is done, the harm is healed, and all is idle again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from consumer.settings import ConsumerSettings
from tests.simulation import store
from tests.simulation.adversary import Adversary
from tests.simulation.broker import Broker
from tests.simulation.fleet import Archive, Fleet
from tests.simulation.group import GroupCoordinator
from tests.simulation.load import Load
from tests.simulation.logs import Log
from tests.simulation.operations import OTHER_LAYOUT, Operations
from tests.simulation.oracle import Oracle
from tests.simulation.world import Weather

if TYPE_CHECKING:
    from consumer.taking import Bounds
    from tests.simulation.plan import Plan
    from tests.simulation.store import Stored
    from tests.simulation.virtual import Process
    from tests.simulation.world import World

TOPIC = "t"
PATIENCE_SECONDS = 150.0
"""So long may it take, after all harm has been healed, until everything is stored and committed."""
ENDING_SECONDS = 60.0
STUCK_SECONDS = 20.0
"""After so long of a halt for its layout, the operator does what the halt says."""


class Run:
    """One schedule from beginning to end."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        settings = tuple(_settings(plan, changed) for changed in ({}, *plan.others))
        layouts = [each.layout() for each in settings]
        logs = {number: Log(number) for number in range(plan.partitions)}
        self.oracle = Oracle(world, logs, layouts)
        group = GroupCoordinator(world, self.oracle.on_commit, most_metadata=plan.most_metadata)
        self.broker = Broker(world, TOPIC, logs, group)
        self.broker.compacting = plan.compacting
        self.broker.most_records = plan.most_records
        self.bucket = store.Bucket(world, plan.settings["upload_timeout_seconds"], self._landed)
        self.fleet = Fleet(world, plan, settings[0], self.broker, self.bucket)
        self.load = Load(world, plan, self.broker, self.oracle)
        self.operations = Operations(
            world,
            plan,
            broker=self.broker,
            bucket=self.bucket,
            oracle=self.oracle,
            fleet=self.fleet,
            load=self.load,
            settings=settings,
        )
        self.adversary = Adversary(world, plan, self.fleet, self.operations)
        self._whole_replays = 0
        world.weather = plan.weather

    def _landed(self, key: str, stored: Stored, process: Process) -> None:
        self.oracle.landed(key, {**self.bucket.objects, key: stored}, process)

    async def go(self) -> None:
        world = self.world
        if self.plan.replay:
            await self._prepare_replay()
        for _ in range(self.plan.workers):
            self.fleet.spawn()
        producing = asyncio.create_task(self.load.run())
        await self.adversary.run()
        await producing
        if world.now < self.plan.seconds:
            await asyncio.sleep(self.plan.seconds - world.now)
        self.heal()
        if await self._idle():
            await self._end()

    # Replays

    async def _prepare_replay(self) -> None:
        """Some of the log is there, and some range of it is wanted."""
        dice = self.world.dice
        for _ in range(dice.randrange(1, 8)):
            await self.load.burst(dice.randrange(self.plan.partitions), dice.choice((1, 10, 30)))
        wanted: Bounds = {}
        for number, log in self.broker.logs.items():
            start = dice.choice((0, dice.randint(0, log.end)))
            wanted[TopicPartition(TOPIC, number)] = (start, dice.choice((log.end, dice.randint(start, log.end))))
        self.oracle.wanted({tp.partition: span for tp, span in wanted.items()})

        def bounds() -> Bounds:
            """Who starts later may have read other ends: those of the first, which its marker tells, hold."""
            if self.bucket.objects and dice.random() < 0.5:
                return {
                    tp: (start, max(stop, self.broker.logs[tp.partition].end)) for tp, (start, stop) in wanted.items()
                }
            return dict(wanted)

        self.fleet.bounds = bounds
        self.fleet.finished = self._replayed

    def _replayed(self, process: Archive) -> None:
        self._whole_replays += 1
        self.world.counts["replays-whole"] += 1
        if missing := self.oracle.missing():
            self.world.violated(f"{process.name} says that the replay is whole, but lacks {missing}")

    # The end

    def heal(self) -> None:
        world = self.world
        world.say("world", "heals")
        world.weather = Weather()
        world.traps.clear()
        for log in self.broker.logs.values():
            log.open.clear()
        self.broker.grown()
        for process in self.fleet.archives:
            self.fleet.reconnect(process)
            self.fleet.resume(process)

    async def _idle(self) -> bool:
        """Until everything is stored and committed, or has halted where it must. False, and told, when it never is."""
        world, fleet = self.world, self.fleet
        deadline = world.now + PATIENCE_SECONDS
        stuck_since = world.now
        while (what := self._not_yet()) is not None:
            if world.now > deadline:
                world.violated(f"not idle {PATIENCE_SECONDS:g} s after all harm was healed: {what}")
                return False
            running = fleet.running()
            if not running or all(process.stop.is_set() for process in running):
                fleet.spawn()
            if fleet.halts is not OTHER_LAYOUT or not any(process.halted for process in running):
                stuck_since = world.now
            elif world.now - stuck_since > STUCK_SECONDS:
                await self.operations.settle_layout()
                stuck_since = world.now
            await asyncio.sleep(0.5)
        return True

    def _not_yet(self) -> str | None:
        if self.plan.replay and not self._whole_replays:
            return "no replay has said that it is whole"
        halted = {int(part.partition("/")[2]) for process in self.fleet.running() for part in process.halted}
        return self.oracle.whole(halted)

    async def _end(self) -> None:
        world = self.world
        self.fleet.ending = True
        for process in self.fleet.running():
            self.fleet.terminate(process)
        deadline = world.now + ENDING_SECONDS
        while self.fleet.running():
            if world.now > deadline:
                names = [process.name for process in self.fleet.running()]
                world.violated(f"{names} have not ended {ENDING_SECONDS:g} s after SIGTERM")
                return
            await asyncio.sleep(0.2)
        while self.bucket.flights:
            await asyncio.sleep(0.5)
        self.oracle.judge(self.bucket.objects)


def _settings(plan: Plan, changed: dict[str, str]) -> ConsumerSettings:
    own = {"s3_prefix": "p", **plan.settings, **changed}
    return ConsumerSettings.model_construct(kafka_topic=(TOPIC,), kafka_group="g", s3_bucket="bucket", **own)
