"""Topics, groups and a prefix of the benchmark's own, and how they go away. Only here is aiokafka imported."""

from __future__ import annotations

import contextlib
import copy
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from headrace.errors import HeadraceError
from headrace.kafka import KafkaUnavailable, open_cluster
from headrace.s3 import S3Refused, S3Unavailable, open_store

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from headrace.settings import KafkaSettings, S3Settings

NAME: Final = "headrace-bench"
BATCH_BYTES: Final = 100_000
"""Record batches of a prefilled topic before packing; what `headrace serve` makes under load is of that size."""
BATCHES_IN_FLIGHT: Final = 32
SEGMENT_BYTES: Final = 64 * 1024 * 1024
HIDDEN_MS: Final = 600_000
"""How long records may stay hidden; brokers allow 15 minutes unless told otherwise."""


class Workspace:
    """Makes what a benchmark needs under names that begin with `headrace-bench-`, and takes only those away."""

    def __init__(self, kafka: KafkaSettings, s3: S3Settings | None, *, partitions: int) -> None:
        self._kafka = kafka
        self._s3 = s3
        self.partitions = partitions
        self.run = f"{NAME}-{secrets.token_hex(4)}"
        self.prefix = "/".join(part for part in (s3.s3_prefix if s3 is not None else "", self.run) if part)
        """All objects of this run are below it."""
        self.topics: list[str] = []
        self.groups: list[str] = []

    def of_partitions(self, partitions: int) -> Workspace:
        """The same run and the same belongings, whose further topics have so many partitions."""
        other = copy.copy(self)  # the lists are shared: either one cleans up after both
        other.partitions = partitions
        return other

    async def topic(self, hint: str, *, keep_bytes: int | None = None) -> str:
        """A new topic. With `keep_bytes`, a partition's oldest segments go once it holds more."""
        name = f"{self.run}-{hint}"
        limits = {} if keep_bytes is None else {"retention.bytes": str(keep_bytes)}
        config = {"segment.bytes": str(SEGMENT_BYTES), **limits}
        async with self._admin() as admin:
            new = NewTopic(name, self.partitions, 1, topic_configs=config)
            new.replication_factor = self._kafka.kafka_topic_replication  # -1: as the brokers are set
            answer = await admin.create_topics([new])
        for _, code, *message in answer.topic_errors:
            if code:
                raise HeadraceError(f"Topic {name} could not be created (error {code}): {' '.join(map(str, message))}")
        self.topics.append(name)
        return name

    def group(self, hint: str) -> str:
        """A name for a consumer group."""
        name = f"{self.run}-{hint}"
        self.groups.append(name)
        return name

    async def fill(self, topic: str, payloads: Sequence[bytes], count: int) -> None:
        """`count` records, payloads in turn, spread evenly over the partitions in batches packed with lz4."""
        producer = self._producer(payloads)
        try:
            await producer.start()
            await self._send(producer, topic, payloads, count)
        except KafkaError as error:
            raise KafkaUnavailable(f"Topic {topic} could not be filled: {type(error).__name__} {error}") from error
        finally:
            await producer.stop()

    @contextlib.asynccontextmanager
    async def hidden(
        self, topic: str, payloads: Sequence[bytes], count: int
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Fill a topic, but in a transaction: readers of what is committed see nothing of it until the yielded call.

        So they can all be up, with their partitions dealt out, before there is anything to do for them.
        """
        producer = self._producer(payloads, transactional_id=topic, transaction_timeout_ms=HIDDEN_MS)
        try:
            await producer.start()
            await producer.begin_transaction()
            await self._send(producer, topic, payloads, count)
            yield producer.commit_transaction
        except KafkaError as error:
            raise KafkaUnavailable(f"Topic {topic} could not be filled: {type(error).__name__} {error}") from error
        finally:
            await producer.stop()

    def _producer(self, payloads: Sequence[bytes], **options: Any) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._kafka.kafka_options(),
            acks="all",
            compression_type="lz4",
            linger_ms=0,
            max_batch_size=2 * BATCH_BYTES + max(map(len, payloads)),
            **options,
        )

    async def _send(self, producer: AIOKafkaProducer, topic: str, payloads: Sequence[bytes], count: int) -> None:
        a_batch = max(1, BATCH_BYTES // len(payloads[0]))
        sent: list[asyncio.Future[Any]] = []
        for partition in range(self.partitions):
            share = count // self.partitions + (partition < count % self.partitions)
            for first in range(0, share, a_batch):
                builder = producer.create_batch()
                now = int(time.time() * 1000)
                for index in range(first, min(first + a_batch, share)):
                    value = payloads[(index * self.partitions + partition) % len(payloads)]
                    builder.append(timestamp=now, key=None, value=value)
                builder.close()
                sent.append(await producer.send_batch(builder, topic, partition=partition))
                if len(sent) >= BATCHES_IN_FLIGHT:
                    await sent.pop(0)
        for future in sent:
            await future

    async def clean(self) -> list[str]:
        """Remove objects, topics and groups. Returns what could not be removed, a sentence each."""
        left = []
        if self._s3 is not None:
            try:
                async with open_store(self._s3) as store:
                    keys = [item.key async for item in store.list(f"{self.prefix}/")]
                    for key in keys:
                        await store.delete(key)
            except (S3Refused, S3Unavailable) as error:
                left.append(f"objects below s3://{self._s3.s3_bucket}/{self.prefix}/ ({error})")
        for name in self.topics:
            try:
                async with self._admin() as admin:
                    answer = await admin.delete_topics([name])
                if code := answer.topic_error_codes[0][1]:
                    left.append(f"topic {name} (error {code})")
            except KafkaUnavailable as error:
                left.append(f"topic {name} ({error})")
        for name in self.groups:
            try:
                async with open_cluster(self._kafka) as cluster:
                    await cluster.delete_group(name)
            except HeadraceError as error:
                left.append(f"group {name} ({error})")
        return left

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._kafka.kafka_options())
        try:
            await admin.start()
            yield admin
        except (KafkaError, OSError) as error:
            raise KafkaUnavailable(f"Kafka did not answer: {type(error).__name__} {error}".rstrip()) from error
        finally:
            await admin.close()
