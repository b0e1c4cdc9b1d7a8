"""Archivers with default time-outs on one large topic: what the other sinks' tests are measured with."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer

from headrace.archive import read_chunk, survey
from headrace.errors import HeadraceError
from tests.chaos.cast import Cast, Member
from tests.chaos.ledger import digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiokafka import TopicPartition

    from tests.trial import Trial

RECORD_BYTES: Final = 220
BATCH: Final = 400
ASK_SECONDS: Final = 0.05


class Fleet:
    """`count` consumers of one topic, which flush by a time of 2 s; all else is at its default."""

    def __init__(self, trial: Trial, count: int, s3_endpoint: str, **settings: str) -> None:
        self.trial = trial
        self.cast = Cast()
        own = {
            "KAFKA_TOPIC": trial.topic,
            "KAFKA_GROUP": trial.group,
            "S3_PREFIX": trial.prefix,
            "AWS_ENDPOINT_URL_S3": s3_endpoint,
            "CHUNK_MAX_SECONDS": "2",
            **settings,
        }
        for number in range(count):
            log = trial.folder / f"{trial.topic}-{number}.log"
            self.cast.members.append(
                Member(f"consumer {number}", ["consumer"], {**trial.environment, **own}, log, most_seconds=60)
            )

    def start(self) -> None:
        for member in self.cast.members:
            member.start()

    async def kill(self, *numbers: int) -> None:
        """Kill -9, and start again at once, as a supervisor would. All of them when none is named."""
        chosen = [self.cast.members[number] for number in numbers] or self.cast.members
        await asyncio.gather(*(member.kill() for member in chosen))
        for member in chosen:
            member.start()

    async def end_and_start(self, *numbers: int) -> None:
        """SIGTERM, and start again as soon as it has ended."""
        chosen = [self.cast.members[number] for number in numbers] or self.cast.members

        async def one(member: Member) -> None:
            await member.end()
            member.start()

        await asyncio.gather(*(one(member) for member in chosen))

    async def end(self) -> list[str]:
        """SIGTERM to all; what there is to complain of."""
        await asyncio.gather(*(member.end() for member in self.cast.members))
        return self.cast.complaints()

    async def durable(self) -> dict[TopicPartition, int]:
        """What is committed, asked until Kafka answers."""
        while True:
            with contextlib.suppress(HeadraceError, OSError):
                return {tp: offset for tp, (offset, _) in (await self.trial.committed()).items()}
            await asyncio.sleep(ASK_SECONDS)

    async def moved(self, since: Mapping[TopicPartition, int], began: float) -> tuple[float, float]:
        """Seconds from `began` until something, and until every partition, is committed beyond `since`."""
        first: float | None = None
        while True:
            ahead = [offset > since[tp] for tp, offset in (await self.durable()).items()]
            if first is None and any(ahead):
                first = time.monotonic() - began
            if all(ahead):
                return first or 0.0, time.monotonic() - began
            if time.monotonic() - began > 600:
                raise AssertionError(f"not running again after 600 s\n{self.trial.logs()}")
            await asyncio.sleep(ASK_SECONDS)


async def publish(trial: Trial, records: int, *, a_second: float = 0.0, stop: asyncio.Event | None = None) -> int:
    """Records of 220 bytes, in turn to all partitions, by the batch; at most so many a second. Returns their number.

    Until there are as many as asked for, or `stop` is set.
    """
    began, number, turn = time.monotonic(), 0, itertools.cycle(range(trial.partitions))
    flying: list[asyncio.Future[Any]] = []
    async with trial.producer(linger_ms=0, max_batch_size=256 * 1024, request_timeout_ms=120_000) as producer:
        while number < records and not (stop is not None and stop.is_set()):
            builder = producer.create_batch()
            now = int(time.time() * 1000)
            count = min(BATCH, records - number)
            for n in range(number, number + count):
                value = b'{"n":%d,"pad":"%b"}' % (n, b"%032x" % (n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128) * 7)
                builder.append(timestamp=now, key=None, value=value[: RECORD_BYTES - 2] + b'"}')
            builder.close()
            number += count
            flying.append(await producer.send_batch(builder, trial.topic, partition=next(turn)))
            if len(flying) >= 48:
                await asyncio.gather(*flying)
                flying.clear()
            if a_second:
                await asyncio.sleep(max(0.0, began + number / a_second - time.monotonic()))
        await asyncio.gather(*flying)
    return number


async def compare(trial: Trial) -> Counter[str]:
    """S3 against Kafka, a partition at a time: records, copies, missing, different, objects."""
    found: Counter[str] = Counter(records=0, copies=0, missing=0, different=0, objects=0)
    async with trial.store() as store:
        listing = await survey(store, prefix=trial.prefix, topic=trial.topic)
        for tp in trial.tps:
            log = [content async for content in _log(trial, tp)]
            found["records"] += len(log)
            seen = bytearray(len(log))
            coverage = listing.coverage(tp.partition)
            found["objects"] += coverage.objects
            for chunk in coverage.chunks:
                for record in await read_chunk(store, chunk):
                    content = digest(record.timestamp, record.key, record.value, record.headers)
                    if record.offset >= len(log) or log[record.offset] != content:
                        found["different"] += 1
                    elif seen[record.offset]:
                        found["copies"] += 1
                    else:
                        seen[record.offset] = 1
            found["missing"] += seen.count(0)
    return found


async def _log(trial: Trial, tp: TopicPartition) -> AsyncIterator[bytes]:
    """Digests of a partition's records by offset, from 0 to its end."""
    consumer = AIOKafkaConsumer(**trial.kafka_settings.kafka_options(), auto_offset_reset="none")
    await consumer.start()
    try:
        consumer.assign([tp])
        consumer.seek(tp, 0)
        end, at = (await consumer.end_offsets([tp]))[tp], 0
        while at < end:
            for record in (await consumer.getmany(tp, timeout_ms=500)).get(tp, ()):
                assert record.offset == at
                at += 1
                yield digest(record.timestamp, record.key, record.value, record.headers)
    finally:
        await consumer.stop()
