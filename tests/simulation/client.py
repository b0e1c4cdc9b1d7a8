"""Kafka as one process sees it: aiokafka's own coordinator and subscription over the wire, and our own fetching."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator as ClientCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    OffsetOutOfRangeError,
)

from headrace.kafka import EARLIEST, Group, GroupMember, KafkaUnavailable, Topic, TopicMissing
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from tests.simulation.broker import Broker
    from tests.simulation.virtual import Process
    from tests.simulation.world import World


class Consumer:
    """AIOKafkaConsumer with its real coordinator and subscription; only fetching is made anew."""

    def __init__(self, broker: Broker, process: Process, started: Callable[[Any], None], **options: Any) -> None:
        self._broker = broker
        self._world = broker.world
        self._started = started
        self._options = options
        self._subscription = SubscriptionState()
        self._subscription.register_fetch_waiters([])
        self._process = process
        self._client = Wire(broker, process)
        self._closed = False
        self._well_until = 0.0
        self._coordinator: Any = None

    async def start(self) -> None:
        await asyncio.sleep(self._world.dice.uniform(0.001, 0.02))
        if self._process.cut or self._world.chance(self._world.weather.cluster_errors):
            raise KafkaConnectionError("no broker answers")
        options = self._options
        self._coordinator = ClientCoordinator(
            self._client,
            self._subscription,
            group_id=options["group_id"],
            session_timeout_ms=options["session_timeout_ms"],
            heartbeat_interval_ms=options["heartbeat_interval_ms"],
            rebalance_timeout_ms=options["rebalance_timeout_ms"],
            max_poll_interval_ms=options["max_poll_interval_ms"],
            enable_auto_commit=False,
        )
        self._started(self._coordinator)

    def subscribe(self, *, topics: Iterable[str], listener: Any) -> None:
        self._subscription.subscribe(topics=set(topics), listener=_Overheard(listener, self._world, self._process))

    async def stop(self) -> None:
        self._closed = True
        if self._coordinator is not None:
            await self._coordinator.close()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._subscription.seek(partition, offset)

    def pause(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            self._subscription.pause(partition)

    def resume(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            self._subscription.resume(partition)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Any]]:
        if self._closed:
            raise ConsumerStoppedError
        self._coordinator.check_errors()
        world = self._world
        deadline = world.now + timeout_ms / 1000
        while True:
            if self._subscription.reassignment_in_progress:
                await self._subscription.wait_for_assignment()
            growth = self._broker.growth()
            batches = await self._fetch(partitions)
            if batches or world.now >= deadline:
                return batches
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - world.now):
                    await growth

    async def _fetch(self, partitions: tuple[TopicPartition, ...]) -> dict[TopicPartition, list[Any]]:
        """Read at the broker, then hand over what still fits when the answer is there."""
        world, broker = self._world, self._broker
        assignment = self._subscription.subscription.assignment
        wanted = sorted(partitions or assignment.tps)
        read: dict[TopicPartition, tuple[int, list[Any], int]] = {}
        bad: dict[TopicPartition, int] = {}
        for tp in wanted:
            state = assignment.state_value(tp)
            if state is None or state.paused or not state.has_valid_position:
                continue
            log = broker.logs.get(tp.partition)
            if log is None:
                continue
            if not log.start <= state.position <= log.end:
                bad[tp] = state.position
            else:
                read[tp] = (state.position, *log.read(state.position, broker.most_records))
        if self._process.cut or (not bad and not any(position != after for position, _, after in read.values())):
            return {}
        await asyncio.sleep(world.dice.uniform(0.001, 0.03))
        failed = world.now > self._well_until and world.chance(world.weather.fetch_errors)
        found = {}
        for tp, (position, records, after) in read.items():
            state = assignment.state_value(tp)
            if not assignment.active or state.paused or state.position != position or after == position:
                continue
            if failed and world.chance(0.5):
                continue
            state.consumed_to(after)  # and where another partition fails now, its records are lost to the caller
            if records:
                found[tp] = records
        if failed:
            self._well_until = world.now + 2
            world.counts["fetch-failed"] += 1
            raise world.dice.choice((CorruptRecordException, CorruptRecordException, KafkaError))("told to")
        if bad and not found and assignment.active:
            world.counts["out-of-range"] += 1
            raise OffsetOutOfRangeError(bad)
        return found


class _Overheard(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is untyped
    """A listener whose calls are moments that a trap may wait for."""

    def __init__(self, listener: Any, world: World, process: Process) -> None:
        self._listener = listener
        self._world = world
        self._process = process

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._listener.on_partitions_assigned(assigned)
        self._world.passing("assigned", self._process)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._world.passing("revoking", self._process)
        await self._listener.on_partitions_revoked(revoked)


class Cluster:
    """headrace.kafka.KafkaCluster on the broker's memory."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._process = process
        self._world = broker.world

    async def _answer(self) -> None:
        await asyncio.sleep(self._world.dice.uniform(0.001, 0.01))
        if self._process.cut or self._world.chance(self._world.weather.cluster_errors):
            raise KafkaUnavailable("Kafka does not answer")

    async def topic(self, name: str) -> Topic:
        await self._answer()
        if self._broker.missing or name != self._broker.topic:
            raise TopicMissing(f"Topic {name} does not exist.")
        return Topic(name, self._broker.topic_id, "cluster-id", tuple(self._broker.logs))

    async def topic_id(self, name: str) -> str:
        return (await self.topic(name)).id

    async def ensure_topic(self, name: str, *, partitions: int, replication: int) -> Topic:
        return await self.topic(name)

    async def topic_config(self, name: str, key: str) -> str | None:
        await self._answer()
        return "compact" if self._broker.compacting else "delete"

    async def log_offsets(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        await self._answer()
        logs = self._broker.logs
        if self._broker.missing:
            raise KafkaUnavailable(f"{self._broker.topic} has no leader now.")
        return {
            tp: logs[tp.partition].start if timestamp_ms == EARLIEST else logs[tp.partition].end for tp in partitions
        }

    async def group(self, name: str) -> Group:
        await self._answer()
        members = tuple(GroupMember(member, "", "", ()) for member in self._broker.group.members)
        return Group(name, self._broker.group.state.value, members)


@contextlib.asynccontextmanager
async def open_cluster(broker: Broker, process: Process) -> AsyncIterator[Any]:
    if process.cut or broker.world.chance(broker.world.weather.cluster_errors):
        raise KafkaUnavailable("Kafka does not answer")
    yield Cluster(broker, process)
