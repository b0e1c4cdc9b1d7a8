"""What `verify` finds of payloads that are objects of their own: whatever is gone is named, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace.archive
import headrace.inventory
from consumer.encode.compression import compress
from consumer.encode.jsonl import encode_lines
from consumer.encode.objects import index_lines, payloads
from headrace.archive import ATTEMPTS
from headrace.coverage import CHUNK_OBJECTS
from headrace.inventory import Gone
from headrace.objects import Range, object_key, parse_payload_key, payload_key, payload_stem
from headrace.record import StoredRecord
from headrace.s3 import S3Unavailable
from headrace.tally import Tally, Total
from headrace.verify import inspect_topic
from tests.fakes import Fault, MemoryStore

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from headrace.findings import TopicReport


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace.archive, "FIRST_PAUSE_SECONDS", 0)


class Bucket(MemoryStore):
    """An archive of FORMAT=object below `p`, as the consumer would have stored it."""

    async def chunk(self, start: int, end: int, folder: str = "", partition: int = 0, told: int = 1) -> None:
        """One index and its payloads; each seventh offset is a tombstone."""
        stem = payload_stem(prefix="p", topic="t", partition=partition, bucket=folder)
        records = [
            StoredRecord(offset, 5, None, None if offset % 7 == 6 else b"%d" % offset, ())
            for offset in range(start, end)
        ]
        lines = encode_lines(records)
        for payload in payloads(lines, stem):
            await self.put(payload.key, payload.content, metadata={}, content_type="")
        key = object_key(
            prefix="p", topic="t", partition=partition, offsets=Range(start, end), bucket=folder, suffix=SUFFIX
        )
        body = compress([index_lines(lines, stem.removeprefix("p/"))], "zstd", 1)
        await self.put(key, body, metadata={CHUNK_OBJECTS: str(told)}, content_type="")

    async def verify(self) -> TopicReport:
        self.calls.clear()
        return await inspect_topic(self, prefix="p", topic="t")

    def asked(self, call: str) -> list[str]:
        return [key for what, key in self.calls if what == call]


SUFFIX = "index.jsonl.zst"


def key(offset: int, folder: str = "", partition: int = 0) -> str:
    return payload_key(payload_stem(prefix="p", topic="t", partition=partition, bucket=folder), offset, "json")


async def an_archive() -> Bucket:
    bucket = Bucket()
    await bucket.chunk(0, 10)
    await bucket.chunk(10, 15, "a/b", told=2)
    await bucket.chunk(10, 15, "c", told=2)
    await bucket.chunk(15, 120)
    await bucket.chunk(0, 10, partition=1)
    return bucket


async def test_a_whole_one_takes_one_listing_and_no_question_to_a_payload() -> None:
    bucket = await an_archive()
    report = await bucket.verify()
    assert [partition.payloads and partition.payloads.told for partition in report.partitions] == [9 + 4 * 2 + 90, 9]
    assert report.whole
    assert all(partition.payloads and partition.payloads.whole for partition in report.partitions)
    assert bucket.asked("list") == ["p/t/", "p/_payloads/t/"]
    assert not any("_payloads" in asked for asked in bucket.asked("head") + bucket.asked("get"))
    assert len(bucket.asked("get")) == 5


async def test_what_is_gone_or_changed_is_named() -> None:
    bucket = await an_archive()
    for gone in (key(3), key(99), key(100), key(11, "c"), key(5, partition=1)):
        del bucket.objects[gone]
    await bucket.put(key(12, "a/b"), b"longer", metadata={}, content_type="")
    report = await bucket.verify()
    assert not report.whole
    first, second = (partition.payloads for partition in report.partitions)
    assert first is not None
    assert second is not None
    assert first.named == [
        Gone(3, key(3), 1, None),
        Gone(11, key(11, "c"), 2, None),
        Gone(12, key(12, "a/b"), 2, 6),
        Gone(99, key(99), 2, None),
        Gone(100, key(100), 3, None),
    ]
    assert second.named == [Gone(5, key(5, partition=1), 1, None)]
    assert (first.gone, second.gone) == (5, 1)
    assert not any("_payloads" in asked for asked in bucket.asked("head") + bucket.asked("get"))
    told = list(report.partitions[0].problems())
    assert f"t/0: the payload of offset 99 is gone: {key(99)}" in told
    assert f"t/0: the payload of offset 12 has 6 bytes, 2 were stored: {key(12, 'a/b')}" in told
    found = report.as_json()["partitions"][1]["payloads"]
    assert found == {
        "told": 9,
        "gone": 1,
        "named": [{"offset": 5, "key": key(5, partition=1), "size": 1, "present_size": None}],
        "unreadable": [],
    }


async def test_one_that_lies_in_another_folder_or_has_another_suffix_is_gone() -> None:
    bucket = await an_archive()
    for place, other in ((key(3), key(3, "elsewhere")), (key(4), key(4).replace(".json", ".bin"))):
        bucket.objects[other] = bucket.objects.pop(place)
    report = await bucket.verify()
    payloads = report.partitions[0].payloads
    assert payloads is not None
    assert [it.offset for it in payloads.named] == [3, 4]


async def test_what_no_index_tells_of_is_nobodys_fault() -> None:
    """A consumer is at work: payloads come before their index. And somebody has put things there."""
    bucket = await an_archive()
    for other in (key(130), key(500), key(3, "elsewhere"), key(3) + ".txt", "p/_payloads/t/readme"):
        await bucket.put(other, b"x", metadata={}, content_type="")
    assert (await bucket.verify()).whole
    await bucket.put(key(3).replace(".json", ".bin"), b"x", metadata={}, content_type="")
    assert (await bucket.verify()).whole, "a stranger in the range of an index"


async def test_all_of_them_gone_are_counted_and_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace.inventory, "MOST_NAMED", 10)
    bucket = await an_archive()
    for name in [name for name in bucket.objects if "_payloads" in name]:
        del bucket.objects[name]
    report = await bucket.verify()
    found = [partition.payloads for partition in report.partitions]
    assert [it and it.gone for it in found] == [107, 9]
    assert sum(len(it.named) for it in found if it) == 10
    problems = [problem for partition in report.partitions for problem in partition.problems()]
    assert sum("payloads are gone" in problem for problem in problems) == 2


async def test_an_index_that_cant_be_read_is_told() -> None:
    bucket = await an_archive()
    damaged, strange = (object_key(
        prefix="p", topic="t", partition=0, offsets=offsets, bucket="", suffix=SUFFIX
    ) for offsets in (Range(0, 10), Range(15, 120)))  # fmt: skip
    await bucket.put(damaged, b"nonsense", metadata={CHUNK_OBJECTS: "1"}, content_type="")
    lines = b'{"offset":15,"timestamp":5,"key":null,"headers":[],"object":"_payloads/u/x.json","size":1,"sha256":"x"}\n'
    await bucket.put(strange, compress([lines], "zstd", 1), metadata={CHUNK_OBJECTS: "1"}, content_type="")
    report = await bucket.verify()
    payloads = report.partitions[0].payloads
    assert payloads is not None
    assert not payloads.whole
    first, second = payloads.unreadable
    assert first.startswith(f"{damaged}: Can't be decompressed")
    assert second.startswith(f"{strange}: It tells of _payloads/u/x.json")


async def test_trouble_on_the_way_is_lived_through() -> None:
    bucket = await an_archive()
    del bucket.objects[key(3)]
    for call, place in (("list", "_payloads/t/"), ("list", "_payloads/t/t-00000-0"), ("get", "t-00000-")):
        bucket.faults += [Fault(call, S3Unavailable("not now"), key=place) for _ in range(ATTEMPTS - 1)]
    payloads = (await bucket.verify()).partitions[0].payloads
    assert payloads is not None
    assert [it.offset for it in payloads.named] == [3]
    assert not bucket.faults
    bucket.faults += [Fault("list", S3Unavailable("not now"), key="_payloads") for _ in range(ATTEMPTS)]
    with pytest.raises(S3Unavailable):
        await bucket.verify()


async def test_names_only_asks_nothing_of_payloads() -> None:
    bucket = await an_archive()
    report = await inspect_topic(bucket, prefix="p", topic="t", names_only=True)
    assert report.partitions[0].payloads is None


# The tally alone

STEMS = [payload_stem(prefix="", topic="t", partition=number, bucket=folder) for number in (0, 1) for folder in "ab"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 59), st.integers(1, 2)), unique_by=lambda it: it[:2]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 59), st.integers(1, 2)), unique_by=lambda it: it[:2]),
    st.randoms(use_true_random=False),
)
def test_it_agrees_where_the_sets_are_equal(
    told: Sequence[tuple[int, int, int]], there: Sequence[tuple[int, int, int]], dice: random.Random
) -> None:
    """Whatever the listing's order: of each index, offsets [0, 20) or [20, 40); what lies beyond is nobody's."""
    indexes = {
        (at, start): object_key(
            prefix="",
            topic="t",
            partition=at // 2,
            offsets=Range(start, start + 20),
            bucket="ab"[at % 2],
            suffix=SUFFIX,
        )
        for at in range(4)
        for start in (0, 20)
    }
    tally = Tally("", "t", indexes.values())
    for at, offset, size in dice.sample(list(there), len(there)):
        tally.show(payload_key(STEMS[at], offset, "bin"), size)
    for (at, start), index in indexes.items():
        own, seen = (
            {it for it in some if it[0] == at and start <= it[1] < start + 20} for some in (set(told), set(there))
        )
        total = Total()
        for _, offset, size in own:
            total.add(payload_key(STEMS[at], offset, "bin"), size)
        assert tally.agrees(index, total) == (own == seen)


def test_payload_keys_are_read_back() -> None:
    stem = payload_stem(prefix="p-1", topic="t.-_", partition=123_456, bucket="a=-00001-/b")
    assert parse_payload_key(payload_key(stem, 7, "json")) == (stem, 7)
    for other in ("t-00000-7.json", f"{stem}{7:020d}.json.zst", f"{stem}{7:020d}", "readme"):
        assert parse_payload_key(other) is None
