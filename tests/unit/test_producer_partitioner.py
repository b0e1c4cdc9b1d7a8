"""Keys go where Kafka's other clients send them."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as their_murmur2
from hypothesis import given
from hypothesis import strategies as st

from producer.partitioner import murmur2, partition_of, parts_by_partition, wanted_partitions
from producer.records import Part, Place, Records, places


@pytest.mark.parametrize(
    ("key", "digest"),
    [  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_javas(key: bytes, digest: int) -> None:
    assert murmur2(key) == digest & 0xFFFF_FFFF


@given(st.binary(max_size=200), st.integers(1, 1000))
def test_the_partition_is_aiokafkas(key: bytes, partitions: int) -> None:
    assert murmur2(key) == their_murmur2(key)
    assert partition_of(key, partitions) == DefaultPartitioner()(key, list(range(partitions)), [])


def test_a_partition_that_is_named_goes_before_the_keys() -> None:
    records = Records([b"1"] * 4, keys=[b"21", b"21", None, b""], partitions=[None, 7, None, None])
    twenty_one, named, anywhere, empty = wanted_partitions(records, 10)
    assert (named, anywhere) == (7, None)
    assert twenty_one == partition_of(b"21", 10)
    assert empty == partition_of(b"", 10), "an empty key is a key"


@given(st.lists(st.none() | st.integers(0, 3), max_size=30))
def test_what_may_go_anywhere_goes_with_the_rest(wanted: list[int | None]) -> None:
    parts = parts_by_partition(wanted)
    assert sorted(index for indexes in parts.values() for index in indexes) == list(range(len(wanted)))
    named: set[int | None] = {partition for partition in wanted if partition is not None}
    assert set(parts) == (named or ({None} if wanted else set()))
    for partition, indexes in parts.items():
        assert indexes == sorted(indexes)
        assert {wanted[index] for index in indexes} <= {partition, None}
    told = places([Part(indexes, partition or 0, 100) for partition, indexes in parts.items()])
    for partition, indexes in parts.items():
        assert [told[index] for index in indexes] == [Place(partition or 0, 100 + n) for n in range(len(indexes))]


def test_where_kafka_tells_no_offset_there_is_none() -> None:
    assert places([Part(range(2), 3, None)]) == [Place(3, None), Place(3, None)]
