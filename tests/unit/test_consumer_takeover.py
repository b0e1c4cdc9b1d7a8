"""What a new owner does, case by case, and over random archives: nothing twice, nothing left out, all losses told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from consumer.chunk import Limits
from consumer.claims import ChunkState, Committed
from consumer.lane import Lane
from consumer.layout import Layout
from consumer.takeover import Covered, Log, NeedsList, Segment, SegmentKind, Takeover, assess, fill
from headrace.errors import HaltError
from headrace.objects import Range
from headrace.record import StoredRecord

RECUT, DONE, GAP = SegmentKind.RECUT, SegmentKind.DONE, SegmentKind.GAP
LAYOUT = "0123456789ab"
LOG = Log("t", 3, "id", 0, 100)


def committed(
    durable: int, *ends: int, start: int | None = None, fill_until: int = 0, layout: str = LAYOUT
) -> Committed:
    return Committed(durable, durable if start is None else start, ends, fill_until, layout, "id")


def asked(commit: Committed, log: Log = LOG) -> Takeover | NeedsList:
    return assess(log=log, offset=commit.durable, metadata=commit.encode(), layout=LAYOUT, origin=None)


def taken(commit: Committed, log: Log = LOG) -> Takeover:
    found = asked(commit, log)
    assert isinstance(found, Takeover)
    return found


def needed(commit: Committed, log: Log = LOG) -> NeedsList:
    found = asked(commit, log)
    assert isinstance(found, NeedsList)
    return found


def nothing(origin: int = -1) -> NeedsList:
    return NeedsList("nothing is committed", True, None, origin)


def filled(need: NeedsList, *covered: Covered, log: Log = LOG) -> Takeover:
    return fill(log=log, need=need, covered=covered, layout=LAYOUT)


def whole(start: int, end: int) -> Covered:
    return Covered(Range(start, end), True, LAYOUT, {f"{start}": end - start})


def part(start: int, end: int, layout: str = LAYOUT) -> Covered:
    return Covered(Range(start, end), False, layout, {f"{start}": 1})


def seg(kind: SegmentKind, start: int, end: int, claimed: bool = False, lost: tuple[int, int] | None = None) -> Segment:
    return Segment(kind, Range(start, end), claimed, None if lost is None else Range(*lost))


def plain(takeover: Takeover) -> list[Segment]:
    return [replace(segment, standing={}) for segment in takeover.segments]


# From the commit alone


def test_claims_are_cut_again_with_their_own_ends() -> None:
    found = taken(committed(10, 20, 25))
    assert found.known
    assert list(found.segments) == [seg(RECUT, 10, 20, claimed=True), seg(RECUT, 20, 25, claimed=True)]
    assert found.floor == 10


def test_a_chunk_begins_before_an_empty_range() -> None:
    found = taken(committed(10, 20, start=4))
    assert (list(found.segments), found.floor) == ([seg(RECUT, 4, 20, claimed=True)], 10)


@pytest.mark.parametrize(("offset", "metadata", "why"), [(-1, "", "nothing is committed"), (50, "", "another tool")])
def test_without_claims_only_s3_can_tell(offset: int, metadata: str, why: str) -> None:
    found = assess(log=LOG, offset=offset, metadata=metadata, layout=LAYOUT, origin=None)
    assert isinstance(found, NeedsList)
    assert (found.quiet, found.committed, found.origin) == (True, None, offset)
    assert why in found.why


def test_a_replay_without_a_commit_begins_at_its_origin() -> None:
    for offset, origin in ((-1, 30), (40, 40)):
        found = assess(log=LOG, offset=offset, metadata="", layout=LAYOUT, origin=30)
        assert isinstance(found, NeedsList)
        assert found.origin == origin


def test_a_topic_made_anew_halts() -> None:
    with pytest.raises(HaltError, match=r"Topic t was deleted and made anew \(its id was id, now other\)"):
        asked(committed(10), replace(LOG, topic_id="other"))


@pytest.mark.parametrize("commit", [committed(101), committed(90, 101), committed(101, start=90)])
def test_a_log_that_ends_too_early_halts(commit: Committed) -> None:
    with pytest.raises(HaltError, match="the log ends at 100, but offsets up to 101 were archived or claimed"):
        asked(commit)


def test_claims_of_another_layout_halt() -> None:
    with pytest.raises(HaltError, match=r"\[10, 20\) is claimed under another layout .*headrace claims drop"):
        asked(committed(10, 20, layout="f" * 12))


def test_a_repair_under_another_layout_halts() -> None:
    """Under another prefix the LIST would not show what is stored already."""
    repair = replace(committed(10, layout="f" * 12), fill_until=50)
    with pytest.raises(HaltError, match=r"\[10, 50\) is claimed under another layout .*former S3_PREFIX, OBJECT_PATH"):
        asked(repair)


def test_another_layout_without_claims_goes_on() -> None:
    assert taken(committed(10, layout="f" * 12)).committed == committed(10)


def test_retention_into_claims_needs_s3_and_silence() -> None:
    found = needed(committed(10, 20), replace(LOG, start=15))
    assert (found.quiet, found.committed, found.origin) == (True, committed(10, 20), 20)
    assert "[10, 15)" in found.why


def test_a_compacted_topics_claims_need_s3_and_silence() -> None:
    assert needed(committed(10, 20), replace(LOG, compacted=True)).quiet
    assert taken(committed(10), replace(LOG, compacted=True)).segments == ()


def test_every_owner_asks_s3_while_a_repair_is_under_way() -> None:
    found = needed(committed(10, 20, fill_until=30))
    assert (found.quiet, found.committed) == (False, committed(10, 20, fill_until=30))
    assert taken(committed(30, 40, fill_until=30)).segments == (seg(RECUT, 30, 40, claimed=True),)


def test_unclaimed_offsets_that_are_gone_become_a_gap() -> None:
    found = taken(committed(10, start=8), replace(LOG, start=15))
    assert list(found.segments) == [seg(GAP, 8, 15, lost=(10, 15))]
    assert (found.floor, found.known) == (15, True)
    assert "[10, 15)" in found.remark


# With the LIST


def test_an_empty_archive_begins_where_the_log_does() -> None:
    found = filled(nothing(), log=replace(LOG, start=7))
    assert found == Takeover(committed(7), False, (), 7)


def test_what_is_stored_is_not_stored_again() -> None:
    found = filled(nothing(0), whole(0, 10), whole(20, 30), part(30, 40))
    assert plain(found) == [seg(DONE, 0, 10), seg(DONE, 20, 30), seg(RECUT, 30, 40)]
    assert found.committed == committed(0, fill_until=40), "each owner asks S3 until the repair is over"
    assert found.segments[2].standing == {"30": 1}


def test_claims_are_kept_while_filling() -> None:
    need = needed(committed(10, 20, 30, fill_until=60))
    found = filled(need, whole(0, 10), whole(10, 20), whole(40, 50))
    assert plain(found) == [seg(DONE, 10, 20, claimed=True), seg(RECUT, 20, 30, claimed=True), seg(DONE, 40, 50)]
    assert found.committed == committed(10, 20, 30, fill_until=50)
    assert not found.known
    assert filled(need, whole(50, 60)).known


def test_retention_into_a_claimed_chunk_keeps_what_is_there() -> None:
    log = replace(LOG, start=15)
    need = needed(committed(10, 14, 20, 30), log)
    assert plain(filled(need, log=log)) == [
        seg(GAP, 10, 14, claimed=True, lost=(10, 14)),
        seg(RECUT, 14, 20, claimed=True, lost=(14, 15)),
        seg(RECUT, 20, 30, claimed=True),
    ]
    assert plain(filled(need, whole(10, 14), whole(14, 20), log=log))[:2] == [
        seg(DONE, 10, 14, claimed=True),
        seg(DONE, 14, 20, claimed=True),
    ]
    assert plain(filled(need, part(10, 14), log=log))[0] == seg(RECUT, 10, 14, claimed=True, lost=(10, 14)), (
        "no gap object beside objects of the same range"
    )


def test_what_was_known_to_be_empty_is_not_told_as_lost() -> None:
    log = replace(LOG, start=15)
    need = needed(committed(13, 20, start=10), log)
    assert plain(filled(need, log=log)) == [seg(RECUT, 10, 20, claimed=True, lost=(13, 15))]


def test_gaps_only_below_the_logs_start() -> None:
    log = replace(LOG, start=25)
    found = filled(nothing(0), whole(10, 20), whole(40, 50), log=log)
    assert plain(found) == [
        seg(GAP, 0, 10, lost=(0, 10)),
        seg(DONE, 10, 20),
        seg(GAP, 20, 25, lost=(20, 25)),
        seg(DONE, 40, 50),
    ]
    assert found.floor == 25


def test_offsets_expired_behind_the_archive() -> None:
    log = replace(LOG, start=25)
    assert filled(nothing(), whole(10, 20), log=log).segments == (seg(GAP, 20, 25, lost=(20, 25)),)
    assert filled(nothing(), whole(10, 50), log=log).committed.start == 50
    holes = filled(nothing(), whole(0, 10), whole(15, 40), log=log)
    assert plain(holes) == [seg(GAP, 10, 15, lost=(10, 15)), seg(DONE, 15, 40)]


@pytest.mark.parametrize(
    ("origin", "covered", "start"),
    [
        (60, [whole(0, 10), whole(10, 20)], 20),
        (60, [whole(0, 10), whole(20, 30)], 10),
        (60, [whole(0, 10), part(10, 20)], 10),
        (25, [whole(0, 10), whole(20, 30)], 10),
        (5, [whole(0, 10), whole(20, 30)], 10),
        (15, [whole(0, 10), whole(10, 20), whole(20, 30)], 20),
        (20, [whole(0, 10), whole(10, 20), whole(20, 30)], 20),
        (5, [part(0, 10)], 0),
        (5, [whole(40, 50)], 5),
        (60, [], 60),
    ],
)
def test_where_a_moved_offset_goes_on(origin: int, covered: list[Covered], start: int) -> None:
    """Never behind what is missing, never inside a range; before the archive, or without one, as it was asked."""
    found = filled(nothing(origin), *covered)
    assert found.committed.start == found.committed.durable == start
    assert bool(found.remark) == (start < origin)
    assert ("going on from" in found.remark) == bool(found.remark)


@pytest.mark.parametrize("origin", [101, 1000])
def test_an_offset_beyond_the_log_halts(origin: int) -> None:
    with pytest.raises(HaltError, match=f"the group stands at offset {origin}, but the log ends at 100"):
        filled(nothing(origin))


def test_objects_beyond_the_log_halt() -> None:
    with pytest.raises(HaltError, match="objects up to offset 101, but the log ends at 100"):
        filled(nothing(), whole(90, 101))


def test_objects_that_overlap_halt() -> None:
    with pytest.raises(HaltError, match=r"objects \[0, 10\) and \[9, 20\) overlap"):
        filled(nothing(), whole(0, 10), whole(9, 20))


@pytest.mark.parametrize("item", [whole(5, 15), whole(15, 20), part(10, 21), whole(12, 13)])
def test_an_object_that_contradicts_a_claim_halts(item: Covered) -> None:
    with pytest.raises(HaltError, match=r"overlaps the claimed \[10, 20\)"):
        filled(needed(committed(10, 20, fill_until=30)), item)


def test_an_object_across_the_next_chunks_start_halts() -> None:
    with pytest.raises(HaltError, match=r"object \[5, 15\) in S3 reaches beyond 10"):
        filled(needed(committed(10, fill_until=30)), whole(5, 15))


def test_an_incomplete_chunk_of_another_layout_halts() -> None:
    with pytest.raises(HaltError, match=r"\[10, 20\) is incomplete in S3 and was written with another layout"):
        filled(nothing(0), part(10, 20, "f" * 12))


def test_a_log_is_named_by_its_partition() -> None:
    assert str(LOG) == "t/3"


# Over random archives


@st.composite
def archives(draw: st.DrawFn) -> tuple[Log, list[Covered]]:
    start, covered, at = draw(st.integers(0, 30)), [], draw(st.integers(0, 12))
    while at < 60 and draw(st.integers(0, 4)):
        end = at + draw(st.integers(1, 9))
        complete = end <= start or draw(st.booleans())
        covered.append(Covered(Range(at, end), complete, LAYOUT, {f"{at}-{end}": draw(st.integers(0, 3))}))
        at = end + draw(st.sampled_from([0, 0, 0, 1, 5]))
    log_end = max(start, covered[-1].offsets.end if covered else 0) + draw(st.integers(0, 12))
    return Log("t", 3, "id", start, log_end), covered


@st.composite
def situations(draw: st.DrawFn) -> tuple[Log, list[Covered], NeedsList]:
    log, covered = draw(archives())
    if draw(st.booleans()):
        return log, covered, nothing(draw(st.integers(-1, log.end)))
    # Claims that agree with what stands: each is one of the ranges, or lies in a hole.
    edges = sorted({one.offsets.start for one in covered} | {one.offsets.end for one in covered} | {log.end})
    first = draw(st.integers(0, len(edges) - 1))
    ends = edges[first + 1 : first + 1 + draw(st.integers(0, 3))]
    commit = committed(edges[first], *ends, fill_until=log.end + 1)
    return log, covered, NeedsList("a repair is under way", False, commit, commit.last_end)


@given(situations())
def test_segments_against_single_offsets(situation: tuple[Log, list[Covered], NeedsList]) -> None:
    log, covered, need = situation
    found = filled(need, *covered, log=log)
    at = found.committed.start
    for segment in found.segments:
        assert segment.offsets.start >= at, "in order, none twice"
        at = segment.offsets.end
    assert found.committed.ends == (need.committed.ends if need.committed else ())
    for segment in found.segments:
        before = [
            one
            for one in covered
            if one.offsets.start < segment.offsets.end and segment.offsets.start < one.offsets.end
        ]
        if segment.kind is DONE:
            assert [one.offsets for one in before] == [segment.offsets]
            assert before[0].complete
            assert segment.lost is None
        elif segment.kind is RECUT:
            assert not before or [one.offsets for one in before] == [segment.offsets]
            assert segment.offsets.end > log.start or segment.standing
        else:
            assert not before
            assert segment.offsets.end <= log.start
            assert segment.lost is not None
    start = found.committed.start
    for one in covered:
        if one.offsets.end > start:
            assert any(one.offsets == segment.offsets for segment in found.segments)
    for offset in range(start, log.start):
        segments = [one for one in found.segments if one.offsets.start <= offset < one.offsets.end]
        assert len(segments) == 1, "what Kafka has lost is decided about"
    stored_end = covered[-1].offsets.end if covered else 0
    assert found.committed.fill_until == (stored_end if stored_end > found.committed.durable else 0)
    assert found.known == (found.committed == need.committed)
    if need.committed is None and covered:
        whole_offsets = {
            offset for one in covered if one.complete for offset in range(one.offsets.start, one.offsets.end)
        }
        wanted = set(range(covered[0].offsets.start, min(max(need.origin, 0), log.end))) - whole_offsets
        assert not wanted or start <= min(wanted), "nothing that is missing is jumped over"


@given(situations(), st.data())
def test_a_lane_through_a_takeover_fills_exactly_what_is_missing(
    situation: tuple[Log, list[Covered], NeedsList], data: st.DataObject
) -> None:
    log, covered, need = situation
    found = filled(need, *covered, log=log)
    lane = Lane(
        TopicPartition("t", 3),
        found,
        layout=Layout("p", "none", "jsonl"),
        encode=lambda records: [b"x"] * len(records),
        limits=Limits(4, 1000, 10),
        most_claims=5,
    )
    records = [StoredRecord(offset, 0, None, b"") for offset in range(log.start, log.end)]
    stored: dict[Range, bool] = {one.offsets: one.complete for one in covered}
    kafka = need.committed
    for _ in range(500):
        lane.seek_to = None
        assert lane.position >= log.start
        ahead = [record for record in records if record.offset >= lane.position][: data.draw(st.integers(1, 9))]
        lane.take(ahead, ahead[-1].offset + 1 if ahead else log.end, 0.0)
        lane.seek_to = None
        lane.tick(20.0)
        ready = list(lane.ready)
        lane.ready.clear()
        plan = lane.claims.plan(5)
        if plan is not None:
            if kafka is not None:
                assert {end for end in kafka.ends if end > plan.committed.start} <= set(plan.committed.ends)
            kafka = plan.committed
            ready += lane.claims.acknowledged(plan)
        for chunk in ready:
            assert chunk.state is ChunkState.CLAIMED
            assert not stored.get(chunk.offsets), f"{chunk.offsets} stood whole and was stored again"
            stored[chunk.offsets] = True
            lane.claims.stored(chunk)
        if plan is None and not ready and lane.claims.settled and lane.position >= log.end:
            break
    else:
        raise AssertionError("it never ends")
    assert kafka is not None
    assert kafka.durable == log.end
    at = found.committed.start
    for offsets, complete in sorted(stored.items()):
        if offsets.end > found.committed.start:
            assert offsets.start == at
            assert complete
            at = offsets.end
    assert at == max(log.end, found.committed.start)
