"""Cutting: chunks join, hold each record once in order, and a second owner cuts what was claimed in the same way."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from consumer.budget import Budget
from consumer.chunk import BUCKET_BYTES, PART_BYTES, Bucket, Limits, OpenChunk
from consumer.claims import ChunkState, ClosedChunk, Committed
from consumer.lane import Lane, LaneState
from consumer.layout import Group, Layout
from consumer.takeover import Log, Segment, SegmentKind, Takeover, assess
from headrace.objects import Range
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace.record import Record

LAYOUT = Layout("p", "hour=%H", "jsonl")
LIMITS = Limits(max_records=4, max_bytes=30, max_seconds=10)
HOUR_MS = 3_600_000
NOW_MS = 1_795_219_200_000


def encode(records: Sequence[Record]) -> list[bytes]:
    return [b"%d " % record.offset for record in records]


def record(offset: int, hours: int = 0) -> StoredRecord:
    return StoredRecord(offset, NOW_MS + hours * HOUR_MS, None, b"x")


def some(*offsets: int) -> list[StoredRecord]:
    return [record(offset) for offset in offsets]


def lane_of(takeover: Takeover, *, limits: Limits = LIMITS, stop: int | None = None, most: int = 8) -> Lane:
    lane = Lane(
        TopicPartition("t", 0), takeover, layout=LAYOUT, encode=encode, limits=limits, most_claims=most, stop=stop
    )
    lane.seek_to = None
    return lane


def commit(durable: int, *ends: int, start: int | None = None) -> Committed:
    return Committed(durable, durable if start is None else start, ends, 0, LAYOUT.fingerprint, "id")


def free(start: int = 0, *segments: Segment, floor: int | None = None) -> Takeover:
    return Takeover(commit(start), True, segments, start if floor is None else floor)


def closed(lane: Lane) -> list[ClosedChunk]:
    plan = lane.claims.plan(1000)
    if plan is None:
        return []
    lane.claims.refused(plan)
    return list(plan.chunks)


def ranges(lane: Lane) -> list[tuple[int, int]]:
    return [(one.offsets.start, one.offsets.end) for one in closed(lane)]


def content(chunk: ClosedChunk) -> list[int]:
    assert chunk.cargo is not None
    return sorted(int(word) for bucket in chunk.cargo.buckets for word in b"".join(bucket.parts).split())


# Closing


def test_a_chunk_closes_at_its_records() -> None:
    lane = lane_of(free())
    lane.take(some(0, 1, 2, 3, 4, 5, 6, 7, 8), 9, 0.0)
    assert ranges(lane) == [(0, 4), (4, 8)]
    assert lane.position == 9
    assert lane.open_bytes == len(b"".join(encode(some(8))))


def test_a_chunk_closes_at_its_bytes() -> None:
    lane = lane_of(free(), limits=Limits(1000, 5, 10))
    lane.take(some(0, 1, 2), 3, 0.0)
    lane.take(some(3), 4, 0.0)
    assert ranges(lane) == [(0, 3)]


def test_a_chunk_closes_at_its_age_also_on_an_idle_topic() -> None:
    lane = lane_of(free())
    lane.tick(100.0)
    assert lane.next_due() is None
    lane.take(some(0), 1, 100.0)
    assert lane.next_due() == 110.0
    lane.take(some(1), 2, 105.0)
    lane.tick(109.9)
    assert ranges(lane) == []
    lane.tick(110.0)
    assert ranges(lane) == [(0, 2)]
    assert lane.next_due() is None


def test_what_has_waited_for_a_new_owner_does_not_wait_a_whole_age_again() -> None:
    """The first chunk that is cut freely closes at half its age; those after it, and claimed ones, are as ever."""
    lane = lane_of(Takeover(commit(3, 5), True, (Segment(SegmentKind.RECUT, Range(3, 5), claimed=True),), 3))
    lane.take(some(3), 4, 100.0)
    assert lane.next_due() is None
    lane.take(some(4, 5), 6, 101.0)
    assert lane.next_due() == 106.0
    lane.tick(106.0)
    lane.take(some(6), 7, 107.0)
    assert lane.next_due() == 117.0


def test_its_end_is_the_position_not_the_last_record() -> None:
    """What lies between was compacted away, or is a transaction's marker: no later owner will see a record there."""
    lane = lane_of(free())
    lane.take(some(0, 1), 7, 0.0)
    lane.tick(10.0)
    assert ranges(lane) == [(0, 7)]
    lane.take(some(9, 10, 11, 12, 20), 30, 11.0)
    assert ranges(lane) == [(0, 7), (7, 20)]


