"""Fan-out and pressure: bytes are given back once, nothing waits for itself, a partition's trouble is its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from consumer.chunk import Limits
from consumer.claims import ChunkState, Committed
from consumer.dispatcher import Dispatcher, clear_halts
from consumer.encode import open_format
from consumer.jobs import FAILURES_TO_FAIL
from consumer.lane import Lane, LaneState
from consumer.layout import Layout
from consumer.packer import BODY_BYTES, Packer
from consumer.takeover import Segment, SegmentKind, Takeover
from consumer.uploader import AssignmentStale, Uploader
from headrace.management import Health
from headrace.objects import Range
from headrace.record import StoredRecord
from headrace.s3 import S3Refused, S3Unavailable
from tests.fakes import Fault, MemoryStore, in_virtual_time, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from consumer.encode import Format
    from headrace.record import Record

LAYOUT = Layout("p", "hour=%H", "jsonl")
HOUR_MS = 3_600_000
RECORD_BYTES = 10


def encode(records: Sequence[Record]) -> list[bytes]:
    return [b"%9d\n" % record.offset for record in records]


def tp(number: int = 0) -> TopicPartition:
    return TopicPartition("t", number)


def commit(durable: int, *ends: int) -> Committed:
    return Committed(durable, durable, ends, 0, LAYOUT.fingerprint, "id")


def recut(start: int, end: int, **more: Any) -> Segment:
    return Segment(SegmentKind.RECUT, Range(start, end), claimed=True, **more)


class Rig:
    """A dispatcher over a store in memory, with lanes that read an endless log of records of ten bytes each."""

    def __init__(
        self,
        *,
        budget: int = 1000,
        max_queue: int = 100,
        limits: Limits | None = None,
        layout: Layout = LAYOUT,
        form: Format | None = None,
    ) -> None:
        self.layout = layout
        self.encode = encode if form is None else form.encode
        self.store = MemoryStore()
        self.health = Health()
        self.now = 0.0
        self.quiet_for = 0.0
        self.limits = limits or Limits(5, 10_000, 60)
        self.packer = Packer(layout=layout, form=form or open_format("jsonl", "none"))
        self.uploader = Uploader(
            store=self.store,
            timeout_seconds=60,
            alive_for=lambda: self.quiet_for,
            health=self.health,
            jitter=lambda: 1.0,
        )
        self.dispatcher = Dispatcher(
            packer=self.packer,
            uploader=self.uploader,
            health=self.health,
            memory_budget_bytes=budget,
            max_queue=max_queue,
            clock=lambda: self.now,
        )
        self.kafka: dict[TopicPartition, Committed] = {}

    def lane(
        self, number: int = 0, *ends: int, segments: tuple[Segment, ...] = (), stop: int | None = None, most: int = 8
    ) -> Lane:
        start = 0
        if ends and not segments:
            edges = (0, *ends)
            segments = tuple(recut(left, right) for left, right in zip(edges, ends, strict=False))
        lane = Lane(
            tp(number),
            Takeover(commit(start, *ends), True, segments, start),
            layout=self.layout,
            encode=self.encode,
            limits=self.limits,
            most_claims=most,
            stop=stop,
        )
        lane.seek_to = None
        self.dispatcher.add(lane)
        return lane

    def feed(self, lane: Lane, count: int, hours: int = 0) -> None:
        lane.seek_to = None
        at = lane.position
        records = [StoredRecord(at + more, 1_795_219_200_000 + hours * HOUR_MS, None, b"") for more in range(count)]
        self.dispatcher.take(lane.partition, records, at + count)

    def commit(self, **codes: int) -> bool:
        """One round of commits; codes by partition, `p0=12`. True when something is to be asked again."""
        again = False
        for lane, plan in self.dispatcher.plans():
            code = codes.get(f"p{lane.partition.partition}", 0)
            if code == 0:
                self.kafka[lane.partition] = plan.committed
            again |= self.dispatcher.answered(lane, plan, code)
        return again

    @contextlib.asynccontextmanager
    async def workers(self, count: int = 4) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.dispatcher.work()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Commit and upload until nothing is left to do."""
        while not self.dispatcher.idle:
            self.commit()
            if self.dispatcher.idle:
                return
            await asyncio.wait_for(self.dispatcher.news.wait(), 3600)
            self.dispatcher.news.clear()

    @property
    def names(self) -> list[str]:
        return sorted(key.rpartition("/")[2].split("-", 2)[2] for key in self.store.objects)


