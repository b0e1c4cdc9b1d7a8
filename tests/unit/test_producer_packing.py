"""Record batches of our own making: any reader finds what was put in, aiokafka's producer takes them as its own."""

from __future__ import annotations

import re
import struct
from inspect import getsource
from typing import TYPE_CHECKING, Any, cast, get_args

import pytest
from aiokafka import TopicPartition
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.record import util
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from producer.batches import BATCH_OVERHEAD, Request
from producer.codecs import Compression, codec_for, crc32c
from producer.packing import RecordBatch, encode_records, varint
from producer.records import Each, each_bytes, record_bytes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from producer.records import Headers

COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
NOW_MS = 1_795_000_000_123
GROUPS = st.lists(
    st.tuples(
        st.lists(st.binary(max_size=300), max_size=40),
        st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=200)), max_size=3),
    ),
    min_size=1,
    max_size=5,
)


def request(payloads: list[bytes], headers: Headers | None = None) -> Request:
    return Request(payloads, len(payloads), headers or [], 0, 0, 0.0, cast("asyncio.Future[None]", None))


def packed(requests: Iterable[Request], compression: Compression = "none") -> RecordBatch:
    return RecordBatch(requests, NOW_MS, codec=codec_for(compression), crc32c=crc32c)


def read(data: bytes) -> Any:
    """The one batch there is, its sum checked."""
    records = MemoryRecords(data)
    batch = records.next_batch()
    assert batch is not None
    assert records.size_in_bytes() == len(data)
    assert not records.has_next()
    assert batch.validate_crc()
    return batch


@given(GROUPS, st.sampled_from(COMPRESSIONS))
def test_what_goes_in_comes_out(groups: list[tuple[list[bytes], Headers]], compression: Compression) -> None:
    built = packed([request(*group) for group in groups], compression)
    found = [
        (record.offset, record.timestamp, record.key, record.value, record.headers) for record in read(built._build())
    ]
    expected = [(payload, headers) for payloads, headers in groups for payload in payloads]
    assert found == [(index, NOW_MS, None, *record) for index, record in enumerate(expected)]
    assert built.record_count() == len(expected)


@given(GROUPS)
def test_unpacked_it_is_what_aiokafkas_builder_makes(groups: list[tuple[list[bytes], Headers]]) -> None:
    theirs = DefaultRecordBatchBuilder(2, 0, 0, 77, 3, 1234, 1 << 30)
    offset = 0
    for payloads, headers in groups:
        for payload in payloads:
            theirs.append(offset, NOW_MS, None, payload, headers)
            offset += 1
    if offset == 0:
        return
    ours = packed([request(*group) for group in groups])
    ours._set_producer_state(77, 3, 1234)
    assert ours._build() == bytes(theirs.build())


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("payloads", [[b""] * 100_000, [b"x" * 5_000_000], [bytes(range(256)) * 40] * 90])
def test_no_batch_is_longer_than_promised(compression: Compression, payloads: list[bytes]) -> None:
    built = packed([request(payloads)], compression)._build()
    assert len(built) <= BATCH_OVERHEAD + record_bytes(len(payloads), sum(map(len, payloads)), [])
    assert [record.value for record in read(built)] == payloads


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "none"])
def test_what_does_not_shrink_is_left_as_it_is(compression: Compression) -> None:
    assert read(packed([request([b"1"])], compression)._build()).compression_type == 0
    batch = read(packed([request([b"1" * 1000])], compression)._build())
    assert batch.compression_type == COMPRESSIONS.index(compression)


def test_lz4_frames_are_what_every_reader_takes() -> None:
    """Independent blocks, no sum of the content, and the fast level: KIP-57 and old Java readers."""
    data = packed([request([bytes([n % 7]) * 500 for n in range(300)])], "lz4")._build()
    magic, flags = struct.unpack_from("<IB", data, BATCH_OVERHEAD)
    assert magic == 0x184D2204
    assert flags & 0b0010_0000, "blocks are independent"
    assert not flags & 0b0000_0100, "no sum of the content"
    assert flags >> 6 == 1, "version"


def test_the_plain_reader_agrees() -> None:
    """Another implementation of format and sum, in Python alone."""
    batch = _DefaultRecordBatchPy(packed([request([b"1", b'{"a": 2.50}'], [("k", b"v")])], "lz4")._build())
    assert batch.crc == util.calc_crc32c_py(bytes(batch._buffer)[batch.ATTRIBUTES_OFFSET :])
    assert [record.value for record in batch] == [b"1", b'{"a": 2.50}']


@given(st.integers(-(2**31), 2**31 - 1))
def test_varints(number: int) -> None:
    assert util.decode_varint(bytearray(varint(number)), 0) == (number, len(varint(number)))


@pytest.mark.parametrize("around", [64, 8192, 1_048_576])
def test_lengths_at_which_numbers_grow(around: int) -> None:
    payloads = [b"x" * size for size in range(max(0, around - 12), around + 3)]
    assert [record.value for record in read(packed([request(payloads)])._build())] == payloads


