"""A session that is cancelled at any of its awaits: it ends, leaves nothing behind, counts nothing that isn't stored,
and the next one goes on from there, exactly once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from consumer import metrics
from consumer.chunk import Limits
from consumer.claims import ChunkState, decode
from consumer.dispatcher import Dispatcher
from consumer.encode import open_format
from consumer.lane import Lane
from consumer.layout import Layout
from consumer.offsets import Membership, Unanswered
from consumer.packer import Packer
from consumer.session import Outcome, Session
from consumer.source import Assignment, Fetched
from consumer.taking import Taking
from consumer.uploader import Uploader
from headrace.archive import read_chunk, survey
from headrace.kafka import EARLIEST, Group, GroupMember, Topic
from headrace.lifecycle import unless
from headrace.management import Health
from headrace.record import StoredRecord
from tests.fakes import Fault, MemoryStore, Put, VirtualTimeLoop, in_virtual_time, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from consumer.takeover import Takeover

TOPIC = "t"
P, Q = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
LAYOUT = Layout("p", "hour=%H", "jsonl")
HOUR_MS = 3_600_000
RECORDS = 7


class Store(MemoryStore):
    """A put takes a moment until it has landed, and another until its answer is here."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = 0

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        await asyncio.sleep(0.01)
        await super().put(key, body, metadata=metadata, content_type=content_type)
        await asyncio.sleep(0.01)
        if "_headrace" not in key:
            self.answered += 1


