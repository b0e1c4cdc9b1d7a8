"""Records and positions: ends, transactions, gaps, deletions; and the topic itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition

from consumer.source import OutOfRange
from headrace.kafka import EARLIEST, LATEST, TopicMissing
from tests.kafka_contract.member import UNKNOWN_TOPIC, committed, stable
from tests.kafka_contract.side import case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from consumer.source import Source
    from headrace.record import Record
    from tests.kafka_contract.side import Side


@contextlib.asynccontextmanager
async def reading(side: Side) -> AsyncIterator[Source]:
    """A source that owns the partition, paused at 0."""
    source = side.source(session_seconds=6)
    await source.start()
    try:
        async with asyncio.timeout(20):
            assignment = await source.next_assignment()
        assert assignment.partitions == {TopicPartition(side.topic, 0)}
        yield source
    finally:
        await source.close()


async def read(side: Side, source: Source, start: int, until: int) -> list[Record]:
    """Records from `start` on, until the position is `until`."""
    tp = TopicPartition(side.topic, 0)
    source.seek(tp, start)
    source.resume([tp])
    found: list[Record] = []
    async with asyncio.timeout(20):
        while (position := source.position(tp)) is not None and position < until:
            for fetched in await source.fetch(0.2):
                found += fetched.records
    assert position == until
    source.pause([tp])
    return found


async def log_ends(side: Side) -> tuple[int, int]:
    tp = TopicPartition(side.topic, 0)
    start, end = [await side.cluster.log_offsets([tp], edge) for edge in (EARLIEST, LATEST)]
    return start[tp], end[tp]


def values(records: list[Record]) -> list[tuple[int, bytes | None]]:
    return [(record.offset, record.value) for record in records]


@case
async def a_log_is_read_from_any_of_its_offsets(side: Side) -> None:
    await side.append(b"a", b"b", b"c")
    assert await log_ends(side) == (0, 3)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 3)) == [(0, b"a"), (1, b"b"), (2, b"c")]
        assert values(await read(side, source, 2, 3)) == [(2, b"c")]
        tp = TopicPartition(side.topic, 0)
        source.resume([tp])
        assert await source.fetch(0.1) == []  # at the end it waits
        await side.append(b"d")
        assert values(await read(side, source, 3, 4)) == [(3, b"d")]


@case
async def beyond_a_logs_end_is_out_of_range(side: Side) -> None:
    await side.append(b"a")
    async with reading(side) as source:
        assert await out_of_range(side, source, 2)
        assert values(await read(side, source, 0, 1)) == [(0, b"a")]


@case
async def what_was_deleted_is_out_of_range(side: Side) -> None:
    await side.append(b"a", b"b", b"c")
    await side.delete_before(2)
    assert await log_ends(side) == (2, 3)
    async with reading(side) as source:
        assert await out_of_range(side, source, 1)
        assert values(await read(side, source, 2, 3)) == [(2, b"c")]
    await side.delete_before(3)
    assert await log_ends(side) == (3, 3)


async def out_of_range(side: Side, source: Source, offset: int) -> bool:
    tp = TopicPartition(side.topic, 0)
    source.seek(tp, offset)
    source.resume([tp])
    async with asyncio.timeout(20):
        while True:
            try:
                assert await source.fetch(0.2) == []
            except OutOfRange as told:
                source.pause([tp])
                return told.partitions == {tp}


@case
async def a_transaction_ends_with_a_position_that_holds_no_record(side: Side) -> None:
    transaction = await side.begin()
    await transaction.append(b"a", b"b")
    await transaction.end(commit=True)
    async with asyncio.timeout(20):
        while await log_ends(side) != (0, 3):  # the marker may come a moment later
            await asyncio.sleep(0.05)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 3)) == [(0, b"a"), (1, b"b")]


@case
async def what_was_aborted_is_passed_over(side: Side) -> None:
    await side.append(b"a")
    transaction = await side.begin()
    await transaction.append(b"never")
    await transaction.end(commit=False)
    await side.append(b"b")
    assert await log_ends(side) == (0, 4)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 4)) == [(0, b"a"), (3, b"b")]


@case
async def an_open_transaction_holds_readers_back(side: Side) -> None:
    """The log's end is told beyond it all the same."""
    await side.append(b"a")
    transaction = await side.begin()
    await transaction.append(b"b")
    await side.append(b"c")
    assert await log_ends(side) == (0, 3)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 1)) == [(0, b"a")]
        source.resume([TopicPartition(side.topic, 0)])
        assert await source.fetch(0.3) == []
        assert source.position(TopicPartition(side.topic, 0)) == 1
        await transaction.end(commit=True)
        assert values(await read(side, source, 1, 4)) == [(1, b"b"), (2, b"c")]


@case
async def what_was_compacted_away_leaves_gaps(side: Side) -> None:
    end = await side.compact(*(b"%d" % number for number in range(20)))
    start, told = await log_ends(side)
    assert (start, told) == (0, end)
    async with reading(side) as source:
        found = values(await read(side, source, 0, end))
        assert len(found) < end
        offsets = [offset for offset, _ in found]
        assert offsets == sorted(set(offsets))
        assert offsets[-1] == end - 1  # the last one of a key stays
        gap = next(offset for offset in range(end) if offset not in offsets)
        following = next(offset for offset in offsets if offset > gap)
        assert values(await read(side, source, gap, end))[0][0] == following


# The topic


@case
async def a_topic_made_anew_is_another_one(side: Side) -> None:
    before = await side.cluster.topic(side.topic)
    await side.append(b"a", b"b")
    member = await stable(side)
    await member.commit(2, "claims")
    await member.leave()
    await side.delete_topic()
    with pytest.raises(TopicMissing):
        await side.cluster.topic(side.topic)
    assert await committed(side) == (-1, "")
    await side.make_topic()
    after = await side.cluster.topic(side.topic)
    assert (after.name, after.cluster_id, after.partitions) == (before.name, before.cluster_id, before.partitions)
    assert after.id != before.id
    assert await committed(side) == (-1, "")
    await side.append(b"c")
    assert await log_ends(side) == (0, 1)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 1)) == [(0, b"c")]
        assert await out_of_range(side, source, 2)


@case
async def while_a_topic_is_gone_its_offsets_are_refused(side: Side) -> None:
    member = await stable(side)
    await side.delete_topic()
    assert await member.commit(1) == UNKNOWN_TOPIC
