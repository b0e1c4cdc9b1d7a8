"""The ranges of a replay: --since and --until, as offsets or times, become [start, stop) for each partition."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from headrace.errors import SettingsError
from headrace.kafka import EARLIEST, LATEST

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiokafka import TopicPartition

    from consumer.taking import Bounds
    from headrace.kafka import KafkaCluster

EDGES: Final = ("earliest", "latest")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse(text: str, option: str) -> int | datetime | str:
    """An offset, a time (ISO 8601, UTC where it names no zone), or an edge of the log. Raises SettingsError."""
    if text in EDGES:
        return text
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option} {text!r} is neither an offset (1500), a time (2026-11-22 or 2026-11-22T01:30:00+01:00), "
            f"earliest nor latest"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    """Since 1970, as Kafka counts; exact, which a float of seconds is not."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


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
