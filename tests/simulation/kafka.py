"""Kafka as one process sees it: aiokafka's own coordinator and subscription over a wire that loses and delays."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator as ClientCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from headrace.kafka import EARLIEST, Group, GroupMember, KafkaUnavailable, Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from tests.simulation.group import GroupCoordinator
    from tests.simulation.logs import Log
    from tests.simulation.virtual import Process
    from tests.simulation.world import World

REQUEST_TIMEOUT_SECONDS = 15.0
MEMBERSHIP = (JoinGroupRequest, SyncGroupRequest, HeartbeatRequest, LeaveGroupRequest)


class Broker:
    """The one broker: its logs and its group. Requests come over `Wire`s."""

    def __init__(self, world: World, topic: str, logs: dict[int, Log], group: GroupCoordinator) -> None:
        self.world = world
        self.topic = topic
        self.logs = logs
        self.group = group
        self.compacting = False
        self.most_records = 50
        self._readers: list[asyncio.Future[None]] = []

    def grown(self) -> None:
        """There is more to be read."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()

    def growth(self) -> asyncio.Future[None]:
        future = self.world.loop.create_future()
        self._readers.append(future)
        return future

    def handle(self, process: Process, request: Any, reply: Any) -> None:
        """A request has arrived. `reply` goes back over the wire it came by."""
        world, group = self.world, self.group
        match request:
            case JoinGroupRequest():
                group.join(request, reply, process.name)
            case SyncGroupRequest():
                group.sync(request, reply)
            case HeartbeatRequest():
                reply(SimpleNamespace(error_code=group.heartbeat(request)))
            case LeaveGroupRequest():
                reply(SimpleNamespace(error_code=group.leave(request._member_id)))
            case OffsetFetchRequest():
                reply(self._fetch_offsets(request))
            case OffsetCommitRequest():
                world.passing("commit arrives", process)
                reply(self._commit(process, request))
                world.passing("commit stored", process)
            case _:
                raise AssertionError(request)

    def _commit(self, process: Process, request: OffsetCommitRequest) -> SimpleNamespace:
        world = self.world
        code = self.group.commit(request, process.name)
        codes: dict[int, int] = {}
        if code == 0 and world.chance(world.weather.coordinator_errors):
            code = world.dice.choice((7, 14, 15, 16))
            if code in {7, 15} and world.chance(0.5):  # it is in the log, though the answer does not say so
                self.group.store(request, process.name)
        elif code == 0:
            codes = self.group.store(request, process.name)
        if code:
            world.say(process.name, f"commit-refused {code} generation={request._consumer_group_generation_id}")
        rows = [(topic, [(p, codes.get(p, code)) for p, *_ in parts]) for topic, parts in request._topics]
        return SimpleNamespace(topics=rows)

    def _fetch_offsets(self, request: OffsetFetchRequest) -> SimpleNamespace:
        world = self.world
        top, kind = 0, None
        if world.chance(world.weather.offset_errors):
            world.counts["offsets-refused"] += 1
            kind = world.dice.choice(("top", "rows", "absent"))
            top = world.dice.choice((14, 15, 16)) if kind == "top" else 0
        topics = []
        for topic, partitions in request._partitions or ():
            rows = []
            for number in partitions:
                found = self.group.offsets.get(TopicPartition(topic, number))
                if kind == "rows":
                    rows.append((number, -1, "", world.dice.choice((14, 15, 16))))
                elif kind is None:
                    rows.append((number, -1, "", 0) if found is None else (number, found.offset, found.metadata, 0))
            topics.append((topic, rows))
        return SimpleNamespace(error_code=top, topics=topics)


class Wire:
    """aiokafka's client, as far as its coordinator uses it."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._world = broker.world
        self._process = process
        self.cluster = SimpleNamespace(
            partitions_for_topic=lambda _topic: set(broker.logs), add_listener=lambda _listener: None
        )

    async def send(self, node: int, request: Any, group: Any = None) -> Any:
        """As on a real wire: an answer, or an error after which nobody knows whether the request has arrived."""
        world, weather, dice = self._world, self._world.weather, self._world.dice
        if not isinstance(request, MEMBERSHIP) and world.chance(weather.kafka_unconnected):
            world.counts["unconnected"] += 1
            await asyncio.sleep(dice.uniform(0.001, 0.2))
            raise NodeNotReadyError
        if isinstance(request, OffsetCommitRequest):
            world.passing("commit sent", self._process)
        future: asyncio.Future[Any] = world.loop.create_future()
        there = dice.uniform(0.0005, 0.004)
        back = dice.uniform(0.0005, 0.004)
        if world.chance(weather.kafka_slow):
            there += dice.uniform(0, 2)
            back += dice.uniform(0, 2)
        broken: float | None = None
        if self._process.cut or world.chance(weather.kafka_lost_request):
            world.counts["request-lost"] += 1
            there, broken = float("inf"), dice.uniform(0, 3)
        elif world.chance(weather.kafka_lost_answer):
            world.counts["answer-lost"] += 1
            back, broken = float("inf"), there + dice.uniform(0, 3)
        elif world.chance(weather.kafka_late_request):
            world.counts["request-late"] += 1
            there, broken = dice.uniform(0.5, 12), dice.uniform(0, 1)

        def answer(response: Any) -> None:
            if back != float("inf"):
                world.later(back, _settle, future, response)

        if there != float("inf"):
            world.later(there, self._broker.handle, self._process, request, answer)
        if broken is not None:
            world.later(broken, _break, future)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                return await future
        except TimeoutError:
            raise RequestTimedOutError from None

    async def coordinator_lookup(self, _kind: Any, _key: str) -> int:
        await asyncio.sleep(self._world.dice.uniform(0.001, 0.01))
        if self._process.cut or self._world.chance(self._world.weather.coordinator_errors):
            raise KafkaConnectionError("no coordinator")
        return 1

    async def ready(self, _node: int, group: Any = None) -> bool:
        return True

    async def force_metadata_update(self) -> bool:
        await asyncio.sleep(0.001)
        return True

    async def close(self) -> None:
        pass

    def set_topics(self, topics: Iterable[str]) -> None:
        pass

    async def _maybe_wait_metadata(self) -> None:
        pass


def _settle(future: asyncio.Future[Any], response: Any) -> None:
    if not future.done():
        future.set_result(response)


def _break(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(KafkaConnectionError("the connection broke"))


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
        self._subscription.subscribe(topics=set(topics), listener=listener)

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
            log = broker.logs[tp.partition]
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
        return Topic(name, "topic-id", "cluster-id", tuple(self._broker.logs))

    async def ensure_topic(self, name: str, *, partitions: int, replication: int) -> Topic:
        return Topic(name, "topic-id", "cluster-id", tuple(self._broker.logs))

    async def topic_config(self, name: str, key: str) -> str | None:
        await self._answer()
        return "compact" if self._broker.compacting else "delete"

    async def log_offsets(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        await self._answer()
        logs = self._broker.logs
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