async def test_a_sequence_that_runs_over_begins_at_0() -> None:
    """Kafka counts to 2**31 - 1 and goes on with 0; aiokafka goes on with -2**31, which Kafka refuses."""
    manager = TransactionManager(None, None)
    partition = TopicPartition("t", 0)
    manager.increment_sequence_number(partition, 2**31 - 2)
    told = []
    for _ in range(3):
        batch = packed([request([b"1"])])
        batch._set_producer_state(1, 0, manager.sequence_number(partition))
        told.append(read(batch._build()).base_sequence)
        manager.increment_sequence_number(partition, 1)
    assert told == [2**31 - 2, 2**31 - 1, 0]


def test_sent_again_it_is_the_same() -> None:
    batch = packed([request([b"1"])], "lz4")
    batch._set_producer_state(5, 1, 42)
    assert batch._build() is batch._build()
    with pytest.raises(AssertionError, match="sent again"):
        batch._set_producer_state(5, 1, 43)


# What aiokafka does with it. A version that asks for more fails here.


def test_aiokafka_asks_a_builder_for_no_more_than_it_has() -> None:
    asked = set(re.findall(r"_builder\.(\w+)", getsource(MessageBatch)))
    assert asked - {"append"} <= set(dir(RecordBatch)), "append is for messages one by one, which we never send"
    elsewhere = getsource(MessageAccumulator) + getsource(sender)
    assert set(re.findall(r"batch\._builder\.(\w+)", elsewhere)) <= {"close"}


class Cluster:
    """As much of aiokafka's metadata as an accumulator asks for."""

    def leader_for_partition(self, partition: TopicPartition) -> int:
        return 7


async def test_a_batch_goes_through_aiokafkas_accumulator() -> None:
    manager = TransactionManager(None, None)
    manager.set_pid_and_epoch(120, 22)
    accumulator = MessageAccumulator(Cluster(), 1 << 30, 0, 30, txn_manager=manager)
    partition = TopicPartition("t", 3)
    first, second = packed([request([b"1", b"2"])]), packed([request([b"3"])])
    outcome = await accumulator.add_batch(first, partition, 5)
    batches, _ = accumulator.drain_by_nodes(ignore_nodes=set())
    (batch,) = batches[7].values()
    sent = read(bytes(batch.get_data_buffer()))
    assert (sent.producer_id, sent.producer_epoch, sent.base_sequence) == (120, 22, 0)
    accumulator.reenqueue(batch)
    (again,) = accumulator.drain_by_nodes(ignore_nodes=set())[0][7].values()
    assert again.get_data_buffer() == batch.get_data_buffer()
    again.done(100, -1, 0)
    assert (await outcome).offset == 100
    await accumulator.add_batch(second, partition, 5)
    (batch,) = accumulator.drain_by_nodes(ignore_nodes=set())[0][7].values()
    assert read(bytes(batch.get_data_buffer())).base_sequence == 2, "as many as the first one had"
    batch.done(102, -1, 0)
    await accumulator.close()


def test_encoding_counts() -> None:
    assert encode_records([]) == (b"", 0)


# Keys, tombstones, headers of one's own

HEADER_LISTS = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=200)), max_size=3)
SINGLE = st.tuples(st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=200), HEADER_LISTS)


@given(st.lists(st.tuples(st.lists(SINGLE, max_size=70), HEADER_LISTS, st.booleans(), st.booleans()), max_size=4))
def test_keys_tombstones_and_own_headers_are_as_aiokafkas_builder_writes_them(
    groups: list[tuple[list[tuple[bytes | None, bytes | None, Headers]], Headers, bool, bool]],
) -> None:
    theirs = DefaultRecordBatchBuilder(2, 0, 1, 77, 3, 1234, 1 << 30)
    requests, offset, promised = [request([b"plain"], [("a", b"1")])], 1, record_bytes(1, 5, [("a", b"1")])
    theirs.append(0, NOW_MS, None, b"plain", [("a", b"1")])
    for singles, shared, keyed, own in groups:
        values = [value for _, value, _ in singles]
        each = Each(
            [key for key, _, _ in singles] if keyed else None, shared, [each[2] for each in singles] if own else None
        )
        requests.append(Request(values, len(values), each, 0, 0, 0.0, cast("asyncio.Future[None]", None)))
        promised += each_bytes(values, each)
        for key, value, headers in singles:
            theirs.append(offset, NOW_MS, key if keyed else None, value, shared + (headers if own else []))
            offset += 1
    ours = RecordBatch(requests, NOW_MS, codec=None, crc32c=crc32c, transactional=True)
    ours._set_producer_state(77, 3, 1234)
    built = ours._build()
    assert built == bytes(theirs.build())
    assert len(built) <= BATCH_OVERHEAD + promised