def name(start: int, end: int) -> str:
    return f"{start:020d}-{end:020d}.jsonl"


# Claims and uploads


@in_virtual_time
async def test_nothing_is_uploaded_before_its_claim_is_acknowledged() -> None:
    rig = Rig()
    lane = rig.lane()
    async with rig.workers():
        rig.feed(lane, 5)
        await asyncio.sleep(100)
        assert not rig.store.calls
        assert rig.commit(p0=14)
        await asyncio.sleep(100)
        assert not rig.store.calls
        assert not rig.commit()
        assert rig.kafka[tp()] == commit(0, 5)
        await rig.settle()
    assert rig.names == [name(0, 5)]
    assert rig.kafka[tp()] == commit(5)
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_nothing_is_committed_past_before_it_is_stored() -> None:
    rig = Rig()
    lane = rig.lane()
    gate = Fault("put", gate=asyncio.Event(), key=name(0, 5))
    rig.store.faults.append(gate)
    async with rig.workers():
        rig.feed(lane, 15)
        rig.commit()
        await gate.asked.wait()
        await asyncio.sleep(10)
        assert rig.names == [name(5, 10), name(10, 15)]
        rig.commit()
        assert rig.kafka[tp()] == commit(0, 5, 10, 15)
        assert gate.gate is not None
        gate.gate.set()
        await rig.settle()
    assert rig.kafka[tp()] == commit(15)


@in_virtual_time
async def test_a_chunk_is_stored_when_all_its_objects_are() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 2)
    rig.feed(lane, 3, hours=1)
    gate = Fault("put", gate=asyncio.Event(), key="hour=01")
    rig.store.faults.append(gate)
    async with rig.workers():
        rig.commit()
        await gate.asked.wait()
        assert len(rig.store.objects) == 1
        rig.commit()
        assert rig.kafka[tp()] == commit(0, 5)
        assert gate.gate is not None
        gate.gate.set()
        await rig.settle()
    assert len(rig.store.objects) == 2
    assert {put.metadata["headrace-chunk-objects"] for put in rig.store.landed} == {"2"}


class Slow(MemoryStore):
    """A store that takes a second for each PUT, and tells how many were under way at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(1)
            await super().put(key, body, metadata=metadata, content_type=content_type)
        finally:
            self.now -= 1


@in_virtual_time
async def test_a_chunks_many_objects_are_stored_side_by_side() -> None:
    """Its own PUTs do not wait for each other, and others' do not wait for them: MAX_WORKERS at a time, in all."""
    rig = Rig(budget=10**7, limits=Limits(1000, 10**6, 60), layout=Layout("p", "at=%FT%H", "jsonl"))
    rig.store = rig.uploader._store = Slow()
    wide, narrow = rig.lane(0), rig.lane(1)
    for hour in range(200):
        rig.feed(wide, 1, hours=hour)
    wide.cut()
    clock = asyncio.get_running_loop().time
    began = clock()
    async with rig.workers(16):
        rig.commit()
        await asyncio.sleep(0.5)
        rig.feed(narrow, 5)
        narrow.cut()
        while not narrow.claims.settled:
            rig.commit()
            await asyncio.sleep(0.1)
        assert clock() - began < 4, "it waited for one of the wide chunk's, not for all"
        await rig.settle()
    assert 201 / 16 <= (clock() - began) < 201 / 16 + 3
    assert rig.store.most == 16
    assert len(rig.store.objects) == 200 + 1


@in_virtual_time
async def test_what_fails_of_many_objects_is_tried_again_alone() -> None:
    """Three failures in a row end a round, and the next begins with a single attempt; what is stored stays so."""
    rig = Rig(budget=10**7, limits=Limits(1000, 10**6, 60))
    lane = rig.lane()
    for hour in range(24):
        rig.feed(lane, 1, hours=hour)
    lane.cut()
    rig.store.faults += [Fault("put", S3Unavailable("503"), key="hour=07") for _ in range(3)]
    async with rig.workers():
        rig.commit()
        await rig.settle()
    assert len(rig.store.objects) == 24
    puts = Counter(key for call, key in rig.store.calls if call == "put")
    assert sorted(puts.values()) == [1] * 23 + [4]
    assert rig.dispatcher.budget.held == 0
    assert rig.health.ready