class Kafka:
    """Two logs, and what the group has committed: what stays when a session ends."""

    def __init__(self) -> None:
        self.logs = {
            tp: [StoredRecord(n, 1_795_219_200_000 + n % 3 // 2 * HOUR_MS, None, b"%d" % n) for n in range(RECORDS)]
            for tp in (P, Q)
        }
        self.commits: dict[TopicPartition, tuple[int, str]] = {}
        self.generation = 0

    # headrace.kafka.KafkaCluster

    async def topic(self, name: str) -> Topic:
        await asyncio.sleep(0.001)
        return Topic(name, "id", "cluster", (0, 1))

    async def topic_id(self, name: str) -> str:
        return (await self.topic(name)).id

    async def topic_config(self, name: str, key: str) -> str:
        await asyncio.sleep(0.001)
        return "delete"

    async def group(self, name: str) -> Group:
        await asyncio.sleep(0.001)
        return Group(name, "Stable", (GroupMember(f"m{self.generation}", "", "", ()),))

    async def log_offsets(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        await asyncio.sleep(0.001)
        return {tp: 0 if timestamp_ms == EARLIEST else len(self.logs[tp]) for tp in partitions}


class Source:
    """Fetches from the logs, and commits. `consumer.source.Source` as the session sees it."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.offsets = self
        self.last_heartbeat = float("-inf")
        self.at = dict.fromkeys(kafka.logs, 0)
        self.paused = set(kafka.logs)
        self.loses_commit = -1
        kafka.generation += 1
        self.membership = Membership(kafka.generation, f"m{kafka.generation}")

    async def beat(self) -> bool:
        await asyncio.sleep(0.001)
        self.last_heartbeat = asyncio.get_running_loop().time()
        return True

    async def fetch(self, timeout: float, only: TopicPartition | None = None) -> list[Fetched]:
        await asyncio.sleep(0.05)
        self.last_heartbeat = asyncio.get_running_loop().time()
        found = []
        for tp in self.kafka.logs.keys() - self.paused:
            records = self.kafka.logs[tp][self.at[tp] :][:4]
            if records:
                self.at[tp] += len(records)
                found.append(Fetched(tp, records, self.at[tp]))
        return found

    async def commit(
        self, membership: Membership, part: dict[TopicPartition, tuple[int, str]]
    ) -> dict[TopicPartition, int]:
        await asyncio.sleep(0.002)
        assert membership.generation == self.kafka.generation, "Kafka fences it"
        self.kafka.commits |= part
        self.loses_commit -= 1
        if self.loses_commit == -1:
            raise Unanswered("lost")
        await asyncio.sleep(0.002)
        return dict.fromkeys(part, 0)

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        await asyncio.sleep(0.001)
        return {tp: self.kafka.commits.get(tp, (-1, "")) for tp in partitions}

    def position(self, partition: TopicPartition) -> int:
        return self.at[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at[partition] = offset

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self.paused -= set(partitions)


class Rig:
    """One session over what is there."""

    def __init__(self, kafka: Kafka, store: Store) -> None:
        self.kafka, self.store = kafka, store
        self.source = Source(kafka)
        self.stop = asyncio.Event()
        health = Health()
        form = open_format("jsonl", "none")
        clock = asyncio.get_running_loop().time
        uploader = Uploader(
            store=store,
            timeout_seconds=2,
            alive_for=lambda: clock() - self.source.last_heartbeat,
            health=health,
            jitter=lambda: 0.5,
        )
        self.dispatcher = Dispatcher(
            packer=Packer(layout=LAYOUT, form=form),
            uploader=uploader,
            health=health,
            memory_budget_bytes=10_000,
            max_queue=9,
            clock=clock,
        )
        parts: dict[str, Any] = {"cluster": kafka, "offsets": SimpleOffsets(self.source)}
        taking = Taking(
            store=store, layout=LAYOUT, group="g", upload_timeout_seconds=2, health=health, bounds=None, **parts
        )

        def new_lane(partition: TopicPartition, takeover: Takeover) -> Lane:
            limits = Limits(3, 10_000, 0.3)
            return Lane(partition, takeover, layout=LAYOUT, encode=form.encode, limits=limits, most_claims=8)

        self.assignment = Assignment(self.source.membership, frozenset(kafka.logs), asyncio.Event(), asyncio.Event())
        own: dict[str, Any] = {"source": self.source, "cluster": kafka}
        self.session = Session(
            assignment=self.assignment,
            taking=taking,
            dispatcher=self.dispatcher,
            new_lane=new_lane,
            health=health,
            workers=2,
            drain_seconds=5,
            give_back_seconds=2,
            clock=clock,
            **own,
        )

    async def run(self, ends: str) -> Outcome:
        """The whole life: two chunks a partition, and then the ending, with a third that is open."""
        running = asyncio.current_task()
        assert running is not None
        event = self.stop if ends == "stop" else self.assignment.revoked
        timer = asyncio.get_running_loop().call_later(0.6, event.set)
        if ends == "lost commit":
            self.source.loses_commit = 4
        try:
            return await self.session.run(self.stop)
        finally:
            timer.cancel()

    def check(self) -> None:
        """What must hold whenever a session has ended."""
        for partition in self.kafka.logs:
            lane = self.dispatcher.lanes.get(partition)
            for chunk in () if lane is None else lane.claims._chunks:
                if chunk.state is ChunkState.STORED:
                    assert self.covered(partition, chunk.offsets.start, chunk.offsets.end)
            durable, metadata = self.kafka.commits.get(partition, (-1, ""))
            assert self.covered(partition, 0, max(0, durable))
            assert durable < 0 or decode(durable, metadata) is not None
        for partition in list(self.dispatcher.lanes):
            self.dispatcher.remove(partition)
        assert self.dispatcher.budget.held == 0, "what no lane has is given back"

    def covered(self, partition: TopicPartition, start: int, end: int) -> bool:
        there = {
            int(line.split(b'"offset":')[1].split(b",")[0])
            for key, put in self.store.objects.items()
            if f"/{TOPIC}-{partition.partition:05d}-" in key
            for line in put.body.splitlines()
        }
        return set(range(start, end)) <= there


class SimpleOffsets:
    def __init__(self, source: Source) -> None:
        self.fetch = source.committed


class Steps:
    """Counts each step of each task of a loop, and does something right before one of them."""

    def __init__(self, at: int = -1) -> None:
        self.count = 0
        self.at = at
        self.then: Callable[[], object] = bool
        self.on = False

    def taken(self) -> None:
        if self.on:
            if self.count == self.at:
                self.then()
            self.count += 1

    def factory(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> Any:
        return asyncio.Task(_Walk(work, self), loop=loop, **options)


class _Walk(Coroutine[Any, Any, Any]):
    """A task's coroutine, step by step."""

    def __init__(self, work: Coroutine[Any, Any, Any], steps: Steps) -> None:
        self._work = work
        self._steps = steps

    def send(self, value: Any) -> Any:
        self._steps.taken()
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        self._steps.taken()
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        raise NotImplementedError


async def attempt(steps: Steps, ends: str) -> tuple[Rig, bool]:
    """One session that is cancelled before a step; whether it was over before that. Then a fresh one to the end."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(steps.factory)  # type: ignore[arg-type]
    kafka, store = Kafka(), Store()
    store.faults.extend(unavailable(1))
    store.faults[0].key = f"{TOPIC}-"
    rig = Rig(kafka, store)
    counted = metrics.STORED_OBJECTS.labels(TOPIC)._value
    before = counted.get()
    running = asyncio.create_task(rig.run(ends))
    steps.then = running.cancel
    steps.on = True
    began = loop.time()
    await asyncio.wait((running,), timeout=30)
    steps.on = False
    assert running.done(), "it goes on"
    assert loop.time() - began < 2, "it waits for nothing that is of no use"
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
    assert counted.get() - before == store.answered, "counted as stored"
    assert rig.assignment.ended.is_set() or steps.count <= 1
    rig.check()
    if running.cancelled():
        fresh = Rig(kafka, store)
        again = asyncio.create_task(fresh.session.run(fresh.stop))
        async with asyncio.timeout(60):
            while any(kafka.commits.get(tp, (-1, ""))[0] < RECORDS for tp in kafka.logs):
                await asyncio.sleep(0.1)
        fresh.stop.set()
        assert await again is Outcome.STOPPED
        assert fresh.dispatcher.budget.held == 0
        await exactly_once(kafka, store)
    else:
        running.result()
    return rig, running.cancelled()


async def exactly_once(kafka: Kafka, store: Store) -> None:
    coverages = (await survey(store, prefix="p", topic=TOPIC)).partitions()
    for tp, log in kafka.logs.items():
        coverage = coverages[tp.partition]
        assert not coverage.holes
        assert not coverage.overlaps
        records = [record for chunk in coverage.chunks for record in await read_chunk(store, chunk)]
        assert records == log
        assert kafka.commits[tp][0] == len(log)


def run(steps: Steps, ends: str) -> tuple[Rig, bool]:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(attempt(steps, ends))


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["stop", "revoked", "lost commit"])
def test_cancelled_at_every_step(ends: str) -> None:
    """Before each step of each task there is an await that the cancellation meets."""
    whole = Steps()
    _, cancelled = run(whole, ends)
    assert not cancelled
    assert whole.count > 50
    for number in range(whole.count):
        _, cancelled = run(Steps(number), ends)
        # The last step of the session is its own: it can't be met any more.
        assert cancelled or number == whole.count - 1, f"step {number} of {whole.count}: the cancellation was swallowed"


@in_virtual_time
async def test_work_is_given_up_when_told_to_stop() -> None:
    stop, gate = asyncio.Event(), Fault("get", gate=asyncio.Event())
    store = MemoryStore()
    store.faults.append(gate)
    store.objects["k"] = Put("k", b"there", {}, "")
    getting = asyncio.create_task(unless(stop, store.get("k")))
    await gate.asked.wait()
    stop.set()
    assert await getting is None
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await unless(asyncio.Event(), asyncio.sleep(1, "done")) == "done"
    with pytest.raises(OSError, match="broken"):
        await unless(asyncio.Event(), _broken())


async def _broken() -> None:
    await asyncio.sleep(0)
    raise OSError("broken")
