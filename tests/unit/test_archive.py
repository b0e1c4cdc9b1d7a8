"""Reading through trouble: a store that fails now and then, objects that are gone, chunks of several objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import headrace.archive
from consumer.encode import open_format
from headrace.archive import ATTEMPTS, ArchiveError, read_chunk, read_partition, survey
from headrace.coverage import CHUNK_OBJECTS
from headrace.objects import Range, object_key
from headrace.record import StoredRecord
from headrace.s3 import ListedObject, S3Refused, S3Unavailable, StoredObject
from headrace.verify import inspect_topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

FORM = open_format("jsonl", "zstd")
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Memory:
    """The ObjectStore port on a dictionary; the first `faults` calls fail."""

    def __init__(self, faults: int = 0, error: type[Exception] = S3Unavailable) -> None:
        self.objects: dict[str, tuple[bytes, Mapping[str, str]]] = {}
        self.faults = faults
        self.error = error

    def _call(self) -> None:
        if self.faults:
            self.faults -= 1
            raise self.error("not now")

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        self.objects[key] = body, metadata

    async def head(self, key: str) -> StoredObject | None:
        self._call()
        found = self.objects.get(key)
        return None if found is None else StoredObject(key, len(found[0]), NOW, found[1])

    async def get(self, key: str) -> bytes | None:
        self._call()
        found = self.objects.get(key)
        return None if found is None else found[0]

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        for number, key in enumerate(sorted(self.objects)):
            if number == 1:
                self._call()  # in the midst of it
            if key.startswith(prefix):
                yield ListedObject(key, len(self.objects[key][0]), NOW)

    def store(self, start: int, end: int, bucket: str, offsets: range, told: int = 1) -> str:
        key = object_key(
            prefix="", topic="t", partition=0, offsets=Range(start, end), bucket=bucket, suffix=FORM.suffix
        )
        records = [StoredRecord(offset, 0, None, b"{}") for offset in offsets]
        self.objects[key] = FORM.compress(FORM.encode(records)), {CHUNK_OBJECTS: str(told)}
        return key


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace.archive, "FIRST_PAUSE_SECONDS", 0)


async def test_records_come_by_offset_however_they_lie() -> None:
    store = Memory(faults=ATTEMPTS - 1)
    store.store(0, 10, "b", range(0, 10, 2), 2)
    store.store(0, 10, "a", range(1, 10, 2), 2)
    store.store(10, 15, "a", range(10, 12))  # the rest were transaction markers
    found = await survey(store, prefix="", topic="t")
    assert found.partitions().keys() == {0}
    assert store.faults == 0
    offsets = [record.offset async for record in read_partition(store, found.coverage(0), start=3, end=11)]
    assert offsets == list(range(3, 11))


async def test_a_store_that_stays_away_is_told() -> None:
    store = Memory(faults=100)
    store.store(0, 1, "a", range(1))
    store.store(1, 2, "a", range(1, 2))
    with pytest.raises(S3Unavailable):
        await survey(store, prefix="", topic="t")
    assert store.faults == 100 - ATTEMPTS


@pytest.mark.parametrize("error", [S3Refused, S3Unavailable])
async def test_verify_tells_the_stores_own_error(error: type[Exception]) -> None:
    store = Memory(faults=1000, error=error)
    store.store(0, 1, "a", range(1))
    with pytest.raises(error, match="not now"):
        await inspect_topic(store, prefix="", topic="t")


async def test_progress_is_told() -> None:
    store = Memory()
    for start in range(1_100):
        store.store(start, start + 1, "a", range(0))
    told: list[str] = []
    report = await inspect_topic(store, prefix="", topic="t", progress=told.append)
    assert report.whole
    assert told[:2] == ["t: 1,000 objects", "t: 1,100 objects"]
    assert told[-1] == "t: 1,100 of 1,100 chunks"


async def test_an_object_that_is_gone_or_damaged_is_named() -> None:
    store = Memory()
    key = store.store(0, 1, "a", range(1))
    (chunk,) = (await survey(store, prefix="", topic="t")).coverage(0).chunks
    store.objects[key] = b"nonsense", {}
    with pytest.raises(ArchiveError, match=f"{key}: Can't be decompressed"):
        await read_chunk(store, chunk)
    del store.objects[key]
    with pytest.raises(ArchiveError, match=f"{key} was listed, but is gone now"):
        await read_chunk(store, chunk)
