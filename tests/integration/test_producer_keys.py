"""Keys, partitions and transactions on a real Kafka: where records go, that requests are whole, answers true."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from headrace.management import Health
from headrace.settings import load
from producer.errors import Kind, Problem
from producer.intake import Intake, open_intakes
from producer.link import offset_of
from producer.publisher import Publisher
from producer.records import Records
from producer.settings import ProducerSettings
from tests.producer_process import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiokafka.structs import ConsumerRecord

    from producer.records import Headers, Place
    from tests.conftest import StackFactory
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
    """All that a reader sees, in each partition's order, when no transaction is open any more."""
    options = {"bootstrap_servers": bootstrap, "enable_auto_commit": False, "auto_offset_reset": "none"}
    async with (
        AIOKafkaConsumer(topic, **options) as everything,
        AIOKafkaConsumer(topic, **options, isolation_level=isolation) as consumer,
    ):
        partitions = sorted(consumer.assignment())
        await consumer.seek_to_beginning(*partitions)
        ends = await everything.end_offsets(partitions)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(60):
            while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
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
        assert intakes[name].led_partitions == frozenset(range(PARTITIONS)), "it was just made, and all is known of it"
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
        for intake in intakes.values():
            assert intake.led_partitions == frozenset(range(PARTITIONS))

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


@pytest.mark.slow
async def test_producer_and_kafka_killed_in_the_middle_no_request_is_seen_in_part(
    own_stack: StackFactory, topic: Callable[..., str]
) -> None:
    """Requests of four keys each, over seven partitions, while first the producer is killed, then Kafka.

    What was answered 200 is there, whole; what was answered "nothing was published" is not; nothing is there in part.
    """
    stack = await asyncio.to_thread(own_stack)
    name = topic()
    settings = {"KAFKA_TOPIC_PARTITIONS": "7", "REQUEST_TIMEOUT_SECONDS": "2", "DRAIN_SECONDS": "3"}
    published: set[int] = set()
    refused: set[int] = set()
    numbers = iter(range(10**9))
    headers = {"Content-Type": "application/vnd.kafka.json.v2+json"}

    async def load(url: str, stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, headers=headers) as client:
            while not stop.is_set():
                number = next(numbers)
                rows = [{"key": f"{number}/{n}", "value": number} for n in range(4)]
                try:
                    answer = await client.post(f"/topics/{name}", content=json.dumps({"records": rows}))
                except httpx.TransportError:
                    return  # it was killed, and nobody knows
                if answer.status_code == 200:
                    published.add(number)
                else:
                    assert answer.status_code == 503, answer.text
                    if answer.json()["error_code"] == 50003:
                        refused.add(number)
                    await asyncio.sleep(0.02)

    async def until(more: int, what: set[int]) -> None:
        enough = len(what) + more
        while len(what) < enough:
            await asyncio.sleep(0.02)

    async with serving(stack.environment, name, **settings) as (process, url), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(load(url, asyncio.Event()))
        await until(200, published)
        process.process.kill()
    async with serving(stack.environment, name, **settings) as (process, url):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(load(url, stop))
            await until(200, published)
            await asyncio.to_thread(stack.kafka.kill)
            await until(20, refused)
            await asyncio.to_thread(stack.kafka.start)
            await process.until(200, 60)
            await until(200, published)
            stop.set()
        assert "Traceback" not in process.log, process.log
        process.terminate()
        assert await process.ended() == 0
    seen = Counter(int(record.value) for record in await records_of(stack.kafka.bootstrap, name))
    assert set(seen.values()) == {4}, "in part"
    assert published <= set(seen)
    assert refused.isdisjoint(seen)


