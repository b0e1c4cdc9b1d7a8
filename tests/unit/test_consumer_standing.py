"""What stands in S3: ranges from the LIST, and whether all objects of a chunk are there from its HEADs."""

from __future__ import annotations

import asyncio

import pytest

from consumer.standing import HEADS_AT_A_TIME, standing
from consumer.takeover import Covered
from headrace.errors import HeadraceError
from headrace.objects import Range, gap_key, object_key
from headrace.s3 import S3Refused, S3Unavailable
from tests.fakes import Fault, MemoryStore


def key(start: int, end: int, bucket: str = "a", partition: int = 0) -> str:
    return object_key(
        prefix="p", topic="t", partition=partition, offsets=Range(start, end), bucket=bucket, suffix="jsonl"
    )


async def put(store: MemoryStore, name: str, *, objects: int | None = 1, records: int = 5) -> None:
    told = {"Headrace-Records": str(records), "Headrace-Layout": "L"}
    if objects is not None:
        told["Headrace-Chunk-Objects"] = str(objects)
    await store.put(name, b"x", metadata=told, content_type="x")


async def test_covered_means_that_all_objects_are_there() -> None:
    store = MemoryStore()
    await put(store, key(0, 10))
    await put(store, key(10, 20, "a"), objects=2, records=3)
    await put(store, key(10, 20, "b"), objects=2)
    await put(store, key(20, 30, "a"), objects=2)
    await put(store, key(0, 5, partition=1), objects=None)
    found = await standing(store, prefix="p", topic="t", above={0: 0, 1: 0, 2: 0})
    assert found == {
        0: [
            Covered(Range(0, 10), True, "L", {key(0, 10): 5}),
            Covered(Range(10, 20), True, "L", {key(10, 20, "a"): 3, key(10, 20, "b"): 5}),
            Covered(Range(20, 30), False, "L", {key(20, 30): 5}),
        ],
        1: [Covered(Range(0, 5), True, "L", {key(0, 5, partition=1): 5})],
        2: [],
    }


async def test_what_lies_below_is_not_asked_about() -> None:
    store = MemoryStore()
    for start in (0, 10, 20):
        await put(store, key(start, start + 10), objects=2)
    store.calls.clear()
    found = await standing(store, prefix="p", topic="t", above={0: 20})
    assert [(one.offsets, one.complete) for one in found[0]] == [
        (Range(0, 10), True),
        (Range(10, 20), True),
        (Range(20, 30), False),
    ]
    assert store.calls == [("list", "p/t/"), ("head", key(20, 30))]


async def test_a_gap_object_beside_a_part_completes_it() -> None:
    store = MemoryStore()
    await put(store, key(0, 10), objects=2)
    await put(store, gap_key(prefix="p", topic="t", partition=0, offsets=Range(0, 10)), records=0)
    found = await standing(store, prefix="p", topic="t", above={0: 0})
    assert [(one.offsets, one.complete, len(one.objects)) for one in found[0]] == [(Range(0, 10), True, 2)]


async def test_an_object_that_goes_away_is_told() -> None:
    store = MemoryStore()
    await put(store, key(0, 10))
    fault = Fault("head", gate=asyncio.Event())
    store.faults.append(fault)
    asking = asyncio.create_task(standing(store, prefix="p", topic="t", above={0: 0}))
    await fault.asked.wait()
    store.objects.clear()
    assert fault.gate is not None
    fault.gate.set()
    with pytest.raises(HeadraceError, match="was listed, but is gone now"):
        await asking


async def test_a_refusal_is_told_as_itself() -> None:
    store = MemoryStore()
    for start in range(0, 1000, 10):
        await put(store, key(start, start + 10))
    store.faults.append(Fault("head", S3Refused("403")))
    with pytest.raises(S3Refused, match="403"):
        await standing(store, prefix="p", topic="t", above={0: 0})


async def test_heads_go_side_by_side_but_not_all_at_once() -> None:
    store = MemoryStore()
    for start in range(0, 1000, 10):
        await put(store, key(start, start + 10))
    faults = [Fault("head", gate=asyncio.Event()) for _ in range(100)]
    store.faults.extend(faults)
    asking = asyncio.create_task(standing(store, prefix="p", topic="t", above={0: 0}))
    await faults[HEADS_AT_A_TIME - 1].asked.wait()
    assert sum(call == "head" for call, _ in store.calls) == HEADS_AT_A_TIME
    for fault in faults:
        assert fault.gate is not None
        fault.gate.set()
    assert len((await asking)[0]) == 100


async def test_a_head_that_fails_is_asked_again_alone() -> None:
    """An S3 that fails now and then must not make thousands of answers worthless."""
    store = MemoryStore()
    for start in range(0, 50, 10):
        await put(store, key(start, start + 10))
    store.calls.clear()
    store.faults.extend(Fault("head", S3Unavailable("503"), key=key(start, start + 10)) for start in (0, 20))
    found = await standing(store, prefix="p", topic="t", above={0: 0})
    assert [one.complete for one in found[0]] == [True] * 5
    assert len(store.calls) == 1 + 5 + 2
