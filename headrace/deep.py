"""`headrace verify --deep`: every record of the archive against Kafka's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from headrace.archive import ArchiveError, read_chunk
from headrace.comparison import Comparison
from headrace.errors import HeadraceError
from headrace.kafka import EARLIEST, LATEST
from headrace.log import OffsetsGone
from headrace.objects import Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.coverage import Chunk
    from headrace.findings import PartitionReport, TopicReport
    from headrace.kafka import KafkaCluster
    from headrace.log import LogReader
    from headrace.record import StoredRecord
    from headrace.s3 import ObjectStore


class Deep:
    """Compares one topic, chunk by chunk: memory holds one chunk of each side."""

    def __init__(
        self, store: ObjectStore, cluster: KafkaCluster, reader: LogReader, *, progress: Callable[[str], None]
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._reader = reader
        self._progress = progress

    async def compare(self, report: TopicReport) -> None:
        """Put a comparison into each partition's report. Raises KafkaUnavailable, TopicMissing or S3's errors."""
        topic = await self._cluster.topic(report.topic)
        policy = await self._cluster.topic_config(report.topic, "cleanup.policy")
        if policy is None:
            raise HeadraceError(
                f"The configuration of topic {report.topic} may not be read (DESCRIBE_CONFIGS), and whether it is "
                f"compacted decides what of the archive Kafka must still have."
            )
        for partition in report.partitions:
            partition.comparison = Comparison()
            number = partition.coverage.partition
            if number not in topic.partitions:
                partition.comparison.unread.append(f"Kafka's topic has no partition {number}")
                continue
            await self._partition(TopicPartition(report.topic, number), partition, compacted="compact" in policy)

    async def _partition(self, tp: TopicPartition, report: PartitionReport, *, compacted: bool) -> None:
        assert report.comparison is not None
        end = (await self._cluster.log_offsets([tp], LATEST))[tp]
        for chunk in report.coverage.chunks:
            try:
                archived = [] if chunk.is_gap else await read_chunk(self._store, chunk)
            except ArchiveError as error:
                report.comparison.unread.append(str(error))
                continue
            start, kept = await self._kept(tp, chunk, end)
            report.comparison.add(archived, kept, log_start=start, compacted=compacted)
            counted = report.comparison.equal
            self._progress(f"{tp.topic}/{tp.partition}: {counted:,} records are Kafka's, up to {chunk.offsets.end:,}")

    async def _kept(self, tp: TopicPartition, chunk: Chunk, end: int) -> tuple[int, list[StoredRecord]]:
        """Where the log starts, and its records of a chunk's range."""
        while True:
            start = (await self._cluster.log_offsets([tp], EARLIEST))[tp]
            wanted = Range(max(start, chunk.offsets.start), min(end, chunk.offsets.end))
            if wanted.start >= wanted.end:
                return start, []
            try:
                kept = await self._reader.read(tp, wanted)
            except OffsetsGone:
                await asyncio.sleep(0.1)  # retention was quicker: the log starts later now
            else:
                return start, kept