@in_virtual_time
async def test_a_dead_store_is_not_asked_for_each_of_many_objects() -> None:
    rig = Rig(budget=10**7, limits=Limits(1000, 10**6, 60))
    lane = rig.lane()
    for hour in range(24):
        rig.feed(lane, 1, hours=hour)
    lane.cut()
    rig.store.faults += [Fault("put", S3Unavailable("503")) for _ in range(30)]
    async with rig.workers():
        rig.commit()
        await asyncio.sleep(0.01)
        assert len(rig.store.calls) <= 16 + FAILURES_TO_FAIL
        await rig.settle()
    assert len(rig.store.objects) == 24
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_a_former_owners_chunks_are_uploaded_without_a_commit() -> None:
    rig = Rig()
    lane = rig.lane(0, 3, 7)
    async with rig.workers():
        rig.feed(lane, 7)
        await asyncio.sleep(1)
        assert rig.names == [name(0, 3), name(3, 7)]
        await rig.settle()
    assert rig.kafka[tp()] == commit(7)
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_the_queue_bounds_claims() -> None:
    rig = Rig(max_queue=2)
    first, second = rig.lane(0), rig.lane(1)
    rig.feed(first, 15)
    rig.feed(second, 15)
    rig.commit()
    assert rig.kafka == {tp(0): commit(0, 5), tp(1): commit(0, 5)}, "one lane does not take all places"
    rig.commit()
    assert rig.kafka == {tp(0): commit(0, 5), tp(1): commit(0, 5)}
    async with rig.workers(1):
        await rig.settle()
    assert rig.kafka == {tp(0): commit(15), tp(1): commit(15)}


@in_virtual_time
async def test_workers_bound_uploads() -> None:
    rig = Rig()
    lane = rig.lane()
    faults = [Fault("put", gate=asyncio.Event()) for _ in range(5)]
    rig.store.faults.extend(faults)
    rig.feed(lane, 25)
    async with rig.workers(3):
        rig.commit()
        await faults[2].asked.wait()
        await asyncio.sleep(10)
        assert len(rig.store.calls) == 3
        for fault in faults:
            assert fault.gate is not None
            fault.gate.set()
        await rig.settle()
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_what_stands_with_more_records_is_not_replaced() -> None:
    rig = Rig()
    standing = {LAYOUT.key("t", 0, Range(0, 5), "hour=00"): 4}
    rig.store.faults.clear()
    lane = rig.lane(0, 5, segments=(recut(0, 5, lost=Range(0, 1), standing=standing),))
    rig.feed(lane, 4)
    rig.feed(lane, 1, hours=1)
    async with rig.workers():
        await rig.settle()
    (put,) = rig.store.landed
    assert "hour=01" in put.key
    assert put.metadata["headrace-chunk-objects"] == "2"
    assert put.metadata["headrace-lost"] == "0-1"


# Errors of one partition


@in_virtual_time
@pytest.mark.parametrize("code", [3, 28, 29, 30])
async def test_a_refusal_concerns_its_partition_alone(code: int) -> None:
    rig = Rig()
    first, second = rig.lane(0), rig.lane(1)
    async with rig.workers():
        rig.feed(first, 7)
        rig.feed(second, 5)
        assert not rig.commit(p0=code)
        assert (first.state, second.state) == (LaneState.FAILED, LaneState.FETCHING)
        assert f"error {code}" in rig.health.problems["t/0"]
        await rig.settle()
    assert rig.kafka == {tp(1): commit(5)}
    assert rig.dispatcher.pressure() == ([tp(0)], [])
    assert rig.dispatcher.pressure() == ([], [])
    assert rig.dispatcher.budget.held == 0
    rig.feed(first, 5)
    assert rig.dispatcher.budget.held == 0
    clear_halts(rig.health, [tp(0)])
    assert rig.health.ready


@in_virtual_time
@pytest.mark.parametrize("code", [7, 14, 15, 16])
async def test_an_answered_error_is_asked_again(code: int) -> None:
    rig = Rig()
    rig.feed(rig.lane(), 5)
    assert rig.commit(p0=code)
    assert not rig.kafka
    assert not rig.commit()
    assert rig.kafka == {tp(): commit(0, 5)}


async def test_large_metadata_means_fewer_claims_then_a_halt() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 10)
    assert rig.commit(p0=12)
    assert rig.commit(p0=12)
    assert lane.state is LaneState.FAILED
    assert "offset.metadata.max.bytes" in rig.health.problems["t/0"]
    assert rig.dispatcher.budget.held == 0


