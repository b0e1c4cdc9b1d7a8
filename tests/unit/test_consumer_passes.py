"""Payloads that are objects of their own: side by side, each until it is there, the index last, and none too many."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from consumer.chunk import Bucket, Cargo
from consumer.encode import open_format
from consumer.encode.jsonl import encode_lines
from consumer.jobs import FAILURES_TO_FAIL
from consumer.layout import Layout
from consumer.packer import Body, Bundle, Packer
from consumer.uploader import AssignmentStale, Uploader
from headrace.archive import read_chunk, survey
from headrace.management import Health
from headrace.objects import Range
from headrace.record import StoredRecord
from headrace.s3 import S3Refused, S3Unavailable
from tests.fakes import Fault, MemoryStore, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

P = TopicPartition("t", 3)
FORM = open_format("object", "zstd")
LAYOUT = Layout("p", "hour=%H", FORM.suffix)


class CountingStore(MemoryStore):
    """Also tells how many puts were under way at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.most = 0

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            await super().put(key, body, metadata=metadata, content_type=content_type)
        finally:
            self.now -= 1


def some_records(*offsets: int) -> list[StoredRecord]:
    return [StoredRecord(offset, 5, None, b"%d" % offset, ()) for offset in offsets]


class Rig:
    def __init__(self, most: int = 4) -> None:
        self.store = CountingStore()
        self.quiet_for = 0.0
        self.wanted = True
        self.packer = Packer(layout=LAYOUT, form=FORM)
        self.uploader = Uploader(
            store=self.store,
            timeout_seconds=60,
            alive_for=lambda: self.quiet_for,
            health=Health(),
            most_attempts=most,
        )

    async def bodies(self, *records: StoredRecord, **more: Any) -> list[Body]:
        bucket = Bucket("hour=01", [encode_lines([record]) for record in records], len(records), 5, 5)
        cargo = Cargo([bucket] if records else [], len(records), **more)
        found = await self.packer.bodies(P, Range(10, 1000), cargo)
        assert more or not bucket.parts
        return found

    async def bundle(self, *offsets: int) -> Bundle:
        first, _ = await self.bodies(*some_records(*offsets))
        assert isinstance(first, Bundle)
        return first

    async def upload(self, body: Body) -> bool:
        return await self.uploader.upload(P, body, lambda: self.wanted)

    @property
    def stored(self) -> list[int]:
        return [int(put.body) for put in self.store.landed]

    @property
    def attempts(self) -> int:
        return sum(call == "put" for call, _ in self.store.calls)


async def test_the_index_is_last_and_all_comes_back() -> None:
    rig = Rig()
    records = [*some_records(10, 11), StoredRecord(12, 5, b"k", None, (("h", b"\xff"),)), *some_records(13)]
    bundle, index = await rig.bodies(*records)
    assert isinstance(bundle, Bundle)
    assert not isinstance(index, Bundle)
    assert index.metadata["headrace-records"] == "4"
    assert index.metadata["headrace-chunk-objects"] == "1"
    assert await rig.upload(bundle)
    assert rig.stored == [10, 11, 13]
    assert rig.store.landed[0].content_type == "application/json"
    assert rig.store.landed[0].metadata == {"headrace-offset": "10", "headrace-timestamp": "5"}
    assert await rig.upload(index)
    (chunk,) = (await survey(rig.store, prefix="p", topic="t")).coverage(3).chunks
    assert await read_chunk(rig.store, chunk) == records


async def test_all_bundles_of_a_chunk_come_before_its_indexes() -> None:
    rig = Rig()
    buckets = [Bucket(f"hour={hour}", [encode_lines(some_records(hour))], 1, 5, 5) for hour in (10, 11)]
    found = await rig.packer.bodies(P, Range(10, 12), Cargo(buckets, 2))
    assert [isinstance(body, Bundle) for body in found] == [True, True, False, False]
    assert [body.metadata.get("headrace-chunk-objects") for body in found[2:]] == ["2", "2"]


async def test_what_stands_is_not_stored_again() -> None:
    """Neither an index that is there nor the payloads it tells of."""
    rig = Rig()
    key = LAYOUT.key("t", 3, Range(10, 1000), "hour=01")
    (rest,) = await rig.bodies(*some_records(10), standing={key: 1})
    assert (rest.key, rest.records) == (LAYOUT.key("t", 3, Range(10, 1000), "_gaps"), 0)


async def test_an_empty_chunk_is_an_empty_index() -> None:
    (found,) = await Rig().bodies()
    assert (found.key, found.records) == (LAYOUT.key("t", 3, Range(10, 1000), LAYOUT.undated), 0)


@pytest.mark.parametrize("most", [1, 3, 16])
async def test_as_many_side_by_side_as_there_are_slots(most: int) -> None:
    rig = Rig(most)
    bundles = [await rig.bundle(*range(start, start + 40)) for start in (100, 200, 300)]
    assert all(await asyncio.gather(*map(rig.upload, bundles)))
    assert sorted(rig.stored) == [*range(100, 140), *range(200, 240), *range(300, 340)]
    assert rig.store.most == most


