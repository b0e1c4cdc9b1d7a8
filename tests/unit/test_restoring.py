"""What a restore decides: in which order chunks come, how much at a time, and what forbids it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.coverage import Chunk, Coverage
from headrace.objects import Range
from headrace.record import StoredRecord
from headrace.restore import obstacles, restore_name
from headrace.restoring import in_turn, portions


@given(st.lists(st.integers(0, 4), max_size=5))
def test_chunks_come_in_turn_and_each_partitions_in_order(counts: list[int]) -> None:
    coverages = {
        number: Coverage("t", number, tuple(Chunk(Range(place, place + 1), "x", ()) for place in range(count)))
        for number, count in enumerate(counts)
    }
    turns = [(number, chunk.offsets.start) for number, chunk in in_turn(coverages)]
    assert sorted(turns) == [(number, place) for number, count in enumerate(counts) for place in range(count)]
    assert [place for _, place in turns] == sorted(place for _, place in turns)


@given(st.lists(st.tuples(st.integers(1, 3), st.none() | st.integers(0, 9)), max_size=30), st.integers(1, 20))
def test_portions_are_all_records_in_order_none_too_long(steps: list[tuple[int, int | None]], most: int) -> None:
    offset, records = 0, []
    for step, length in steps:
        records.append(StoredRecord(offset, 0, None, None if length is None else b"x" * length))
        offset += step
    found = list(portions(records, offset + 5, most))
    assert [record for some, _ in found for record in some] == records
    assert [position for _, position in found] == [*(some[0].offset for some, _ in found[1:]), offset + 5]
    for some, _ in found:
        assert sum(len(record.value or b"") for record in some) <= most or len([it for it in some if it.value]) == 1


def test_another_range_is_another_restore() -> None:
    names = {restore_name("b", "p", "t", "to", since, until) for since in ("1", "2") for until in ("8", "9")}
    assert len(names) == 4
    assert all(name.startswith("headrace-restore-to-") for name in names)


CONFIG = {
    "message.timestamp.type": "CreateTime",
    "cleanup.policy": "delete",
    "retention.ms": "1000",
}


def told(offsets: int = 0, oldest_ms: int | None = 0, **config: str) -> list[str]:
    own = CONFIG | {name.replace("_", "."): value for name, value in config.items()}
    return obstacles("t", offsets=offsets, config=own, oldest_ms=oldest_ms, now_ms=1001)


def test_obstacles() -> None:
    assert len(told()) == 1, "Kafka would delete them"
    assert told(oldest_ms=1) == told(retention_ms="-1") == told(cleanup_policy="compact") == told(oldest_ms=None) == []
    assert told(oldest_ms=-1) == [], "a record without time is as old as its file"
    assert obstacles("t", offsets=0, config={}, oldest_ms=0, now_ms=1001) == [], "what may not be read is no obstacle"
    assert len(told(offsets=1, message_timestamp_type="LogAppendTime")) == 3
