"""The ranges of a replay: --since and --until, as offsets or times, become [start, stop) for each partition."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.kafka import EARLIEST, LATEST
from headrace.points import milliseconds, parse

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiokafka import TopicPartition

    from consumer.taking import Bounds
    from headrace.kafka import KafkaCluster


async def resolve(cluster: KafkaCluster, partitions: Collection[TopicPartition], since: str, until: str) -> Bounds:
    """[start, stop) of each partition, within what the log has now. `until` itself is not replayed."""
    begin, end = parse(since, "--since"), parse(until, "--until")
    first = await cluster.log_offsets(partitions, EARLIEST)
    last = await cluster.log_offsets(partitions, LATEST)
    by_time = {
        moment: await cluster.log_offsets(partitions, milliseconds(moment))
        for moment in {begin, end}
        if isinstance(moment, datetime)
    }

    def offset(point: int | datetime | str, partition: TopicPartition) -> int:
        if point == "earliest":
            wanted = first[partition]
        elif point == "latest":
            wanted = last[partition]
        elif isinstance(point, datetime):
            wanted = by_time[point].get(partition, last[partition])
        else:
            assert isinstance(point, int)
            wanted = point
        return min(max(wanted, first[partition]), last[partition])

    bounds = {}
    for partition in partitions:
        start = offset(begin, partition)
        bounds[partition] = (start, max(start, offset(end, partition)))
    return bounds


def replay_group(topic: str, bucket: str, prefix: str) -> str:
    """A replay's own group, the same for the same place: a replay that was interrupted goes on where it stopped."""
    place = hashlib.sha256(f"{bucket}/{prefix}/{topic}".encode()).hexdigest()[:8]
    return f"headrace-replay-{topic}-{place}"