def test_an_unclaimed_empty_range_belongs_to_the_next_chunk() -> None:
    lane = lane_of(free())
    lane.take((), 5, 0.0)
    lane.tick(100.0)
    plan = lane.claims.plan(1)
    assert plan is not None
    assert plan.committed == commit(5, start=0)
    lane.claims.acknowledged(plan)
    lane.take(some(6), 7, 100.0)
    assert lane.cut()
    assert ranges(lane) == [(0, 7)]


def test_cutting_nothing_cuts_nothing() -> None:
    lane = lane_of(free())
    assert not lane.cut()
    lane.take((), 5, 0.0)
    assert not lane.cut()


def test_buckets_of_a_chunk_share_its_range() -> None:
    lane = lane_of(free())
    lane.take([record(0), record(1, 1), record(2), record(3, 2)], 4, 0.0)
    (chunk,) = closed(lane)
    assert chunk.cargo is not None
    assert [(one.path, one.records) for one in chunk.cargo.buckets] == [("hour=00", 2), ("hour=01", 1), ("hour=02", 1)]
    assert (chunk.cargo.records, chunk.cargo.size) == (4, 8)


def test_a_chunk_closes_before_a_bucket_too_many() -> None:
    """Wherever the fetch ends: its record begins the next chunk. Those that fit are taken until then."""
    hours = [0, 1, 0, 1, 2, 2, 0, 3]
    records = [record(offset, hour) for offset, hour in enumerate(hours)]
    for size in range(1, 9):
        lane = lane_of(free(), limits=Limits(100, 1000, 10, max_buckets=2))
        for at in range(0, 8, size):
            lane.take(records[at : at + size], min(at + size, 8), 0.0)
        assert ranges(lane) == [(0, 4), (4, 7)]
        assert lane.open_bytes == len(b"".join(encode(some(7))))


def test_a_claimed_chunk_has_as_many_buckets_as_it_had() -> None:
    lane = lane_of(Takeover(commit(0, 3), True, (recut(0, 3),), 0), limits=Limits(100, 1000, 10, max_buckets=1))
    lane.take([record(0, 0), record(1, 1), record(2, 2)], 3, 0.0)
    assert [len(one.cargo.buckets) for one in lane.ready if one.cargo] == [3]


def test_many_buckets_hold_more_than_their_lines() -> None:
    """Or a thousand open partitions of a day's hours would be beyond the budget, and nobody would know."""
    chunk = OpenChunk(0)
    for offset in range(100):
        chunk.take([record(offset, offset % 24)], layout=LAYOUT, encode=encode, limits=Limits(200, 10**6, 10), now=0.0)
    assert chunk.held == chunk.cargo.size + 24 * BUCKET_BYTES + 100 * PART_BYTES
    _, cargo = chunk.close()
    assert cargo.held == chunk.held
    one = OpenChunk(0)
    one.take(some(1, 2), layout=LAYOUT, encode=encode, limits=LIMITS, now=0.0)
    assert one.held == one.cargo.size


def test_a_bucket_knows_its_first_and_last_timestamp() -> None:
    bucket = Bucket("a")
    bucket.add(Group("a", [StoredRecord(0, 50, None, b""), StoredRecord(1, 20, None, b"")], 20, 50), [b"1"])
    bucket.add(Group("a", [StoredRecord(2, -1, None, b"")], -1, -1), [b"2"])
    assert (bucket.first_timestamp, bucket.last_timestamp, bucket.records, bucket.parts) == (-1, 50, 3, [b"1", b"2"])


def test_a_chunk_without_an_offset_cannot_be() -> None:
    with pytest.raises(AssertionError, match="at least one offset"):
        OpenChunk(5).close()


# Given ends


def recut(start: int, end: int, *, claimed: bool = True, lost: Range | None = None) -> Segment:
    return Segment(SegmentKind.RECUT, Range(start, end), claimed, lost, {"k": 1})