async def test_a_lane_that_fails_while_its_commit_is_under_way() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 5)
    ((_, plan),) = rig.dispatcher.plans()
    rig.dispatcher.halt(lane, "it can't be read")
    rig.dispatcher.answered(lane, plan, 0)
    async with rig.workers():
        for _ in range(5):
            await asyncio.sleep(0)
    assert not rig.store.calls
    assert rig.dispatcher.budget.held == 0
    assert rig.dispatcher.idle


# Pressure


@in_virtual_time
async def test_high_water_pauses_and_low_water_resumes() -> None:
    rig = Rig(budget=100, limits=Limits(5, 10_000, 60))
    lanes = [rig.lane(0), rig.lane(1)]
    rig.feed(lanes[0], 4)
    rig.feed(lanes[1], 3)
    assert rig.dispatcher.pressure() == ([], [])
    rig.feed(lanes[0], 1)
    rig.feed(lanes[1], 2)
    assert rig.dispatcher.pressure() == ([tp(0), tp(1)], [])
    assert [lane.state for lane in lanes] == [LaneState.PAUSED] * 2
    assert rig.dispatcher.pressure() == ([], [])
    gates = [Fault("put", gate=asyncio.Event()) for _ in range(2)]
    rig.store.faults.extend(gates)
    async with rig.workers():
        rig.commit()
        await gates[1].asked.wait()
        assert rig.dispatcher.budget.held == 100, "compressed bodies count until they are stored"
        assert gates[0].gate is not None
        rig.dispatcher.room.clear()
        gates[0].gate.set()
        await asyncio.sleep(1)
        assert rig.dispatcher.room.is_set(), "who reads is told to ask again"
        assert rig.dispatcher.pressure() == ([], [tp(0), tp(1)])
        rig.dispatcher.room.clear()
        assert gates[1].gate is not None
        gates[1].gate.set()
        await rig.settle()
        assert not rig.dispatcher.room.is_set(), "nobody rests"
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_a_lane_with_enough_chunks_on_their_way_waits() -> None:
    rig = Rig()
    full, free = rig.lane(0, most=2), rig.lane(1)
    rig.feed(full, 10)
    rig.feed(free, 1)
    assert rig.dispatcher.pressure() == ([tp(0)], [])
    async with rig.workers():
        rig.commit()
        await asyncio.sleep(1)
        rig.commit()
    assert rig.dispatcher.pressure() == ([], [tp(0)])


@in_virtual_time
async def test_many_open_chunks_that_fill_the_budget_are_cut_largest_first() -> None:
    rig = Rig(budget=200, limits=Limits(100, 10_000, 3600))
    lanes = [rig.lane(number) for number in range(10)]
    for number, lane in enumerate(lanes):
        rig.feed(lane, 3 if number == 4 else 2)
    rig.dispatcher.tick()
    cut = [lane.partition.partition for lane in lanes if lane.claims.unsettled]
    assert 4 in cut
    assert sum(lane.open_bytes for lane in lanes) <= rig.dispatcher.budget.low
    assert len(cut) == 3
    assert rig.dispatcher.pressure()[0], "paused meanwhile"
    async with rig.workers():
        await rig.settle()
    assert not rig.dispatcher.budget.short
    assert len(rig.dispatcher.pressure()[1]) == 10


@in_virtual_time
async def test_what_is_leaving_already_is_counted_before_anything_is_cut() -> None:
    rig = Rig(budget=100)
    big, small = rig.lane(0), rig.lane(1)
    rig.feed(small, 4)
    rig.feed(big, 5)
    rig.feed(small, 0)
    rig.feed(big, 1)
    assert rig.dispatcher.budget.short
    rig.dispatcher.tick()
    assert small.claims.unsettled == 0
    assert big.open_bytes == RECORD_BYTES