async def test_a_partition_that_comes_later_finds_slots() -> None:
    rig, other = Rig(most=4), TopicPartition("t", 4)
    first, second = await rig.bundle(*range(100, 160)), await rig.bundle(*range(200, 210))
    async with asyncio.TaskGroup() as both:
        both.create_task(rig.upload(first))
        await asyncio.sleep(0)
        both.create_task(rig.uploader.upload(other, second))
    assert sorted(rig.stored) == [*range(100, 160), *range(200, 210)]
    assert max(map(rig.stored.index, range(200, 210))) < rig.stored.index(159)


async def test_an_older_chunk_that_is_tried_again_goes_first() -> None:
    """It has waited while a younger one took the slots: that one gives them back, or it would never be whole."""
    rig = Rig(most=2)
    older, younger = await rig.bundle(*range(100, 120)), await rig.bundle(*range(500, 540))
    async with asyncio.TaskGroup() as both:
        both.create_task(rig.upload(replace(younger, order=500)))
        await asyncio.sleep(0)
        both.create_task(rig.upload(replace(older, order=100)))
    assert len(rig.stored) == 60
    assert rig.stored.index(119) < 30, "few of the younger one's are stored before"


async def test_only_what_failed_is_tried_again() -> None:
    rig = Rig()
    bundle = await rig.bundle(*range(10, 30))
    rig.store.faults += [Fault("put", S3Unavailable("503"), key="15."), Fault("put", S3Refused("403"), key="21.")]
    assert not await rig.upload(bundle)
    assert bundle.progress == 18
    assert rig.attempts == 20
    assert await rig.upload(bundle)
    assert rig.attempts == 22
    assert sorted(rig.stored) == list(range(10, 30))


async def test_a_dead_store_is_not_asked_for_each_of_them() -> None:
    rig = Rig(most=2)
    bundle = await rig.bundle(*range(10, 110))
    rig.store.faults += unavailable(50)
    assert not await rig.upload(bundle)
    assert FAILURES_TO_FAIL <= rig.attempts <= FAILURES_TO_FAIL + 1
    before = rig.attempts
    assert not await rig.upload(bundle)
    assert rig.attempts == before + 1  # one alone shows whether to go on
    rig.store.faults.clear()
    assert await rig.upload(bundle)
    assert sorted(rig.stored) == list(range(10, 110))


async def test_a_pass_that_is_over_does_not_go_on_with_fewer_attempts_side_by_side() -> None:
    """One that succeeds late says nothing for those that have ended: the next pass has all of them again."""
    rig = Rig(most=FAILURES_TO_FAIL + 1)
    bundle = await rig.bundle(*range(10, 110))
    late = Fault("put", gate=asyncio.Event())
    rig.store.faults += [late, *unavailable(20)]
    uploading = asyncio.create_task(rig.upload(bundle))
    for _ in range(100):
        await asyncio.sleep(0)
    before = rig.attempts
    assert (rig.store.now, before) < (2, 10), "all have ended but the late one"
    rig.store.faults.clear()
    assert late.gate is not None
    late.gate.set()
    assert not await uploading
    assert (rig.attempts, bundle.progress) == (before, 1)
    rig.store.most = 0
    assert await rig.upload(bundle)
    assert rig.store.most == FAILURES_TO_FAIL + 1


async def test_no_attempt_starts_when_nobody_wants_it_any_more() -> None:
    """A takeover that waits for silence waits for that of this process, too."""
    rig = Rig(most=2)
    bundle, index = await rig.bodies(*some_records(*range(10, 50)))
    fault = Fault("put", key="14.", gate=asyncio.Event())
    rig.store.faults.append(fault)
    uploading = asyncio.create_task(rig.upload(bundle))
    await fault.asked.wait()
    rig.wanted = False
    before = rig.attempts
    assert fault.gate is not None
    fault.gate.set()
    assert not await uploading
    assert rig.attempts <= before + 1  # the other's next one may have begun
    assert not await rig.upload(index)
    assert rig.attempts <= before + 1


async def test_each_attempt_asks_for_a_heartbeat() -> None:
    rig = Rig(most=2)
    bundle = await rig.bundle(*range(10, 50))
    fault = Fault("put", key="14.", gate=asyncio.Event())
    rig.store.faults.append(fault)
    uploading = asyncio.create_task(rig.upload(bundle))
    await fault.asked.wait()
    before = rig.attempts
    rig.quiet_for = 60.1
    with pytest.raises(AssignmentStale):
        await uploading
    assert rig.attempts <= before + 1
    rig.quiet_for = 0.0
    assert await rig.upload(bundle)  # no slot was lost


async def test_cancelling_ends_all_of_them_at_once() -> None:
    rig = Rig()
    bundle = await rig.bundle(*range(10, 50))
    faults = [Fault("put", gate=asyncio.Event()) for _ in range(4)]
    rig.store.faults += faults
    uploading = asyncio.create_task(rig.upload(bundle))
    for fault in faults:
        await fault.asked.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert rig.store.now == 0
    assert not rig.store.landed
    assert await rig.upload(bundle)
    assert sorted(rig.stored) == list(range(10, 50))
