"""What an archive's names tell: ranges, holes, overlaps; against a model that looks at each offset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.coverage import (
    CHUNK_OBJECTS,
    FIRST_TIMESTAMP,
    LAST_TIMESTAMP,
    LOST,
    Chunk,
    Coverage,
    Survey,
    is_complete,
    told_lost,
    told_objects,
    told_times,
)
from headrace.objects import Range, gap_key, object_key, parse_key


def key(start: int, end: int, *, partition: int = 0, bucket: str = "dt=2026-11-22", suffix: str = "jsonl.zst") -> str:
    return object_key(
        prefix="p", topic="t", partition=partition, offsets=Range(start, end), bucket=bucket, suffix=suffix
    )


def coverage(*keys: str) -> Coverage:
    survey = Survey("t")
    assert all(survey.add(name, 10) for name in keys)
    return survey.coverage(0)


def test_a_whole_archive_joins() -> None:
    found = coverage(key(20, 30), key(0, 10), key(10, 20, bucket="dt=2026-11-22"), key(10, 20, bucket="dt=2026-11-23"))
    assert found.joined == (Range(0, 30),)
    assert (found.start, found.end, len(found.chunks), found.objects, found.size) == (0, 30, 3, 4, 40)
    assert not found.holes
    assert not found.overlaps
    assert not found.lost
    assert [len(chunk.keys) for chunk in found.chunks] == [1, 2, 1]


def test_holes_and_overlaps_are_told() -> None:
    found = coverage(key(0, 10), key(15, 30), key(20, 25), key(24, 40))
    assert found.holes == (Range(10, 15),)
    assert [(left.offsets, right.offsets) for left, right in found.overlaps] == [
        (Range(15, 30), Range(20, 25)),
        (Range(15, 30), Range(24, 40)),
    ]


def test_the_same_range_in_two_formats_is_an_overlap() -> None:
    found = coverage(key(0, 10), key(0, 10, suffix="jsonl.gz"))
    assert len(found.overlaps) == 1


def test_gap_objects_cover_what_was_lost() -> None:
    found = coverage(key(0, 10), gap_key(prefix="p", topic="t", partition=0, offsets=Range(10, 12)), key(12, 13))
    assert found.joined == (Range(0, 13),)
    assert found.lost == (Range(10, 12),)
    assert [chunk.is_gap for chunk in found.chunks] == [False, True, False]


def test_other_objects_are_no_part_of_it() -> None:
    survey = Survey("t")
    strangers = ["p/t/README", "p/t/_SUCCESS", key(10, 10), key(0, 10).replace("/t-", "/u-"), key(0, 10) + "~"]
    assert not any(survey.add(name) for name in strangers)
    assert survey.strangers == len(strangers)
    assert survey.partitions() == {}
    nothing = survey.coverage(3)
    assert (nothing.start, nothing.end, nothing.joined) == (None, None, ())


def test_partitions_are_apart() -> None:
    survey = Survey("t")
    survey.add(key(5, 6, partition=12))
    survey.add(key(0, 1, partition=2))
    assert [(number, found.joined) for number, found in survey.partitions().items()] == [
        (2, (Range(0, 1),)),
        (12, (Range(5, 6),)),
    ]


spans = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda pair: Range(pair[0], pair[0] + pair[1]))


@given(st.lists(spans, unique=True), spans)
def test_ranges_against_single_offsets(ranges: list[Range], within: Range) -> None:
    found = coverage(*[key(one.start, one.end) for one in ranges])
    counts = {offset: sum(one.start <= offset < one.end for one in ranges) for offset in range(60)}

    def offsets(some: tuple[Range, ...]) -> set[int]:
        listed = [offset for one in some for offset in range(one.start, one.end)]
        assert len(listed) == len(set(listed))
        return set(listed)

    covered = {offset for offset, count in counts.items() if count}
    assert offsets(found.joined) == covered
    between = set(range(min(covered), max(covered))) if covered else set()
    assert offsets(found.holes) == between - covered
    assert offsets(found.missing(within)) == set(range(within.start, within.end)) - covered
    assert bool(found.overlaps) == any(count > 1 for count in counts.values())
    for left, right in found.overlaps:
        assert max(left.offsets.start, right.offsets.start) < min(left.offsets.end, right.offsets.end)


def test_complete_is_told_by_the_smallest_number() -> None:
    assert is_complete(1, [1])
    assert is_complete(2, [3, None, 2])
    assert is_complete(1, [2]) is False
    assert is_complete(1, [None]) is None
    assert is_complete(0, []) is None
    assert told_objects({CHUNK_OBJECTS: "3"}) == 3
    assert told_objects({}) is told_objects({CHUNK_OBJECTS: "many"}) is None


def test_chunks_sort_by_range() -> None:
    assert min([Chunk(Range(2, 3), "a", ()), Chunk(Range(1, 9), "b", ())]).offsets.start == 1


def test_a_gap_is_told_by_its_name() -> None:
    gap = parse_key(gap_key(prefix="p", topic="t", partition=0, offsets=Range(1, 2)))
    assert gap is not None
    assert gap.is_gap


def test_an_object_tells_what_was_lost() -> None:
    assert told_lost({LOST: "500-700"}) == Range(500, 700)
    assert [told_lost(told) for told in ({}, {LOST: "7"}, {LOST: "a-b"}, {LOST: "7-7"})] == [None] * 4


def test_times_are_told_by_both_ends() -> None:
    assert told_times({FIRST_TIMESTAMP: "-1", LAST_TIMESTAMP: "1700000000000"}) == (-1, 1_700_000_000_000)
    assert told_times({}) is None
    assert told_times({FIRST_TIMESTAMP: "1"}) is None
    assert told_times({FIRST_TIMESTAMP: "1", LAST_TIMESTAMP: "x"}) is None
