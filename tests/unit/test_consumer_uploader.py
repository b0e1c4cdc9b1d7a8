"""Uploads: never without a heartbeat, each attempt with a deadline, and nothing shrinks."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka import TopicPartition

from consumer.chunk import Bucket, Cargo
from consumer.encode import open_format
from consumer.layout import Layout
from consumer.packer import Body, Packer, missing_objects
from consumer.uploader import AssignmentStale, Uploader
from headrace.management import Health
from headrace.objects import Range
from headrace.s3 import S3Refused, S3Unavailable
from tests.fakes import Fault, MemoryStore, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

P = TopicPartition("t", 3)
LAYOUT = Layout("p", "hour=%H", "jsonl")
BODY = Body("k", b"content", {"headrace-records": "2"}, "application/x-ndjson", 2)


class Rig:
    """An uploader over a store in memory. `quiet_for`: seconds since the last heartbeat."""

    def __init__(self, **more: Any) -> None:
        self.store = MemoryStore()
        self.health = Health()
        self.quiet_for = 0.0
        self.uploader = Uploader(
            store=self.store,
            timeout_seconds=60,
            alive_for=lambda: self.quiet_for,
            health=self.health,
            **{"jitter": lambda: 1.0} | more,
        )

    async def upload(self) -> bool:
        return await self.uploader.upload(P, BODY)

    @property
    def attempts(self) -> int:
        return sum(call == "put" for call, _ in self.store.calls)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


# Attempts


async def test_an_object_is_stored_with_what_is_told_of_it() -> None:
    rig = Rig()
    assert await rig.upload()
    (put,) = rig.store.landed
    assert (put.key, put.body, put.metadata, put.content_type) == (
        "k",
        b"content",
        {"headrace-records": "2"},
        "application/x-ndjson",
    )
    assert rig.health.ready


def test_pauses_grow_up_to_the_longest_and_are_spread() -> None:
    rig = Rig()
    assert [rig.uploader.pause(failures) for failures in range(1, 11)] == [
        *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8),
        *(20.0, 20.0),
    ]
    assert rig.uploader.pause(100_000) == 20.0
    spread = iter([0.0, 1.0, 0.5])
    rig = Rig(jitter=lambda: next(spread))
    assert [rig.uploader.pause(1) for _ in range(3)] == pytest.approx([0.05, 0.1, 0.075])


@pytest.mark.parametrize("error", [S3Refused("403 AccessDenied"), S3Unavailable("503 SlowDown")])
async def test_a_refusal_is_told(error: Exception) -> None:
    rig = Rig()
    rig.store.faults.append(Fault("put", error))
    assert not await rig.upload()
    assert rig.health.problems == {"s3": str(error)}
    assert await rig.upload()


@in_virtual_time
async def test_an_attempt_has_a_deadline() -> None:
    rig = Rig()
    rig.store.faults.append(Fault("put", gate=asyncio.Event()))
    assert not await rig.upload()
    assert now() == pytest.approx(60)
    assert rig.health.problems == {"s3": "no answer within 60 s for k"}


@in_virtual_time
async def test_a_lost_reply_changes_nothing() -> None:
    rig = Rig()
    rig.store.faults.append(Fault("put", S3Unavailable("lost"), stored=True))
    rig.store.faults.append(Fault("put", S3Unavailable("late"), lands_later=True))
    assert [await rig.upload() for _ in range(3)] == [False, False, True]
    rig.store.land()
    assert {put.body for put in rig.store.landed} == {b"content"}
    assert (len(rig.store.landed), len(rig.store.objects)) == (3, 1)


async def test_no_attempt_starts_without_a_fresh_heartbeat() -> None:
    """Somebody else may own the partition by then, and be waiting until we are silent."""
    rig = Rig()
    rig.quiet_for = 60.1
    with pytest.raises(AssignmentStale, match="t/3: no heartbeat for 60 s, no upload may start"):
        await rig.upload()
    assert rig.attempts == 0
    rig.quiet_for = 60.0
    assert await rig.upload()


async def test_cancelling_ends_it_at_once() -> None:
    rig = Rig()
    fault = Fault("put", gate=asyncio.Event())
    rig.store.faults.append(fault)
    uploading = asyncio.create_task(rig.upload())
    await fault.asked.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert not rig.store.landed


# Bodies


def cargo(*buckets: tuple[str, int], **more: Any) -> Cargo:
    found = [Bucket(path, [b"line\n"] * count, count, 5, 9) for path, count in buckets]
    return Cargo(found, sum(count for _, count in buckets), **more)


def key(bucket: str) -> str:
    return LAYOUT.key("t", 3, Range(10, 20), bucket)


async def bodies(some: Cargo) -> list[Body]:
    return await Packer(layout=LAYOUT, form=open_format("jsonl", "none")).bodies(P, Range(10, 20), some)


async def test_an_object_a_bucket() -> None:
    found = await bodies(cargo(("hour=01", 2), ("hour=02", 1)))
    assert [(one.key, one.content, one.records) for one in found] == [
        (key("hour=01"), b"line\nline\n", 2),
        (key("hour=02"), b"line\n", 1),
    ]
    assert found[0].metadata == {
        "headrace-records": "2",
        "headrace-chunk-records": "3",
        "headrace-chunk-objects": "2",
        "headrace-sha256": hashlib.sha256(b"line\nline\n").hexdigest(),
        "headrace-layout": LAYOUT.fingerprint,
        "headrace-first-timestamp": "5",
        "headrace-last-timestamp": "9",
    }
    assert found[0].content_type == "application/x-ndjson"


async def test_a_claimed_chunk_without_a_record_is_an_empty_object() -> None:
    (found,) = await bodies(cargo())
    assert (found.key, found.content, found.records) == (key(LAYOUT.undated), b"", 0)
    assert found.metadata["headrace-chunk-objects"] == "1"
    assert "headrace-lost" not in found.metadata


async def test_a_gap_tells_what_is_gone() -> None:
    (found,) = await bodies(Cargo([], lost=Range(12, 20), gap=True))
    assert found.key == "p/t/_gaps/t-00003-00000000000000000010-00000000000000000020.gap.json"
    told = orjson.loads(found.content)
    assert (told["start"], told["end"], told["lost"], told["partition"]) == (10, 20, [12, 20], 3)
    assert found.metadata["headrace-lost"] == "12-20"
    assert (await bodies(Cargo([], gap=True)))[0].metadata["headrace-lost"] == "10-20"


async def test_what_was_lost_is_told_in_each_object() -> None:
    (found,) = await bodies(cargo(("hour=01", 2), lost=Range(10, 15)))
    assert found.metadata["headrace-lost"] == "10-15"


def missing(some: Cargo) -> tuple[list[tuple[str, int]], int]:
    found, count = missing_objects(LAYOUT, P, Range(10, 20), some)
    return [(name, bucket.records) for name, bucket in found], count


@pytest.mark.parametrize(
    ("buckets", "standing", "expected", "count"),
    [
        ([("a", 2), ("b", 1)], {}, [("a", 2), ("b", 1)], 2),
        ([("a", 2), ("b", 1)], {"a": 2}, [("b", 1)], 2),
        ([("a", 2), ("b", 1)], {"a": 5}, [("b", 1)], 2),
        ([("a", 2), ("b", 1)], {"a": 1}, [("a", 2), ("b", 1)], 2),
        ([("b", 1)], {"a": 5}, [("b", 1)], 2),
        ([("b", 1)], {"b": 1, "a": 5}, [("_gaps", 0)], 3),
        ([], {"a": 5}, [(LAYOUT.undated, 0)], 2),
        ([], {LAYOUT.undated: 5}, [("_gaps", 0)], 2),
    ],
)
def test_no_object_is_replaced_by_one_with_fewer_records(
    buckets: list[tuple[str, int]], standing: dict[str, int], expected: list[tuple[str, int]], count: int
) -> None:
    """And always something is stored that makes the chunk whole: its number of objects is that of all together."""
    some = cargo(*buckets, standing={key(path): records for path, records in standing.items()})
    assert missing(some) == ([(key(path), records) for path, records in expected], count)


async def test_lines_are_let_go_once_they_are_compressed() -> None:
    some = cargo(("hour=01", 2))
    await bodies(some)
    assert some.buckets[0].parts == []


def test_jitter_is_random_by_default() -> None:
    jitter: Callable[[], float] = Uploader(
        store=MemoryStore(),
        timeout_seconds=60,
        alive_for=lambda: 0,
        health=Health(),
    )._jitter
    assert len({jitter() for _ in range(10)}) > 1