def test_claimed_chunks_are_cut_at_their_own_ends_whatever_the_limits() -> None:
    lane = lane_of(Takeover(commit(0, 6, 7, 20), True, (recut(0, 6), recut(6, 7), recut(7, 20)), 0))
    lane.take(some(0, 1, 2, 3, 4), 5, 0.0)
    lane.tick(1000.0)
    assert not lane.cut()
    assert lane.next_due() is None
    assert not lane.ready
    lane.take(some(5, 6, 7, 9), 30, 1000.0)
    assert [(one.offsets, one.state) for one in lane.ready] == [
        (Range(0, 6), ChunkState.CLAIMED),
        (Range(6, 7), ChunkState.CLAIMED),
        (Range(7, 20), ChunkState.CLAIMED),
    ]
    assert [content(one) for one in lane.ready] == [[0, 1, 2, 3, 4, 5], [6], [7, 9]]
    assert lane.position == 30
    assert all(one.cargo is not None and one.cargo.standing == {"k": 1} for one in lane.ready)


def test_a_claimed_chunk_that_became_empty_keeps_its_end() -> None:
    lane = lane_of(Takeover(commit(0, 6), True, (recut(0, 6),), 0))
    lane.take(some(8), 9, 0.0)
    (chunk,) = lane.ready
    assert (chunk.offsets, content(chunk)) == (Range(0, 6), [])
    assert lane.cut()
    assert ranges(lane)[-1] == (6, 9)


def test_a_lane_jumps_over_what_is_stored() -> None:
    done = Segment(SegmentKind.DONE, Range(5, 50), claimed=False)
    lane = lane_of(free(0, done))
    lane.take(some(0, 1, 4, 5, 6), 7, 0.0)
    assert ranges(lane) == [(0, 5), (5, 50)]
    assert (lane.seek_to, lane.position) == (50, 50)
    lane.take(some(6), 7, 0.0)
    assert lane.open_bytes == 0, "records from before the jump are not taken"
    lane.seek_to = None
    lane.take(some(50), 51, 0.0)
    assert lane.cut()
    assert ranges(lane)[-1] == (50, 51)


def test_a_lane_begins_behind_what_is_stored() -> None:
    segments = (
        Segment(SegmentKind.DONE, Range(0, 5), claimed=False),
        Segment(SegmentKind.DONE, Range(5, 9), claimed=False),
    )
    lane = lane_of(free(0, *segments))
    assert lane.position == 9
    assert lane.claims.unsettled == 0


def test_an_empty_range_before_what_is_stored_is_closed() -> None:
    done = Segment(SegmentKind.DONE, Range(5, 9), claimed=False)
    lane = lane_of(free(0, done))
    lane.take((), 5, 0.0)
    assert ranges(lane) == [(0, 5), (5, 9)]


def test_a_gap_is_told_and_passed() -> None:
    gap = Segment(SegmentKind.GAP, Range(0, 7), claimed=False, lost=Range(2, 7))
    lane = lane_of(free(0, gap, floor=7))
    assert lane.position == 7
    (chunk,) = closed(lane)
    assert chunk.cargo is not None
    assert (chunk.offsets, chunk.cargo.gap, chunk.cargo.lost) == (Range(0, 7), True, Range(2, 7))


def test_a_chunk_wholly_below_the_floor_is_closed_at_once() -> None:
    lane = lane_of(Takeover(commit(0, 5), True, (recut(0, 5, lost=Range(0, 5)),), 7))
    (chunk,) = lane.ready
    assert chunk.cargo is not None
    assert (chunk.offsets, chunk.cargo.lost, chunk.cargo.records) == (Range(0, 5), Range(0, 5), 0)
    assert lane.position == 7


def test_segments_must_not_overlap() -> None:
    done = Segment(SegmentKind.DONE, Range(3, 9), claimed=False)
    with pytest.raises(AssertionError, match="starts too early"):
        lane_of(free(5, done))


# A log that moves


def test_what_retention_ate_becomes_a_gap() -> None:
    lane = lane_of(free())
    lane.take(some(0, 1), 3, 0.0)
    assert lane.log_starts_at(10)
    found = closed(lane)
    assert [(one.offsets.start, one.offsets.end) for one in found] == [(0, 3), (3, 10)]
    assert found[1].cargo is not None
    assert found[1].cargo.lost == Range(3, 10)
    assert (lane.position, lane.seek_to) == (10, 10)


