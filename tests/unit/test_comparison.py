"""What an archive has against what Kafka has: each offset is told of once, as what it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.comparison import MOST_NAMED, Comparison
from headrace.record import StoredRecord

RECORD = StoredRecord(5, 1000, b"k", b"v", (("h", b"1"),))


def compared(
    archived: list[StoredRecord], kept: list[StoredRecord], *, log_start: int = 0, compacted: bool = False
) -> Comparison:
    found = Comparison()
    found.add(archived, kept, log_start=log_start, compacted=compacted)
    return found


def told(found: Comparison) -> list[tuple[int, str]]:
    return [(it.offset, it.what) for it in found.named]


def test_what_is_the_same_is_counted() -> None:
    found = compared([RECORD], [RECORD])
    found.add([], [], log_start=0, compacted=False)
    assert (found.equal, found.dropped, found.different, found.whole) == (1, 0, 0, True)


def test_each_field_is_looked_at() -> None:
    for other, what in (
        (RECORD._replace(timestamp=1001), "timestamp"),
        (RECORD._replace(key=None), "key"),
        (RECORD._replace(value=b"V"), "value"),
        (RECORD._replace(value=None, headers=()), "value, headers"),
    ):
        found = compared([RECORD], [other])
        assert told(found) == [(5, what)]
        assert not found.whole
        assert list(found.problems("t/0")) == [f"t/0: offset 5 differs from Kafka's: {what}"]


def test_what_only_one_side_has() -> None:
    assert told(compared([], [RECORD])) == [(5, "missing")]
    assert told(compared([RECORD], [])) == [(5, "not in Kafka")]
    assert list(compared([], [RECORD]).problems("t/0")) == ["t/0: offset 5 is in Kafka, but not in the archive"]
    assert list(compared([RECORD], []).problems("t/0")) == ["t/0: offset 5 is in the archive, but not in Kafka"]


def test_what_kafka_has_dropped_is_no_difference() -> None:
    for found in (compared([RECORD], [], log_start=6), compared([RECORD], [], compacted=True)):
        assert (found.dropped, found.whole) == (1, True)
    assert not compared([RECORD], [], log_start=5).whole
    assert not compared([], [RECORD], compacted=True).whole


def test_all_are_counted_and_the_first_are_named() -> None:
    records = [RECORD._replace(offset=offset) for offset in range(MOST_NAMED + 5)]
    found = compared(records, [])
    assert found.different == MOST_NAMED + 5
    assert len(found.named) == MOST_NAMED
    assert list(found.problems("t/0"))[-1] == "t/0: 5 more offsets differ"
    assert found.as_json()["different"] == MOST_NAMED + 5


def test_what_could_not_be_read_is_not_whole() -> None:
    found = compared([RECORD], [RECORD])
    found.unread.append("it is damaged")
    assert not found.whole
    assert list(found.problems("t/0")) == ["t/0 could not be compared with Kafka: it is damaged"]
    assert found.as_json()["unread"] == ["it is damaged"]


records = st.dictionaries(st.integers(0, 20), st.sampled_from([b"a", b"b", None])).map(
    lambda values: [StoredRecord(offset, 0, None, values[offset]) for offset in sorted(values)]
)


@given(records, records, st.integers(0, 21), st.booleans())
def test_every_offset_is_counted_once(
    archived: list[StoredRecord], kept: list[StoredRecord], log_start: int, compacted: bool
) -> None:
    found = compared(archived, kept, log_start=log_start, compacted=compacted)
    assert found.equal + found.dropped + found.different == len({it.offset for it in (*archived, *kept)})
    assert found.equal == len(set(archived) & set(kept))
    assert found.different == len(found.named)
