"""An archive's records on their way back into Kafka: chunk by chunk, a transaction each, or several for long ones.

How far each partition has come is committed in the same transaction as the records, as the offset of a group of the
restore's own (KIP-98). So whatever kills it, the next run goes on behind the last record that is there.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition

from headrace.archive import read_chunk
from headrace.kafka import KafkaUnavailable
from headrace.log import BATCH_BYTES, open_writer
from headrace.s3 import S3Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from headrace.coverage import Chunk, Coverage
    from headrace.kafka import KafkaCluster
    from headrace.log import LogWriter
    from headrace.objects import Range
    from headrace.record import StoredRecord
    from headrace.s3 import ObjectStore
    from headrace.settings import KafkaSettings

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 8
"""In a row without a step forward; some two minutes with their pauses, beside what each waits for Kafka."""
PAUSE_SECONDS: Final = 5.0

PORTION_BYTES: Final = 32 * 1024 * 1024
"""Of values, in one transaction at most: it is over long before Kafka would give it up."""

Step = tuple["TopicPartition", "Sequence[StoredRecord]", int]
"""What one transaction appends to a partition, and the archive's offset that it has come to then."""


class Restoring:
    """One topic's archive into the partitions of another topic that have the same numbers."""

    def __init__(
        self,
        coverages: Mapping[int, Coverage],
        spans: Mapping[int, Range],
        *,
        settings: KafkaSettings,
        store: ObjectStore,
        cluster: KafkaCluster,
        topic: str,
        name: str,
        progress: Callable[[str], None],
    ) -> None:
        """`spans` are what is restored of each partition, `topic` is written to.

        `name` is the group and the transactional id, the same for the same restore.
        """
        self._coverages = coverages
        self._spans = spans
        self._settings = settings
        self._store = store
        self._cluster = cluster
        self._topic = topic
        self._name = name
        self._progress = progress
        self.records = dict.fromkeys(spans, 0)
        """Restored by this run, by partition."""

    async def run(self, check: Callable[[bool], Awaitable[None]]) -> None:
        """Until all spans are restored. `check` raises what forbids it; it is told whether a part of them is already.

        Raises KafkaUnavailable or S3Unavailable when one is away for long, and HeadraceError for what is refused.
        """
        failures = 0
        while True:
            before = self._total
            try:
                async with open_writer(self._settings, self._name, await self._batch_bytes()) as writer:
                    await self._go_on(writer, check)
            except (KafkaUnavailable, S3Unavailable) as error:
                failures = 1 if self._total > before else failures + 1
                if failures == ATTEMPTS:
                    raise
                logger.warning("the restore waits %g s: %s", PAUSE_SECONDS * failures, error)
                await asyncio.sleep(PAUSE_SECONDS * failures)
            else:
                return

    @property
    def _total(self) -> int:
        return sum(self.records.values())

    async def _go_on(self, writer: LogWriter, check: Callable[[bool], Awaitable[None]]) -> None:
        positions = await self._positions(writer, check)
        ahead: asyncio.Queue[Step | None] = asyncio.Queue(maxsize=1)

        async def read() -> None:
            for partition, chunk in in_turn(self._coverages):
                start, stop = positions[partition], self._spans[partition].end
                if chunk.offsets.end <= start or chunk.offsets.start >= stop:
                    continue
                records = [] if chunk.is_gap else await read_chunk(self._store, chunk)
                wanted = [record for record in records if start <= record.offset < stop]
                positions[partition] = min(stop, chunk.offsets.end)
                for some, position in portions(wanted, positions[partition]):
                    await ahead.put((TopicPartition(self._topic, partition), some, position))
            await ahead.put(None)

        async def append() -> None:
            while (step := await ahead.get()) is not None:
                partition, records, position = step
                await writer.append(partition, records, {partition: position})
                self.records[partition.partition] += len(records)
                self._progress(f"{self._total:,} records are back; partition {partition.partition} up to {position:,}")

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
                tasks.create_task(append())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _positions(self, writer: LogWriter, check: Callable[[bool], Awaitable[None]]) -> dict[int, int]:
        """How far each partition has come. The writer is there: nothing that a former run did is undecided any more."""
        partitions = [TopicPartition(self._topic, number) for number in self._spans]
        committed = await self._cluster.committed(self._name, partitions)
        begun = any(offset >= 0 for offset, _ in committed.values())
        await check(begun)
        positions = {
            tp: self._spans[tp.partition].start if offset < 0 else offset for tp, (offset, _) in committed.items()
        }
        if not begun:
            await writer.append(partitions[0], [], positions)  # what comes after it is known to be ours
        return {tp.partition: position for tp, position in positions.items()}

    async def _batch_bytes(self) -> int:
        """Of a record batch before compression: well within what the topic takes."""
        limit = await self._cluster.topic_config(self._topic, "max.message.bytes")
        return BATCH_BYTES if limit is None else min(BATCH_BYTES, int(limit) // 2)


def in_turn(coverages: Mapping[int, Coverage]) -> Iterator[tuple[int, Chunk]]:
    """All chunks, each partition's in order, from one partition after the other: they grow side by side."""
    lines: Iterable[list[tuple[int, Chunk]]] = (
        [(number, chunk) for chunk in coverage.chunks] for number, coverage in coverages.items()
    )
    return (pair for pair in chain.from_iterable(zip_longest(*lines)) if pair is not None)


def portions(
    records: Sequence[StoredRecord], end: int, most_bytes: int = PORTION_BYTES
) -> Iterator[tuple[Sequence[StoredRecord], int]]:
    """A chunk's records, some at a time, and up to which offset it has come with them; `end` with the last."""
    first = size = 0
    for place, record in enumerate(records):
        more = len(record.value or b"")
        if size and size + more > most_bytes:
            yield records[first:place], record.offset
            first, size = place, 0
        size += more
    yield records[first:], end