def test_what_retention_ate_while_nothing_was_open() -> None:
    lane = lane_of(free())
    lane.take((), 3, 0.0)
    assert lane.log_starts_at(10)
    (gap,) = closed(lane)
    assert gap.cargo is not None
    assert (gap.offsets, gap.cargo.lost) == (Range(0, 10), Range(3, 10))


def test_other_surprises_need_a_new_takeover() -> None:
    assert not lane_of(Takeover(commit(0, 6), True, (recut(0, 6),), 0)).log_starts_at(5)
    assert not lane_of(free(0, Segment(SegmentKind.DONE, Range(5, 9), claimed=False))).log_starts_at(3)
    assert not lane_of(free(5)).log_starts_at(5), "the log was cut short: it starts no later than we stand"
    stopped = lane_of(free(5), stop=5)
    assert stopped.state is LaneState.FINISHED
    assert not stopped.log_starts_at(9)


# States


def test_a_replay_ends_at_its_stop() -> None:
    lane = lane_of(free(), stop=6)
    lane.take(some(0, 1, 2, 3, 4), 5, 0.0)
    assert lane.live
    lane.take(some(7), 8, 0.0)
    assert ranges(lane) == [(0, 4), (4, 6)]
    assert (lane.state, lane.live) == (LaneState.FINISHED, False)
    lane.tick(100.0)
    lane.take(some(8), 9, 0.0)
    assert ranges(lane) == [(0, 4), (4, 6)]
    assert (lane.cut(), lane.next_due()) == (False, None)


def test_pausing_and_failing() -> None:
    lane = lane_of(free())
    with pytest.raises(AssertionError):
        lane.resume()
    lane.pause()
    assert lane.live
    with pytest.raises(AssertionError):
        lane.pause()
    lane.resume()
    lane.take(some(0, 1, 2, 3, 4), 5, 0.0)
    assert lane.held_bytes == 10
    (chunk,) = closed(lane)
    assert chunk.cargo is not None
    lane.compressed(chunk.cargo)
    assert lane.held_bytes == lane.open_bytes == 2
    lane.fail("because")
    assert (lane.state, lane.problem, lane.held_bytes, lane.live) == (LaneState.FAILED, "because", 0, False)


def test_dropping_the_open_chunk() -> None:
    lane = lane_of(free())
    lane.take(some(0), 1, 0.0)
    lane.drop_open()
    assert lane.held_bytes == 0
    lane.tick(100.0)
    assert closed(lane) == []


def test_the_budget_has_high_and_low_water() -> None:
    budget = Budget(100)
    budget.add(99)
    assert (budget.short, budget.excess) == (False, 24)
    budget.add(1)
    assert (budget.short, budget.excess) == (True, 25)
    budget.add(-24)
    assert (budget.short, budget.excess) == (True, 1)
    budget.add(-1)
    assert (budget.short, budget.excess) == (False, 0)
    with pytest.raises(AssertionError, match="more bytes given back"):
        budget.add(-76)


# Random logs, fetches and cuts


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[StoredRecord], int]:
    """Records with holes between them, and the log's end."""
    found, offset = [], 0
    for hole, hours in draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 4]), st.integers(0, 2)), max_size=30)):
        offset += hole
        found.append(record(offset, hours))
        offset += 1
    return found, offset + draw(st.sampled_from([0, 1, 3]))


limits = st.builds(Limits, st.integers(1, 7), st.integers(1, 40), st.just(10), st.integers(1, 4))


def pump(lane: Lane, log: tuple[list[StoredRecord], int], data: st.DataObject, clock: Callable[[], int]) -> None:
    """One fetch of any size, sometimes a cut or the passing of time."""
    records, end = log
    lane.seek_to = None
    ahead = [one for one in records if one.offset >= lane.position]
    count = data.draw(st.integers(0, 8))
    low = ahead[:count][-1].offset + 1 if ahead[:count] else lane.position
    high = ahead[count].offset if count < len(ahead) else end
    lane.take(ahead[:count], data.draw(st.integers(low, high)), float(clock()))
    what = data.draw(st.sampled_from(["", "", "cut", "age", "tick"]))
    if what == "cut":
        lane.cut()
    elif what:
        lane.tick(float(clock()) + (10 if what == "age" else 0))