@in_virtual_time
async def test_claimed_chunks_larger_than_the_budget_together_do_not_wait_for_each_other() -> None:
    """They can't be cut: one goes on until it is whole, a little beyond the budget, then the next."""
    rig = Rig(budget=100)
    lanes = [rig.lane(number, 8) for number in range(4)]
    highest = 0
    async with rig.workers():
        for _ in range(200):
            for lane in lanes:
                if lane.state is LaneState.FETCHING and lane.position < 8:
                    rig.feed(lane, 1)
            highest = max(highest, rig.dispatcher.budget.held)
            rig.dispatcher.tick()
            rig.dispatcher.pressure()
            rig.commit()
            await asyncio.sleep(1)
            if len(rig.store.objects) == 4:
                break
        else:
            raise AssertionError("it never ends")
        await rig.settle()
    assert highest <= 100 + 80
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_memory_is_bounded_while_s3_is_dead() -> None:
    rig = Rig(budget=500)
    lanes = [rig.lane(number) for number in range(100)]
    rig.store.faults.extend(unavailable(10_000))
    highest = 0
    async with rig.workers():
        for _ in range(300):
            for lane in lanes:
                if lane.state is LaneState.FETCHING:
                    rig.feed(lane, 2)
                    rig.dispatcher.pressure()
            highest = max(highest, rig.dispatcher.budget.held)
            rig.dispatcher.tick()
            rig.commit()
            await asyncio.sleep(1)
        assert all(lane.state is LaneState.PAUSED for lane in lanes)
        assert highest <= 500 + 2 * RECORD_BYTES
        assert all(committed.durable == 0 for committed in rig.kafka.values())
        rig.store.faults.clear()
        await asyncio.sleep(30)
        rig.dispatcher.cut_all()
        await rig.settle()
    assert rig.dispatcher.budget.held == 0
    assert {committed.ends for committed in rig.kafka.values()} == {()}


# A partition in trouble


class Log:
    """Feeds lanes as Kafka does: whoever isn't paused gets the same."""

    def __init__(self, rig: Rig, each: int = 5) -> None:
        self.rig = rig
        self.each = each

    async def run(self, seconds: int) -> None:
        for _ in range(seconds * 2):
            for lane in self.rig.dispatcher.lanes.values():
                if lane.state is LaneState.FETCHING:
                    self.rig.feed(lane, self.each)
            self.rig.dispatcher.tick()
            self.rig.dispatcher.pressure()
            self.rig.commit()
            await asyncio.sleep(0.5)


class Troubled(MemoryStore):
    """PUTs whose key has one of these meet trouble; the others take a while."""

    def __init__(self, *keys: str, hang: bool) -> None:
        super().__init__()
        self.keys = keys
        self.hang = hang
        self.under_way = 0

    async def put(self, key: str, body: bytes, **more: Any) -> None:
        if not any(each in key for each in self.keys):
            await asyncio.sleep(0.2)
            await super().put(key, body, **more)
            return
        self.under_way += 1
        try:
            await asyncio.sleep(3600 if self.hang else 0.01)
            raise S3Refused(f"{key}: 403")
        finally:
            self.under_way -= 1


@in_virtual_time
@pytest.mark.parametrize("hang", [True, False])
@pytest.mark.parametrize("troubled", [(3,), (0, 5)])
async def test_partitions_in_trouble_do_not_hold_up_the_others(hang: bool, troubled: tuple[int, ...]) -> None:
    rig = Rig(budget=1000, max_queue=16)
    store = Troubled(*(f"t-{number:05d}-" for number in troubled), hang=hang)
    rig.store = rig.uploader._store = store
    lanes = [rig.lane(number, most=32) for number in range(6)]
    async with rig.workers(8):
        await Log(rig).run(300)
        durable = {lane.partition.partition: rig.kafka[lane.partition].durable for lane in lanes}
        assert all(durable[number] == 0 for number in troubled)
        others = [durable[lane.partition.partition] for lane in lanes if lane.partition.partition not in troubled]
        assert min(others) >= 300 * 2 * 5 * 0.9, "all that Kafka had for them"
        assert store.under_way <= len(troubled), "one attempt at a time"
        assert rig.dispatcher.budget.held <= 1000
        assert [tp(number) for number in troubled] == [
            lane.partition for lane in lanes if lane.state is LaneState.PAUSED
        ]
        assert hang or "403" in rig.health.problems["s3"]
        store.keys = ()
        await asyncio.sleep(60)
        await Log(rig).run(60)
        rig.dispatcher.cut_all()
        await rig.settle()
    assert all(rig.kafka[tp(number)].durable > 100 for number in troubled)
    assert rig.dispatcher.budget.held == 0
    assert rig.health.ready


