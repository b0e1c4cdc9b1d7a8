"""What comes out of a fetch a batch at a time is what aiokafka gives one by one: judged by aiokafka itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.batches import BatchConsumer, CheckedClient, break_cycle, has_more, take
from consumer.checksum import is_intact

A = TopicPartition("t", 0)
CRC, ATTRIBUTES, LAST_DELTA = 17, 21, 23
CONTROL = 0x20


@dataclass(frozen=True)
class Written:
    """A record batch as a log may hold it: some of its records are `gone` (compacted), and offsets `before` it."""

    values: int
    codec: int = 0
    before: int = 0
    gone: frozenset[int] = frozenset()
    producer: int = -1
    transactional: bool = False
    control: int | None = None

    def raw(self, base: int) -> bytes:
        empty = self.control is not None or self.gone >= set(range(self.values))
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0 if empty else self.codec,  # as Kafka writes them
            is_transactional=int(self.transactional),
            producer_id=self.producer,
            producer_epoch=0,
            base_sequence=0,
            batch_size=1 << 20,
        )
        if self.control is not None:
            builder.append(0, timestamp=1, key=struct.pack(">hh", 0, self.control), value=b"\0" * 6, headers=[])
        for number in range(self.values):
            if number not in self.gone:
                headers = [("h", b"1"), ("h", None)] if number % 3 == 2 else []
                key = b"k" if number % 2 else None
                builder.append(number, timestamp=number, key=key, value=b"%d" % (base + number), headers=headers)
        found = bytearray(builder.build())
        found[0:8] = base.to_bytes(8, "big")
        if self.control is not None:
            found[ATTRIBUTES + 1] |= CONTROL
        struct.pack_into(">i", found, LAST_DELTA, self.length - 1)
        struct.pack_into(">I", found, CRC, calc_crc32c(bytes(found[ATTRIBUTES:])))
        return bytes(found)

    @property
    def length(self) -> int:
        return 1 if self.control is not None else self.values


def log(batches: list[Written], base: int = 100) -> bytes:
    raw = b""
    for batch in batches:
        base += batch.before
        raw += batch.raw(base)
        base += batch.length
    return raw


def fetched(raw: bytes, position: int, aborted: list[tuple[int, int]], isolation: int) -> Any:
    return PartitionRecords(A, MemoryRecords(raw), aborted, position, None, None, True, isolation)


def facts(record: Any) -> tuple[Any, ...]:
    return (record.offset, record.timestamp, record.key, record.value, tuple(record.headers))


batches = st.builds(
    Written,
    st.integers(1, 6),
    codec=st.sampled_from([0, 0, 1, 2, 3, 4]),
    before=st.sampled_from([0, 0, 0, 5]),
    gone=st.frozensets(st.integers(0, 5), max_size=6),
    producer=st.sampled_from([-1, 7, 8]),
    transactional=st.booleans(),
    control=st.sampled_from([None, None, None, 0, 1]),
)


@given(
    st.lists(batches, max_size=6),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from([7, 8]), st.integers(95, 130)), max_size=3),
    st.sampled_from([READ_COMMITTED, READ_UNCOMMITTED]),
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
    st.binary(max_size=70),
)
@settings(max_examples=400, deadline=None)
def test_the_same_as_one_by_one(
    many: list[Written],
    into: int,
    aborted: list[tuple[int, int]],
    isolation: int,
    steps: list[int],
    cut_short: bytes,
) -> None:
    """The same records and the same position at the end, whatever is taken at a time, also where a fetch begins in
    the middle of a batch, and though its end is cut off."""
    if many:
        into %= many[0].before + many[0].length  # a broker begins with the batch that holds the offset, or a later one
    raw = log(many) + (log([Written(9)])[: len(cut_short)] if cut_short else b"")
    one_by_one = fetched(raw, 100 + into, list(aborted), isolation)
    wanted = [facts(record) for record in one_by_one]
    ours = fetched(raw, 100 + into, list(aborted), isolation)
    found, position = [], 100 + into
    for step in steps * 200:
        if not has_more(ours):
            break
        taken = [facts(record) for record in take(ours, step, check=True)]
        assert len(taken) <= step
        assert ours.next_fetch_offset >= max([position, *(offset + 1 for offset, *_ in taken)])
        position = ours.next_fetch_offset
        found += taken
        assert all(offset >= position for offset, *_ in wanted[len(found) :]), "no record left out lies below it"
    assert not has_more(ours)
    assert found == wanted
    assert ours.next_fetch_offset == one_by_one.next_fetch_offset


def test_one_huge_batch_is_taken_in_pieces() -> None:
    ours = fetched(log([Written(1000, codec=4)]), 100, [], READ_COMMITTED)
    assert [len(take(ours, 300, check=False)) for _ in range(4)] == [300, 300, 300, 100]
    assert not has_more(ours)


def test_a_damaged_batch_is_told_and_what_stands_before_it_is_not_skipped() -> None:
    raw = bytearray(log([Written(2), Written(2)]))
    raw[-1] ^= 1
    ours = fetched(bytes(raw), 100, [], READ_COMMITTED)
    with pytest.raises(CorruptRecordException, match="offset 102"):
        take(ours, 10, check=True)
    assert len(take(fetched(bytes(raw), 100, [], READ_COMMITTED), 2, check=True)) == 2


@pytest.mark.parametrize("magic", [0, 1])
def test_batches_of_old_kafkas(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=0, batch_size=1 << 20)
    for offset in range(3):
        builder.append(offset, timestamp=1, key=None, value=b"v%d" % offset)
    raw = bytes(builder.build())
    wanted = [facts(record)[:1] for record in fetched(raw, 1, [], READ_COMMITTED)]
    assert (
        [facts(record)[:1] for record in take(fetched(raw, 1, [], READ_COMMITTED), 9, check=True)]
        == wanted
        == [(1,), (2,)]
    )


def test_checksums_of_all_batches_are_looked_at() -> None:
    raw = log([Written(3), Written(2, codec=3), Written(1, producer=7, control=0), Written(4, codec=4)])
    assert is_intact(raw)
    assert is_intact(b"")
    assert all(is_intact(raw[:end]) for end in range(0, len(raw), 7)), "what is cut off is not there yet"
    starts = [at for at in range(len(raw)) if is_intact(raw[at:]) and raw[at : at + 6] == b"\0" * 6]
    for at in range(CRC, len(raw)):
        if any(start <= at < start + CRC for start in starts):
            continue  # offset, length and leader epoch, which no checksum covers
        damaged = bytearray(raw)
        damaged[at] ^= 1
        assert not is_intact(bytes(damaged)), at


@pytest.mark.parametrize("magic", [0, 1])
def test_older_batches_are_left_to_another_check(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=0, batch_size=1 << 20)
    builder.append(0, timestamp=1, key=None, value=b"v")
    assert not is_intact(bytes(builder.build()))


async def test_a_fetch_that_is_not_intact_makes_its_partition_doubtful() -> None:
    good, bad = log([Written(2)]), bytearray(log([Written(2)]))
    bad[-1] ^= 1
    response = SimpleNamespace(topics=[("t", [(0, 0, 9, 9, 0, [], -1, good), (1, 0, 9, 9, 0, [], -1, bytes(bad))])])

    class Client:
        name = "the real one"
        _conns: ClassVar[dict[Any, Any]] = {}

        async def send(self, node: int, request: Any, **options: Any) -> Any:
            assert (node, options) == (5, {"group": "g"})
            return response

    client = CheckedClient(Client())
    assert client.name == "the real one"
    request = FetchRequest(1, 1, 1, 1, [], "")
    assert await client.send(5, request, group="g") is response
    assert client.doubtful == {TopicPartition("t", 1)}
    client.doubtful.clear()
    assert await client.send(5, SimpleNamespace(), group="g") is response
    assert not client.doubtful


@pytest.mark.parametrize("broken", [True, False])
def test_a_fetch_that_nobody_takes_is_gone_at_once(broken: bool) -> None:
    """And only because its cycle is broken: otherwise a consumer whose partitions pause often holds hundreds of MiB."""
    gc.collect()
    gc.disable()
    try:
        result = FetchResult(A, assignment=None, partition_records=fetched(log([Written(2)]), 100, [], 1), backoff=0)
        alive = weakref.ref(result._partition_records)
        if broken:
            break_cycle(result)
        del result
        assert (alive() is None) == broken
    finally:
        gc.enable()
        gc.collect()


@pytest.mark.parametrize("error", [KafkaError("it broke"), None])
async def test_a_fetcher_that_has_ended_is_told_and_not_waited_for(error: Exception | None) -> None:
    """Whatever ended it: it is Kafka's trouble, and no record's, for which a partition would have to halt."""
    ended = asyncio.get_running_loop().create_future()
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
    consumer = BatchConsumer.__new__(BatchConsumer)
    consumer._closed = False
    consumer._subscription = SimpleNamespace(fetch_context=contextlib.nullcontext)
    consumer._fetcher = SimpleNamespace(error_future=ended)
    consumer._coordinator = SimpleNamespace(check_errors=lambda: None)
    try:
        with pytest.raises(KafkaError, match="it broke" if error else "has ended"):
            await consumer.getmany(timeout_ms=60_000, max_records=1)
    finally:
        consumer._closed = True
