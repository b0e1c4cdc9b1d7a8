"""Keys, partitions and transactions on a real Kafka: where records go, that requests are whole, answers true."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.partitioner import DefaultPartitioner

from headrace.management import Health
from headrace.settings import load
from producer.intake import Intake, open_intakes
from producer.publisher import Publisher
from producer.records import Records
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiokafka.structs import ConsumerRecord

    from producer.records import Headers, Place
    from tests.services import KafkaService

pytestmark = pytest.mark.stack

PARTITIONS = 7


@contextlib.asynccontextmanager
async def publishing(bootstrap: str, *topics: str, **settings: object) -> AsyncIterator[dict[str, Intake]]:
    """The producer without its HTTP side, ready for all topics."""
    values = {
        "kafka_bootstrap_servers": bootstrap,
        "kafka_topic": topics[0],
        "kafka_topics_allowed": ",".join(topics[1:]),
        "kafka_topic_partitions": PARTITIONS,
        **settings,
    }
    told = load(ProducerSettings, **values)
    intakes = open_intakes(told)
    publisher = Publisher(told, Health(), *intakes.values())
    running = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(30):
            while not all(intake.is_open for intake in intakes.values()):
                await asyncio.sleep(0.02)
        yield intakes
    finally:
        publisher.drain(asyncio.get_running_loop().time() + 5)
        running.cancel()
        await asyncio.wait([running])


async def publish(intake: Intake, records: Records) -> list[Place]:
    publication = intake.submit_records(records, 0)
    await publication.outcome
    return publication.places()


async def records_of(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[ConsumerRecord]:
    """All that a reader sees, in each partition's order."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=isolation,
    )
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(40):
            while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
    finally:
        await consumer.stop()
    return found


@pytest.mark.parametrize("mode", ["transaction", "separate"])
async def test_keys_meet_those_of_other_publishers_and_places_are_true(
    kafka: KafkaService, topic: Callable[..., str], mode: str
) -> None:
    name = topic()
    keys = [b"21", b"foobar", b"", b"k" * 100, None, *(b"key-%d" % number for number in range(40))]
    values = [b"%d" % number for number in range(len(keys))]
    values[3] = b""
    own: list[Headers] = [[("n", b"%d" % number)] for number in range(len(keys))]
    records = Records(
        [None if key == b"21" else value for key, value in zip(keys, values, strict=True)], [("all", b"1")], keys, own
    )
    async with publishing(kafka.bootstrap, name, keyed_requests=mode) as intakes:
        places = await publish(intakes[name], records)
        again = await asyncio.gather(
            *(publish(intakes[name], Records([b"one %d" % n], keys=[b"key-%d" % n])) for n in range(40))
        )
    found = {(record.partition, record.offset): record for record in await records_of(kafka.bootstrap, name)}
    assert len(found) == len(keys) + 40
    partitioner = DefaultPartitioner()
    for key, value, headers, place in zip(keys, records.values, own, places, strict=True):
        record = found[place]
        assert (record.key, record.value, list(record.headers)) == (key, value, [("all", b"1"), *headers])
        if key is not None:
            assert place.partition == partitioner(key, list(range(PARTITIONS)), [])
    for number, (place,) in enumerate(again):
        assert found[place].value == b"one %d" % number
        assert place.partition == partitioner(b"key-%d" % number, list(range(PARTITIONS)), [])


async def test_many_requests_at_once_are_each_whole_and_a_keys_records_stay_in_order(
    kafka: KafkaService, topic: Callable[..., str]
) -> None:
    name, other = topic(), topic()
    async with publishing(kafka.bootstrap, name, other) as intakes:

        async def one(connection: int) -> None:
            for number in range(15):
                keys = [b"%d" % connection, b"%d/%d" % (connection, number), None]
                values = [b"%d %d %d" % (connection, number, n) for n in range(3)]
                records = Records(values, keys=keys) if number % 2 else Records(values, keys=keys[:1] * 3)
                await publish(intakes[name if connection % 2 else other], records)

        await asyncio.gather(*(one(connection) for connection in range(20)))
    seen: defaultdict[tuple[int, int], int] = defaultdict(int)
    order: defaultdict[bytes, list[int]] = defaultdict(list)
    for connections, where in ((range(1, 20, 2), name), (range(0, 20, 2), other)):
        for record in await records_of(kafka.bootstrap, where):
            connection, number, n = map(int, record.value.split())
            assert connection in connections
            seen[connection, number] += 1
            if n == 0:
                order[record.key].append(number)
    assert seen == {(connection, number): 3 for connection in range(20) for number in range(15)}
    assert all(numbers == list(range(15)) for numbers in order.values())