def assert_joined(chunks: list[ClosedChunk], records: list[StoredRecord], start: int) -> None:
    at = start
    for chunk in chunks:
        assert chunk.offsets.start == at
        at = chunk.offsets.end
        assert content(chunk) == [one.offset for one in records if chunk.offsets.start <= one.offset < at]
        assert chunk.cargo is not None
        assert chunk.cargo.records == len(content(chunk))
        for bucket in chunk.cargo.buckets:
            offsets = [int(word) for word in b"".join(bucket.parts).split()]
            assert offsets == sorted(offsets)
            assert bucket.records == len(offsets)
            assert {LAYOUT.bucket(one.timestamp) for one in records if one.offset in offsets} == {bucket.path}
        assert chunk.cargo.size == sum(len(part) for bucket in chunk.cargo.buckets for part in bucket.parts)


@given(logs(), limits, st.data())
def test_chunks_join_and_a_second_owner_cuts_the_same(
    log: tuple[list[StoredRecord], int], bounds: Limits, data: st.DataObject
) -> None:
    records, end = log
    clock = itertools.count().__next__
    lane = lane_of(free(), limits=bounds, most=30)
    for _ in range(data.draw(st.integers(0, 12))):
        pump(lane, log, data, clock)
    first = closed(lane)
    assert_joined(first, records, 0)
    assert all(one.cargo is not None and one.cargo.records <= bounds.max_records for one in first)
    assert all(one.cargo is not None and len(one.cargo.buckets) <= bounds.max_buckets for one in first)
    assert lane.held_bytes == lane.open_bytes + sum(one.cargo.held for one in first if one.cargo)

    # Some are claimed; of these, the first few are stored and committed past. Then somebody else takes over.
    stored = data.draw(st.integers(0, len(first)))
    claimed = data.draw(st.integers(stored, len(first)))
    start = first[stored - 1].offsets.end if stored else 0
    durable = start
    if claimed == stored == len(first):
        durable = data.draw(
            st.integers(start, max(start, min([lane.position, *[r.offset for r in records if r.offset >= start]])))
        )
    known = commit(durable, *[one.offsets.end for one in first[stored:claimed]], start=start)
    decided = assess(
        log=Log("t", 0, "id", 0, end), offset=durable, metadata=known.encode(), layout=LAYOUT.fingerprint, origin=None
    )
    assert isinstance(decided, Takeover)
    other = lane_of(decided, limits=data.draw(limits), most=30)
    again: list[ClosedChunk] = []
    for _ in range(100):
        pump(other, log, data, clock)
        again += other.ready
        other.ready.clear()
        if other.position >= end:
            break
    expected = first[stored:claimed]
    assert [one.offsets for one in again] == [one.offsets for one in expected][: len(again)]
    assert [content(one) for one in again] == [content(one) for one in expected][: len(again)]
    if other.position >= end:
        assert len(again) == len(expected)
    assert_joined(closed(other), records, start)


@pytest.mark.parametrize(("stop", "lost"), [(30, Range(20, 30)), (60, Range(20, 50))])
def test_a_replay_ends_at_its_stop_where_kafka_has_dropped_what_lies_beyond(stop: int, lost: Range) -> None:
    gap = Segment(SegmentKind.GAP, Range(20, 50), claimed=False, lost=Range(20, 50))
    lane = lane_of(free(20, gap, floor=50), stop=stop)
    plan = lane.claims.plan(8)
    assert plan is not None
    assert plan.committed.ends == (lost.end,)
    cargo = plan.chunks[0].cargo
    assert cargo is not None
    assert cargo.lost == lost
    assert (lane.state is LaneState.FINISHED) == (stop == 30)


def test_a_replay_ends_where_only_dropped_offsets_lie_beyond_its_stop() -> None:
    """Nothing is claimed from the stop on: a chunk without an offset could not be read back."""
    gap = Segment(SegmentKind.GAP, Range(5, 9), claimed=False, lost=Range(5, 9))
    lane = lane_of(free(5, gap, floor=9), stop=5)
    assert lane.state is LaneState.FINISHED
    assert closed(lane) == []