@in_virtual_time
async def test_a_partition_is_well_again_with_the_first_payload_that_s3_takes() -> None:
    """Not only when all payloads of its chunk are stored, which may take minutes."""
    rig = Rig(form=open_format("object", "none"), budget=100_000, limits=Limits(50, 10_000, 60))
    rig.store.faults += [*unavailable(FAILURES_TO_FAIL + 16), Fault("put"), Fault("put", gate=asyncio.Event())]
    gate = rig.store.faults[-1]
    lane = rig.lane()
    async with rig.workers(8):
        rig.feed(lane, 50)
        rig.commit()
        while not rig.store.landed:
            assert not gate.asked.is_set()
            await asyncio.sleep(0.01)
            rig.dispatcher.pressure()
        assert "503" not in rig.health.problems.get("s3", "")
        assert lane not in rig.dispatcher._jobs.failing
        assert gate.gate is not None
        gate.gate.set()
        await rig.settle()
    assert rig.kafka[tp()] == commit(50)


@in_virtual_time
async def test_what_one_partition_holds_leaves_room_for_the_others() -> None:
    """Its uploads hang, and nobody knows yet: it has no more than twice of what is free."""
    rig = Rig(budget=3000, max_queue=1000)
    store = Troubled("t-00000-", hang=True)
    rig.store = rig.uploader._store = store
    stuck, other = rig.lane(0, most=1000), rig.lane(1)
    async with rig.workers(8):
        for _ in range(400):
            if stuck.state is LaneState.FETCHING:
                rig.feed(stuck, 5)
            rig.dispatcher.pressure()
            rig.commit()
            await asyncio.sleep(0.05)
        assert stuck.state is LaneState.PAUSED
        assert 2000 <= rig.dispatcher.budget.held <= 2100
        assert store.under_way == 4, "half of the slots"
        assert other.state is LaneState.FETCHING
        rig.feed(other, 5)
        rig.commit()
        await asyncio.sleep(1)
        assert len(store.landed) == 1


def test_an_open_chunk_has_half_of_the_budget_at_most() -> None:
    rig = Rig(budget=100, limits=Limits(1000, 10_000, 3600))
    lane = rig.lane()
    rig.feed(lane, 4)
    assert lane.claims.unsettled == 0
    rig.feed(lane, 1)
    assert (lane.claims.unsettled, lane.open_bytes) == (1, 0)


def test_the_next_due_chunk_of_all() -> None:
    rig = Rig()
    first, second = rig.lane(0), rig.lane(1)
    assert rig.dispatcher.next_due() is None
    rig.feed(second, 1)
    rig.now = 5.0
    rig.feed(first, 1)
    assert rig.dispatcher.next_due() == 60.0
    rig.now = 60.0
    rig.dispatcher.tick()
    assert (first.claims.unsettled, second.claims.unsettled) == (0, 1)


# Taking over again, cancelling


@in_virtual_time
async def test_no_attempt_follows_for_a_lane_that_is_gone() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 8)
    rig.store.faults.extend(unavailable(1))
    async with rig.workers():
        rig.commit()
        await asyncio.sleep(0.05)
        rig.dispatcher.remove(tp())
        assert rig.dispatcher.budget.held == 0
        await asyncio.sleep(100)
        assert rig.dispatcher.budget.held == 0
        assert len(rig.store.calls) == 1
        assert not rig.store.objects
        assert lane.claims.unsettled == 1, "it counts for nothing"
        other = rig.lane(0, 5)
        rig.feed(other, 5)
        await rig.settle()
    assert rig.names == [name(0, 5)]
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_queued_chunks_of_a_lane_that_is_gone_are_dropped() -> None:
    rig = Rig()
    rig.feed(rig.lane(), 5)
    rig.commit()
    rig.dispatcher.remove(tp())
    assert rig.dispatcher.budget.held == 0
    async with rig.workers():
        await asyncio.sleep(1)
    assert not rig.store.calls


@in_virtual_time
async def test_a_lane_that_fails_during_compression_gives_its_bytes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 8)
    pack = rig.packer._pack

    def fail_meanwhile(*arguments: Any) -> Any:
        rig.dispatcher.halt(lane, "meanwhile")
        return pack(*arguments)

    monkeypatch.setattr(rig.packer, "_pack", fail_meanwhile)
    async with rig.workers():
        rig.commit()
        while rig.health.ready:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
    assert rig.dispatcher.budget.held == 0
    assert not rig.store.calls


