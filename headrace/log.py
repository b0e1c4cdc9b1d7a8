"""A topic's log, read and appended to by commands (`verify --deep`, `restore`): no member of a group, no endpoint.

Records are read by aiokafka's own consumer, not by consumer/batches: what checks the archiver shares no code with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    ProducerFenced,
)

from headrace.closing import close_producer, expected
from headrace.errors import HeadraceError
from headrace.kafka import KafkaUnavailable
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from aiokafka import TopicPartition

    from headrace.objects import Range
    from headrace.settings import KafkaSettings

WAIT_MS: Final = 500
STUCK_SECONDS: Final = 60.0
BATCH_BYTES: Final = 512 * 1024
"""Of a record batch, before it is compressed: brokers take 1 MiB by default."""
TRANSACTION_SECONDS: Final = 300
"""A transaction that was left open is aborted by Kafka after so long, should nobody come back."""
APPEND_SECONDS: Final = 120.0
"""For a chunk, and for all that Kafka has to say to it. A new producer is tried then: aiokafka's own waits for ever."""
ABORT_SECONDS: Final = 5.0

_offset = attrgetter("offset")


class OffsetsGone(HeadraceError):
    """Kafka has dropped the first of these offsets."""


def _problem(partition: TopicPartition, error: Exception) -> HeadraceError:
    """What Kafka refuses for good, it refuses the next time, too."""
    text = f"{partition.topic}/{partition.partition}: {type(error).__name__} {error}".rstrip()
    if isinstance(error, BrokerResponseError) and not error.retriable:
        return HeadraceError(text)
    return KafkaUnavailable(text)


class LogReader:
    """Visible records of partitions, range by range. For one task at a time; ranges that join are read at once."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._partition: TopicPartition | None = None
        self._next = -1
        """Where the last range ended: `_ahead` are records from there on, `_position` is what comes after these."""
        self._ahead: list[StoredRecord] = []
        self._position = -1

    async def read(self, partition: TopicPartition, offsets: Range) -> list[StoredRecord]:
        """All records in a range that lies in the log. Raises OffsetsGone or KafkaUnavailable."""
        if partition != self._partition or self._next != offsets.start:
            self._consumer.assign([partition])
            self._consumer.seek(partition, offsets.start)
            self._partition, self._ahead, self._position = partition, [], offsets.start
        self._next = -1  # until it has come to its end
        found = self._ahead
        loop = asyncio.get_running_loop()
        moved = loop.time()
        while self._position < offsets.end:
            more = await self._more(partition)
            position = await self._consumer.position(partition)
            if position > self._position:
                moved = loop.time()
            elif loop.time() - moved > STUCK_SECONDS:
                raise KafkaUnavailable(
                    f"{partition.topic}/{partition.partition}: Kafka told nothing from offset {position} on for "
                    f"{STUCK_SECONDS:.0f} s."
                )
            self._position = position
            found += more
        cut = bisect_left(found, offsets.end, key=_offset)
        self._ahead = found[cut:]
        self._next = offsets.end
        return found[:cut]

    async def _more(self, partition: TopicPartition) -> list[StoredRecord]:
        try:
            fetched = await self._consumer.getmany(partition, timeout_ms=WAIT_MS)
        except OffsetOutOfRangeError as error:
            raise OffsetsGone(f"{partition.topic}/{partition.partition}: {error}") from error
        except (KafkaError, OSError) as error:
            raise _problem(partition, error) from error
        return [
            StoredRecord(record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
            for record in fetched.get(partition, ())
        ]


@contextlib.asynccontextmanager
async def open_reader(settings: KafkaSettings, isolation_level: str) -> AsyncIterator[LogReader]:
    """A reader for as long as the context lasts. Raises KafkaUnavailable."""
    consumer = AIOKafkaConsumer(
        **settings.kafka_options(),
        client_id="headrace-reader",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=isolation_level,
    )
    try:
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            raise KafkaUnavailable(f"Kafka does not answer: {type(error).__name__} {error}".rstrip()) from error
        yield LogReader(consumer)
    finally:
        await consumer.stop()


class LogWriter:
    """Appends to partitions, a transaction each call, and commits in the same one how far that has come (KIP-98).

    `group` is whose offsets tell it. One that failed is of no use any more.
    """

    def __init__(self, producer: AIOKafkaProducer, group: str) -> None:
        self._producer = producer
        self._group = group

    async def append(
        self, partition: TopicPartition, records: Sequence[StoredRecord], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """All records and all offsets, or nothing of them, in Kafka on all in-sync replicas.

        Raises KafkaUnavailable, or HeadraceError for a record that the topic does not take.
        """
        try:
            async with asyncio.timeout(APPEND_SECONDS):
                await self._fill(partition, records, offsets)
                await self._producer.commit_transaction()
        except ProducerFenced as error:
            raise HeadraceError(f"Another one writes as {self._group} now: this one stops.") from error
        except (KafkaError, OSError) as error:
            raise _problem(partition, error) from error

    async def _fill(
        self, partition: TopicPartition, records: Sequence[StoredRecord], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Begin a transaction, and return when all that belongs to it is acknowledged; else it is aborted."""
        await self._producer.begin_transaction()
        try:
            sent = []
            position = 0
            while position < len(records):
                count, acknowledged = await self._send(partition, records, position)
                sent.append((records[position].offset, records[position + count - 1].offset, acknowledged))
                position += count
            for first, last, acknowledged in sent:
                try:
                    await acknowledged
                except MessageSizeTooLargeError as error:
                    raise HeadraceError(
                        f"{partition.topic}/{partition.partition} does not take the records that were at offsets "
                        f"{first} to {last}: raise its max.message.bytes ({error})."
                    ) from error
            await self._producer.send_offsets_to_transaction(dict(offsets), self._group)
        except BaseException:
            # Left open, it would hold up the topic's readers until Kafka's own time-out. A producer that was fenced
            # fails on an assertion of its own; TimeoutError is an OSError.
            with contextlib.suppress(KafkaError, OSError, AssertionError):
                async with asyncio.timeout(ABORT_SECONDS):
                    await self._producer.abort_transaction()
            raise

    async def _send(
        self, partition: TopicPartition, records: Sequence[StoredRecord], position: int
    ) -> tuple[int, asyncio.Future[object]]:
        """One batch of the records from a position on; how many there are in it, and its acknowledgement to come."""
        batch = self._producer.create_batch()
        count = 0
        while position + count < len(records):
            record = records[position + count]
            taken = batch.append(
                timestamp=record.timestamp, key=record.key, value=record.value, headers=list(record.headers)
            )
            if taken is None:
                break
            count += 1
        acknowledged = await self._producer.send_batch(batch, partition.topic, partition=partition.partition)
        acknowledged.add_done_callback(expected)
        return count, acknowledged


@contextlib.asynccontextmanager
async def open_writer(settings: KafkaSettings, name: str, batch_bytes: int = BATCH_BYTES) -> AsyncIterator[LogWriter]:
    """A writer for as long as the context lasts: `name` is its transactional id and its group.

    There is one of a name at a time: a former one is fenced, and what it left open aborted. Raises KafkaUnavailable.
    """
    producer = AIOKafkaProducer(
        **settings.kafka_options(),
        client_id="headrace-writer",
        transactional_id=name,
        transaction_timeout_ms=TRANSACTION_SECONDS * 1000,
        acks="all",
        compression_type="zstd",
        max_batch_size=batch_bytes,
    )
    try:
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            raise KafkaUnavailable(f"Kafka began no transaction: {type(error).__name__} {error}".rstrip()) from error
        yield LogWriter(producer, name)
    finally:
        await close_producer(producer)
