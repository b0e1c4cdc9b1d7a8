"""What operators and brokers do to the log, to the group's offsets, to the archive's settings, and to the topic."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from tests.simulation.group import GroupState
from tests.simulation.logs import Log

if TYPE_CHECKING:
    from consumer.settings import ConsumerSettings
    from tests.simulation.broker import Broker
    from tests.simulation.fleet import Fleet
    from tests.simulation.load import Load
    from tests.simulation.oracle import Oracle
    from tests.simulation.plan import Plan
    from tests.simulation.store import Bucket
    from tests.simulation.world import World

OTHER_LAYOUT = ("is claimed under another layout", "was written with another layout")
OTHER_TOPIC = (
    "was deleted and made anew",
    "does not exist",
    "Does the topic still exist",
    "Is it the same topic?",
    "this is another log",
)
CUT_SHORT = ("Kafka has lost acknowledged records", "this is another log", "Is it the same topic?")


class Operations:
    def __init__(
        self,
        world: World,
        plan: Plan,
        *,
        broker: Broker,
        bucket: Bucket,
        oracle: Oracle,
        fleet: Fleet,
        load: Load,
        settings: tuple[ConsumerSettings, ...],
    ) -> None:
        """`settings`: those of the beginning, and others that the operator may change to."""
        self._world = world
        self._plan = plan
        self._broker = broker
        self._bucket = bucket
        self._oracle = oracle
        self._fleet = fleet
        self._load = load
        self._settings = settings

    async def do(self, action: str) -> None:
        match action:
            case "retention":
                self._retention()
            case "compact":
                self._compact()
            case "exodus":
                await self._exodus()
            case "change layout":
                self.change_layout()
                if self._world.dice.random() < 0.6:
                    await self._exodus()
            case "make anew":
                await self._make_anew()
            case "cut short":
                await self._cut_short()
            case _:
                raise AssertionError(action)

    # Logs

    def _retention(self) -> None:
        log = self._broker.logs[self._world.dice.randrange(self._plan.partitions)]
        before = self._world.dice.randint(log.start, log.stable)
        if self._world.dice.random() < 0.5:  # around the first claim
            stands = max(log.start, self._oracle.truths[log.partition].committed)
            before = min(log.stable, stands + self._world.dice.randrange(20))
        self._world.say("kafka", f"deletes {log.partition} below {before}")
        log.delete_before(before)

    def _compact(self) -> None:
        if not self._plan.compacting:
            return
        dice = self._world.dice
        log = self._broker.logs[dice.randrange(self._plan.partitions)]
        gone = {record.offset for record in log.records[:-1] if record.offset < log.stable and dice.random() < 0.4}
        self._world.say("kafka", f"compacts {log.partition}: {sorted(gone)}")
        log.compact(gone)
        self._oracle.compacted(log.partition, gone)

    # The group

    async def _exodus(self) -> None:
        """All leave; while the group is empty, an operator moves its offsets; then somebody comes again."""
        dice = self._world.dice
        if await self._all_leave():
            self._reset(dice.choices(list(self._plan.resets), list(self._plan.resets.values()))[0])
        await asyncio.sleep(self._plan.exodus_rest)
        for _ in range(dice.choice((1, 1, 2))):
            self._fleet.again()

    async def _all_leave(self) -> bool:
        dice, fleet = self._world.dice, self._fleet
        for process in fleet.archives:
            absent = process.stopped or process.cut
            if process.ended or (absent and dice.random() < self._plan.exodus_keeps_paused):
                continue
            if process.stopped or dice.random() < 0.5:
                fleet.kill(process)
            else:
                fleet.terminate(process)
        for _ in range(200):
            if self._broker.group.state in {GroupState.EMPTY, GroupState.DEAD}:
                return True
            await asyncio.sleep(0.25)
        return False

    def _reset(self, kind: str) -> None:
        """With the semantics of kafka-consumer-groups.sh: only of an empty group, and without metadata."""
        dice, group, topic = self._world.dice, self._broker.group, self._broker.topic
        log = self._broker.logs[dice.randrange(self._plan.partitions)]
        tp = TopicPartition(topic, log.partition)
        found = group.offsets.get(tp)
        if found is None:
            return
        self._world.say("operator", f"resets {tp.partition} {kind}")
        match kind:
            case "delete":
                del group.offsets[tp]
                self._oracle.forgotten(tp)
            case "delete group":
                for each in list(group.offsets):
                    self._oracle.forgotten(each)
                group.delete()
            case "zero":
                group.put_offset(tp, 0, "", "operator")
            case "middle":
                group.put_offset(tp, dice.randint(0, max(found.offset, 0)), "", "operator")
            case "beyond":
                group.put_offset(tp, dice.randint(found.offset, log.end), "", "operator")
            case "carried":
                group.put_offset(tp, dice.randint(0, log.end), found.metadata, "operator")
            case "drop":  # headrace claims drop
                group.put_offset(tp, found.offset, "", "operator")
            case "remove":
                self._remove(tp)
            case "nothing":
                pass
            case _:
                raise AssertionError(kind)

    def _remove(self, tp: TopicPartition) -> None:
        """An object is removed, and the group set back so that the hole is filled."""
        truth, dice = self._oracle.truths[tp.partition], self._world.dice
        keys = sorted(key for keys in truth.objects.values() for key in keys)
        if keys:
            key = dice.choice(keys)
            self._world.say("operator", f"removes {key}")
            del self._bucket.objects[key]
            start = self._oracle.removed(key).start
            self._broker.group.put_offset(tp, dice.choice((0, start)), "", "operator")

    # Settings

    def change_layout(self) -> None:
        """Who starts from now on has other settings."""
        fleet = self._fleet
        fleet.settings = next(each for each in self._settings if each is not fleet.settings)
        fleet.halts = OTHER_LAYOUT
        self._world.say("operator", f"changes-layout to {fleet.settings.layout()}")

    async def settle_layout(self) -> None:
        """A partition has halted for its layout, and says: start once with the former settings."""
        for process in self._fleet.running():
            self._fleet.terminate(process)
        while self._fleet.running():
            await asyncio.sleep(0.25)
        self.change_layout()
        self._fleet.spawn()

    # The topic

    async def _make_anew(self) -> None:
        """The topic is deleted and made again under its name. Kafka drops the group's offsets with it."""
        world, broker, dice = self._world, self._broker, self._world.dice
        self._fleet.halts = OTHER_TOPIC
        if dice.random() < 0.3:
            await self._all_leave()
        if not any("_headrace" in key for key in self._bucket.objects):
            return  # nobody has begun to archive it
        world.say("kafka", "deletes-topic")
        broker.delete_topic()
        self._oracle.made_anew()
        steady, generation = broker.group.state is GroupState.STABLE, broker.group.generation
        self._notice(0.5)
        await asyncio.sleep(dice.choice((0.1, dice.uniform(0.1, 3))))
        world.say("kafka", "makes-topic anew")
        ends = {number: truth.log.end for number, truth in self._oracle.truths.items()}
        broker.make_topic({number: Log(number) for number in ends})
        if dice.random() < 0.5:  # so much at once that nobody's position is out of range
            for number, end in ends.items():
                await self._load.burst(number, end + dice.randrange(1, 20))
        # Who has seen that it was gone will see that it is there again; others go on fetching by name.
        self._notice(0.5 if steady and broker.group.generation == generation else 1.0)

    def _notice(self, share: float) -> None:
        """Clients hear of it by their metadata."""
        for process in self._fleet.archives:
            if not process.ended and self._world.dice.random() < share and process.coordinator is not None:
                process.coordinator.request_rejoin()

    async def _cut_short(self) -> None:
        """An unclean election: a log ends earlier than it did, and nobody produces to it until somebody has looked."""
        dice = self._world.dice
        log = self._broker.logs[dice.randrange(self._plan.partitions)]
        self._fleet.halts = CUT_SHORT
        if dice.random() < 0.5:
            await self._all_leave()
        end = dice.randint(log.start, log.end)
        self._world.say("kafka", f"cuts-short {log.partition} at {end} of {log.end}")
        self._oracle.cut_short(log.partition, end)
        log.cut(end)
        self._broker.grown()
        self._fleet.again()