async def test_what_was_not_committed_is_ended_at_once_and_never_seen(
    kafka: KafkaService, topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a transaction's batches the last one's acknowledgement is lost: the records are in Kafka, and stay unseen.

    Were it left open, readers of committed records would see nothing more for 65 s.
    """
    name = topic()
    told: list[int | None] = []

    def lost(metadata: object) -> int | None:
        told.append(offset_of(metadata))
        if len(told) == 2:
            raise KafkaError
        return told[-1]

    monkeypatch.setattr("producer.transactions.offset_of", lost)
    async with publishing(kafka.bootstrap, name, request_timeout_seconds=60) as intakes:
        with pytest.raises(Problem) as caught:
            await publish(intakes[name], Records([b"never"] * 2, partitions=[1, 2]))
        assert caught.value.kind is Kind.KAFKA_AWAY
        for number in range(8):  # each of the pool's producers, the replaced one too
            await publish(intakes[name], Records([b"%d" % number] * 2, partitions=[1, 2]))
    seen = Counter(record.value for record in await records_of(kafka.bootstrap, name))
    assert seen == {b"%d" % number: 2 for number in range(8)}
    everything = Counter(record.value for record in await records_of(kafka.bootstrap, name, "read_uncommitted"))
    assert everything - seen == {b"never": 2}


async def test_more_partitions_are_followed_and_each_key_has_its_new_place(
    kafka: KafkaService, topic: Callable[..., str]
) -> None:
    name = topic()
    partitioner = DefaultPartitioner()
    async with publishing(kafka.bootstrap, name, kafka_topic_partitions=2) as intakes:
        intake = intakes[name]
        (place,) = await publish(intake, Records([b"1"], keys=[b"foobar"]))
        assert place.partition == partitioner(b"foobar", [0, 1], [])
        with pytest.raises(Problem) as caught:
            intake.submit_records(Records([b"1"], partitions=[5]), 0)
        assert caught.value.kind is Kind.NO_PARTITION
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            await admin.create_partitions({name: NewPartitions(PARTITIONS)})
        finally:
            await admin.close()
        async with asyncio.timeout(20):
            while intake.partition_count < PARTITIONS:
                await asyncio.sleep(0.05)
        keys = [b"key-%d" % number for number in range(30)]
        for found in (
            await publish(intake, Records(keys, keys=keys)),
            [(await publish(intake, Records([key], keys=[key])))[0] for key in keys],
        ):
            assert [place.partition for place in found] == [
                partitioner(key, list(range(PARTITIONS)), []) for key in keys
            ]


async def test_transactions_that_may_not_be_are_told_and_plain_requests_go_on(
    kafka: KafkaService, topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka takes no transaction as long as this one's (transaction.max.timeout.ms): none can begin."""
    monkeypatch.setattr("producer.transactions.GRACE_SECONDS", 10**6)
    name = topic()
    keys = [b"key-%d" % number for number in range(30)]
    async with publishing(kafka.bootstrap, name, request_timeout_seconds=2) as intakes:
        for _ in range(2):
            with pytest.raises(Problem) as caught:
                await publish(intakes[name], Records(keys, keys=keys))
            assert caught.value.kind is Kind.KAFKA_AWAY
            assert "No Kafka transaction can be begun" in caught.value.detail
        await publish(intakes[name], Records(keys, keys=keys[:1] * 30))
        await intakes[name].submit([b"plain"], [], 0)
        assert intakes[name].budget.payloads == 0


async def test_a_topic_that_goes_away_takes_no_other_with_it(kafka: KafkaService, topic: Callable[..., str]) -> None:
    name, goes = topic(), topic("goes")
    async with publishing(kafka.bootstrap, name, goes, request_timeout_seconds=1) as intakes:
        await intakes[goes].submit([b"1"], [], 0)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([goes])
        finally:
            await admin.close()
        with contextlib.suppress(Problem):  # its batch is stuck, or goes to a topic made anew
            await intakes[goes].submit([b"2"], [], 0)
        for number in range(100):
            with contextlib.suppress(Problem):  # while the producer with the stuck batch is replaced
                await publish(intakes[name], Records([b"%d" % number], keys=[b"%d" % number]))
            await asyncio.sleep(0.02)
        assert intakes[name].acknowledged > 80
        assert intakes[name].led_partitions == frozenset(range(PARTITIONS))
