"""Records out of aiokafka's fetcher a batch at a time, instead of one ConsumerRecord after the other.

`AIOKafkaConsumer.getmany` makes an object with eleven fields for each record, inside two generators: more than half of
what reading cost. The records that its decoder makes, in C, are all that is wanted. Which of them are visible follows
Kafka's rules (KIP-98): control batches, and with read_committed those of aborted transactions, hold none.

Inner parts used (tests/unit/test_aiokafka_parts.py fails when a new version moves them): the fetcher's client with its
connections, its buffered results, their batches and list of aborted transactions.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchError, FetchResult
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException, KafkaError
from aiokafka.protocol.fetch import FetchRequest

from consumer.checksum import is_intact
from consumer.frames import gather

if TYPE_CHECKING:
    from headrace.record import Record

DEFAULT: Final = ConnectionGroup.DEFAULT

_offset = attrgetter("offset")


class BatchConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka is not typed
    """AIOKafkaConsumer whose `getmany` gives the decoder's own records (offset, timestamp, key, value, headers)."""

    async def start(self) -> None:
        await super().start()
        self._checked = self._fetcher._client = CheckedClient(self._client)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[Record]]:
        """As aiokafka's, with its errors, and with a KafkaError when the fetcher behind it has ended.

        There is no default for `max_records`.
        """
        assert max_records is not None
        deadline = time.monotonic() + timeout_ms / 1000
        subscription, fetcher = self._subscription, self._fetcher
        with subscription.fetch_context():
            while True:
                if self._closed:
                    raise ConsumerStoppedError
                self._coordinator.check_errors()
                if fetcher.error_future.done():
                    fetcher.error_future.result()
                    raise KafkaError("the fetcher has ended")  # not by an error
                if subscription.reassignment_in_progress:
                    await subscription.wait_for_assignment()
                found = self._drain(partitions, max_records)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                waiter = fetcher._create_fetch_waiter()
                try:
                    await asyncio.wait((waiter,), timeout=left)
                finally:
                    waiter.cancel()
                if waiter.done() and not waiter.cancelled():
                    waiter.result()  # the fetcher has ended, and tells why

    def _drain(self, partitions: tuple[TopicPartition, ...], most: int) -> dict[TopicPartition, list[Record]]:
        """What is buffered of these partitions (all, if none is named); one's error only when that is nothing."""
        buffered: dict[TopicPartition, Any] = self._fetcher._records
        found: dict[TopicPartition, list[Record]] = {}
        for partition in list(buffered):
            if partitions and partition not in partitions:
                if not self._subscription.is_assigned(partition):
                    del buffered[partition]
                continue
            result = buffered[partition]
            if isinstance(result, FetchError):
                if found:
                    break  # the next call tells
                self._forget(partition)
                result.check_raise()
            break_cycle(result)
            fetched = result._partition_records
            if not result.check_assignment(partition):
                self._forget(partition)
                continue
            doubtful = partition in self._checked.doubtful
            records = take(fetched, most, check=doubtful)
            result._update_position()
            if not has_more(fetched):
                self._forget(partition)
            if records:
                found[partition] = records
                most -= len(records)
                if most == 0:
                    break
        return found

    def _forget(self, partition: TopicPartition) -> None:
        """Make room for the partition's next fetch, which then begins."""
        del self._fetcher._records[partition]
        self._fetcher._notify(self._fetcher._wait_consume_future)


def break_cycle(result: Any) -> None:
    """Let a buffered fetch go with its last reference: aiokafka's iterator over it holds its owner, and up to a MiB."""
    if isinstance(result, FetchResult) and result._partition_records is not None:
        result._partition_records._records_iterator = None


class CheckedClient:
    """A fetcher's client: fetches come whole, and their checksums are looked at. All else is left to the client behind.

    `doubtful` are partitions of which something was not intact: there, batches are to be checked one by one, so that
    the one at fault is told, and what stands before it is stored.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.doubtful: set[TopicPartition] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest) and (connection := self._client._conns.get((node, DEFAULT))) is not None:
            gather(connection)
        response = await self._client.send(node, request, **options)
        if isinstance(request, FetchRequest):
            for topic, partitions in response.topics:
                for partition, *_, record_set in partitions:
                    if record_set and not is_intact(record_set):
                        self.doubtful.add(TopicPartition(topic, partition))
        return response


def take(fetched: Any, most: int, *, check: bool) -> list[Record]:
    """The next visible records of an aiokafka PartitionRecords, `most` of them at most; moves its position.

    `check`: look at checksums, which nobody has done before. Raises CorruptRecordException, and what decoding raises.
    The position stands before the batch at fault then, or in it before what was not taken, and what these calls took is
    lost to their caller.
    """
    found: list[Record] = []
    while len(found) < most:
        batch, records = vars(fetched).get("open_batch") or _next_batch(fetched, check)
        if batch is None:
            break
        wanted = most - len(found)
        taken: list[Record] = list(islice(records, wanted))
        if len(taken) < wanted:
            fetched.open_batch = None
            end = batch.next_offset  # the header's: its last records may have been compacted away
        else:
            fetched.open_batch = batch, records
            end = taken[-1].offset + 1
        if taken and taken[0].offset < fetched.next_fetch_offset:  # a fetch may begin in the middle of a batch
            del taken[: bisect_left(taken, fetched.next_fetch_offset, key=_offset)]
        found += taken
        fetched.next_fetch_offset = max(fetched.next_fetch_offset, end)
    return found


def has_more(fetched: Any) -> bool:
    """Whether `take` might give more."""
    return vars(fetched).get("open_batch") is not None or fetched._records.has_next()


def _next_batch(fetched: Any, check: bool) -> tuple[Any, Any]:
    """The next visible batch and an iterator over its records; None where there is none."""
    while fetched._records.has_next():
        batch = fetched._records.next_batch()
        if check and not batch.validate_crc():
            raise CorruptRecordException(
                f"{fetched._tp}: a batch at or after offset {fetched.next_fetch_offset} is damaged"
            )
        if _is_visible(fetched, batch):
            return batch, chain(batch)  # a batch itself can't be begun twice
        fetched.next_fetch_offset = batch.next_offset
    return None, None


def _is_visible(fetched: Any, batch: Any) -> bool:
    if fetched._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        fetched._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and fetched._contains_abort_marker(batch):
            fetched._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in fetched._aborted_producers:
            return False
    return not batch.is_control_batch
