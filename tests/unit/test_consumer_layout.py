"""Names depend on the record and the layout alone: not on how records were fetched, nor on the machine's time zone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.folders import FLAT
from consumer.layout import DEFAULT_OBJECT_PATH, Layout
from headrace.objects import Range
from headrace.record import StoredRecord

PATHS = [DEFAULT_OBJECT_PATH, "day=%Y-%m-%d", "hour=%H", "year=%Y", "%Y/%m/%d/%H/%M", "at=%H-%M-%S", FLAT]


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (DEFAULT_OBJECT_PATH, "dt=2026-11-22/hour=23"),
        ("day=%Y-%m-%d", "day=2026-11-22"),
        ("%Y/%m/%d/%H/%M", "2026/11/22/23/59"),
        ("at=%H-%M-%S", "at=23-59-58"),
        (FLAT, ""),
    ],
)
def test_buckets_are_utc(path: str, expected: str) -> None:
    layout, time = Layout("p", path, "jsonl"), milliseconds("2026-11-22T23:59:58") + 999
    assert layout.bucket(time) == layout.place(StoredRecord(7, time, None, None)) == expected


@pytest.mark.parametrize("timestamp", [-1, 0, 1_795_219_200, 1_795_219_200_000_000, 2**62, -(2**62)])
def test_unbelievable_timestamps_have_a_bucket_of_their_own(timestamp: int) -> None:
    """None, seconds, microseconds, nonsense: hive readers see NULL."""
    null = "__HIVE_DEFAULT_PARTITION__"
    assert Layout("p", DEFAULT_OBJECT_PATH, "jsonl").bucket(timestamp) == f"dt={null}/hour={null}"
    assert Layout("p", "%Y/day=%d", "jsonl").bucket(timestamp) == f"undated/day={null}"
    assert Layout("p", FLAT, "jsonl").bucket(timestamp) == Layout("p", FLAT, "jsonl").undated == ""


def test_the_edges_of_what_is_believable() -> None:
    layout = Layout("p", "%Y", "jsonl")
    assert layout.bucket(milliseconds("1971-01-01T00:00:00") - 1) == "undated"
    assert layout.bucket(milliseconds("1971-01-01T00:00:00")) == "1971"
    assert layout.bucket(milliseconds("9999-12-31T23:59:59") + 999) == "9999"
    assert layout.bucket(milliseconds("9999-12-31T23:59:59") + 1000) == "undated"


timestamps = st.one_of(
    st.integers(1_795_219_200_000, 1_795_219_200_000 + 4 * 86_400_000),
    st.sampled_from([-1, 0, 31_536_000_000, 31_535_999_999, 253_402_300_799_999, 253_402_300_800_000]),
)


@given(st.lists(timestamps, min_size=1, max_size=20), st.sampled_from(PATHS), st.integers(1, 19))
def test_names_do_not_depend_on_the_fetch(times: list[int], path: str, cut: int) -> None:
    layout = Layout("p", path, "jsonl")
    records = [StoredRecord(offset, timestamp, None, b"") for offset, timestamp in enumerate(times)]
    by_bucket: dict[str, list[int]] = {}
    for batch in (records[:cut], records[cut:]):
        for group in layout.by_bucket(batch) if batch else ():
            by_bucket.setdefault(group.path, []).extend(record.offset for record in group.records)
            found = [record.timestamp for record in group.records]
            assert (group.first_timestamp, group.last_timestamp) == (min(found), max(found))
    naive: dict[str, list[int]] = {}
    for record in records:
        naive.setdefault(layout.bucket(record.timestamp), []).append(record.offset)
    assert by_bucket == naive


def test_many_buckets_stay_bounded() -> None:
    layout = Layout("p", "at=%H-%M-%S", "jsonl")
    for second in range(10_500):
        layout.bucket(1_795_219_200_000 + second * 1000)
    assert len(layout._paths) <= 10_001
    assert layout.bucket(1_795_219_200_000) == "at=00-00-00"


def test_the_fingerprint_is_all_that_names_and_contents_depend_on() -> None:
    layouts = [
        Layout("p", "%Y", "jsonl"),
        Layout("q", "%Y", "jsonl"),
        Layout("p", "%m", "jsonl"),
        Layout("p", "%Y", "raw"),
        Layout("p", "%Y", "jsonl", "read_uncommitted"),
    ]
    assert len({layout.fingerprint for layout in layouts}) == 5
    assert Layout("p", "%Y", "jsonl").fingerprint == "8b4d1278ce65", "changing it stops a rolling upgrade"


def test_keys() -> None:
    key = Layout("p", "%Y", "jsonl.zst").key("t", 3, Range(5, 70), "2026")
    assert key == "p/t/2026/t-00003-00000000000000000005-00000000000000000070.jsonl.zst"


def test_a_path_that_comes_again_splits_what_lies_between() -> None:
    """hour=%H is the same at the same time of another day: the first and the last record do not tell of the others."""
    layout, at = Layout("p", "hour=%H", "jsonl"), 1_795_219_200_000
    hours = [0, 5, 24]
    records = [StoredRecord(number, at + hour * 3_600_000, None, b"") for number, hour in enumerate(hours)]
    found = {group.path: [record.offset for record in group.records] for group in layout.by_bucket(records)}
    assert found == {"hour=00": [0, 2], "hour=05": [1]}