@in_virtual_time
@pytest.mark.parametrize("moment", ["compressing", "first put", "pausing", "second put", "answer lost"])
async def test_a_cancelled_upload_is_not_stored_and_holds_nothing(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 2)
    rig.feed(lane, 3, hours=1)
    reached = asyncio.Event()
    if moment == "compressing":

        async def bodies(*_: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(rig.packer, "bodies", bodies)
    elif moment == "pausing":
        rig.store.faults.append(Fault("put", S3Unavailable("503")))
        reached = rig.store.faults[0].asked
    elif moment == "answer lost":
        rig.store.faults.append(Fault("put", S3Unavailable("lost"), key="hour=01", stored=True))
        reached = rig.store.faults[0].asked
    else:
        key = "hour=00" if moment == "first put" else "hour=01"
        rig.store.faults.append(Fault("put", gate=asyncio.Event(), key=key))
        reached = rig.store.faults[0].asked
    async with rig.workers(1):
        rig.commit()
        ((chunk,),) = [list(lane.claims._chunks)]
        await reached.wait()
        while moment in {"pausing", "answer lost"} and not rig.dispatcher._jobs.qsize():
            await asyncio.sleep(0)
    assert chunk.state is ChunkState.CLAIMED
    rests = {"pausing": 20 + BODY_BYTES, "answer lost": 30 + BODY_BYTES}.get(moment, 0)  # waiting to be tried again
    assert rig.dispatcher.budget.held == lane.held_bytes + rests
    assert rig.dispatcher.plans() == []
    rig.dispatcher.remove(tp())
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_a_stale_assignment_ends_the_worker() -> None:
    rig = Rig()
    rig.feed(rig.lane(), 5)
    rig.quiet_for = 61.0
    rig.commit()
    with pytest.raises(AssignmentStale):
        await rig.dispatcher.work()
    rig.dispatcher.remove(tp())
    assert rig.dispatcher.budget.held == 0


# Gaps


@in_virtual_time
async def test_what_retention_ate_is_told_and_passed() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 2)
    assert rig.dispatcher.log_starts_at(lane, 9)
    async with rig.workers():
        await rig.settle()
    assert sorted(key.partition("/t/")[2] for key in rig.store.objects) == [
        f"_gaps/t-00000-{2:020d}-{9:020d}.gap.json",
        f"hour=00/t-00000-{name(0, 2)}",
    ]
    assert rig.kafka[tp()] == commit(9)
    assert not rig.dispatcher.log_starts_at(lane, 3)


# Endings


@in_virtual_time
async def test_the_process_ends_all_that_is_held_is_stored() -> None:
    rig = Rig()
    first, second = rig.lane(0), rig.lane(1, 9)
    rig.feed(first, 7)
    rig.feed(second, 4)
    async with rig.workers():
        rig.dispatcher.cut_all()
        assert not rig.dispatcher.idle
        await rig.settle()
    assert rig.names == [name(0, 5), name(5, 7)]
    assert rig.kafka == {tp(0): commit(7)}, (
        "a chunk that was not cut again to its end stays claimed, for the next owner"
    )
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_partitions_are_given_back_only_what_is_claimed_is_stored() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.feed(lane, 5)
    rig.commit()
    rig.feed(lane, 7)
    rig.dispatcher.withhold_claims()
    assert not rig.dispatcher.idle
    async with rig.workers():
        await rig.settle()
    assert rig.names == [name(0, 5)]
    assert rig.kafka[tp()] == commit(5)
    rig.dispatcher.remove(tp())
    assert rig.dispatcher.budget.held == 0


@in_virtual_time
async def test_a_replay_has_ended_when_all_is_stored_and_committed() -> None:
    rig = Rig()
    lane = rig.lane(stop=7)
    rig.feed(lane, 9)
    assert lane.state is LaneState.FINISHED
    assert not rig.dispatcher.ended
    async with rig.workers():
        await rig.settle()
    assert rig.dispatcher.ended
    assert rig.names == [name(0, 5), name(5, 7)]
    other = rig.lane(1)
    assert not rig.dispatcher.ended
    rig.dispatcher.halt(other, "because")
    assert rig.dispatcher.ended


def test_records_without_a_lane_are_not_wanted() -> None:
    rig = Rig()
    rig.dispatcher.take(tp(5), [], 10)
    rig.lane()
    with pytest.raises(AssertionError):
        rig.lane()
