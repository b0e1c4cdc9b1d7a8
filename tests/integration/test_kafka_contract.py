"""Kafka does what the simulation takes for granted: the same cases as tests/simulation/test_kafka_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from consumer.source import Source, new_consumer
from headrace.kafka import KafkaCluster, TopicMissing, open_cluster
from headrace.lifecycle import clock
from headrace.settings import KafkaSettings
from tests.kafka_contract import CASES, logs
from tests.kafka_contract.member import NOBODY, UNKNOWN_MEMBER, committed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from headrace.local.kafka import Kafka
    from tests.services import KafkaService

pytestmark = pytest.mark.stack

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "50",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "50",
}


class OffsetDeleteResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY = 47
    API_VERSION = 0
    SCHEMA = Schema(
        ("error_code", Int16),
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(("name", String("utf-8")), ("partitions", Array(("partition", Int32), ("error_code", Int16)))),
        ),
    )


class OffsetDeleteStruct(RequestStruct):  # type: ignore[misc] # the same
    API_KEY = 47
    API_VERSION = 0
    RESPONSE_TYPE = OffsetDeleteResponse
    SCHEMA = Schema(
        ("group", String("utf-8")), ("topics", Array(("name", String("utf-8")), ("partitions", Array(Int32))))
    )


class OffsetDeleteRequest(Request[OffsetDeleteStruct]):  # type: ignore[misc] # the same
    """What kafka-consumer-groups.sh --delete-offsets sends; aiokafka lacks it."""

    API_KEY = 47

    def __init__(self, group: str, topics: list[tuple[str, list[int]]]) -> None:
        self._group = group
        self._topics = topics

    def build(self, request_struct_class: type[OffsetDeleteStruct]) -> OffsetDeleteStruct:
        return request_struct_class(self._group, self._topics)


class Connection:
    """A client of its own: a join that waits holds up whatever else is asked on its connection."""

    def __init__(self, client: AIOKafkaClient, group: str) -> None:
        self._client = client
        self._group = group
        self._node: int | None = None

    async def ask(self, request: Any) -> Any:
        return await self._client.send(self._node, request)

    async def find_coordinator(self) -> None:
        """That of a fresh broker takes a moment."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(KafkaError):
                    self._node = await self._client.coordinator_lookup(CoordinationType.GROUP, self._group)
                    answer = await self.ask(HeartbeatRequest(self._group, 0, NOBODY))
                    if answer.error_code == UNKNOWN_MEMBER:
                        return
                await asyncio.sleep(0.1)


class Transaction:
    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def append(self, *values: bytes) -> None:
        for value in values:
            await self._producer.send_and_wait(self._topic, value, partition=0)

    async def end(self, *, commit: bool) -> None:
        await (self._producer.commit_transaction() if commit else self._producer.abort_transaction())


class Side:
    def __init__(
        self, options: dict[str, Any], cluster: KafkaCluster, topic: str, stack: contextlib.AsyncExitStack
    ) -> None:
        self.topic, self.group, self.cluster = topic, f"group-{topic}", cluster
        self._options = options
        self._stack = stack

    async def connect(self) -> Connection:
        client = AIOKafkaClient(**self._options, request_timeout_ms=60_000)
        await client.bootstrap()
        self._stack.push_async_callback(client.close)
        connection = Connection(client, self.group)
        await connection.find_coordinator()
        return connection

    def source(self, *, session_seconds: float) -> Source:
        return Source(
            options=self._options,
            group=self.group,
            topics=[self.topic],
            isolation_level="read_committed",
            session_timeout_seconds=session_seconds,
            give_back_seconds=1,
            clock=clock,
            new_consumer=new_consumer,
        )

    @contextlib.asynccontextmanager
    async def _producer(self, **more: Any) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(**self._options, acks="all", **more)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._options)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def append(self, *values: bytes) -> None:
        async with self._producer() as producer:
            for value in values:
                await producer.send_and_wait(self.topic, value, partition=0)

    async def begin(self) -> Transaction:
        producer = await self._stack.enter_async_context(self._producer(transactional_id=self.topic))
        await producer.begin_transaction()
        return Transaction(producer, self.topic)

    async def compact(self, *values: bytes) -> int:
        end = 0
        async with self._producer() as producer, asyncio.timeout(60):
            while True:
                for value in values:
                    end = (await producer.send_and_wait(self.topic, value, b"key", partition=0)).offset + 1
                if await self._count() < end:
                    return end

    async def _count(self) -> int:
        async with logs.reading(self) as source:
            _, end = await logs.log_ends(self)
            return len(await logs.read(self, source, 0, end))

    async def delete_before(self, offset: int) -> None:
        async with self._admin() as admin:
            await admin.delete_records({TopicPartition(self.topic, 0): RecordsToDelete(offset)})

    async def delete_topic(self) -> None:
        async with self._admin() as admin:
            await admin.delete_topics([self.topic])
        async with asyncio.timeout(20):
            with contextlib.suppress(TopicMissing):
                while True:
                    await self.cluster.topic(self.topic)
            while (await committed(self))[0] >= 0:  # they go a moment later
                await asyncio.sleep(0.05)

    async def make_topic(self, **config: str) -> None:
        async with self._admin() as admin:
            answer = await admin.create_topics([NewTopic(self.topic, 1, 1, topic_configs=config)])
            assert answer.topic_errors[0][1] == 0, answer
        await self.cluster.ensure_topic(self.topic, partitions=1, replication=1)

    async def delete_offset(self) -> None:
        connection = await self.connect()
        answer = await connection.ask(OffsetDeleteRequest(self.group, [(self.topic, [0])]))
        assert answer.error_code == 0, answer

    async def delete_group(self) -> None:
        connection = await self.connect()
        answer = await connection.ask(DeleteGroupsRequest([self.group]))
        assert answer.results[0][1] == 0, answer


NEEDS_CLEANER = {"what_was_compacted_away_leaves_gaps"}


async def _run(bootstrap: str, topic: str, name: str, **config: str) -> None:
    settings = KafkaSettings(kafka_bootstrap_servers=(bootstrap,))
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster(settings))
        side = Side(settings.kafka_options(), cluster, topic, stack)
        await side.make_topic(**config)
        await CASES[name](side)


@pytest.mark.parametrize("name", sorted(CASES.keys() - NEEDS_CLEANER))
async def test_as_the_simulation_believes(name: str, kafka: KafkaService, topic: Callable[..., str]) -> None:
    await _run(kafka.bootstrap, topic("contract"), name)


@pytest.mark.parametrize("name", sorted(NEEDS_CLEANER))
async def test_as_the_simulation_believes_of_a_log_that_is_cleaned(
    name: str, busy_kafka: Kafka, topic: Callable[..., str]
) -> None:
    await _run(busy_kafka.bootstrap, topic("contract"), name, **COMPACTED)
