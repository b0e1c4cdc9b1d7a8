"""The embedded Kafka and S3: real, restartable, and gone when their owner is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headrace.s3 import open_store
from headrace.settings import S3Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import StackFactory
    from tests.services import KafkaService

pytestmark = pytest.mark.stack


async def create_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1)])
    finally:
        await admin.close()


async def publish(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, value)


async def read_one(bootstrap: str, topic: str) -> bytes | None:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        record = await asyncio.wait_for(consumer.getone(), 20)
        value: bytes | None = record.value
        return value


async def test_shared_kafka_keeps_a_record(kafka: KafkaService, topic: Callable[..., str]) -> None:
    name = topic()
    await create_topic(kafka.bootstrap, name)
    await publish(kafka.bootstrap, name, b"one")
    assert await read_one(kafka.bootstrap, name) == b"one"


async def test_data_and_addresses_survive_kill_and_restart(
    own_stack: StackFactory, topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = await asyncio.to_thread(own_stack)
    for key, value in stack.s3.environment.items():
        monkeypatch.setenv(key, value)
    name = topic()
    await create_topic(stack.kafka.bootstrap, name)
    await publish(stack.kafka.bootstrap, name, b"one")
    async with open_store(load(S3Settings)) as store:
        await store.put("a/b", b"two", metadata={"n": "1"}, content_type="text/plain")

        await asyncio.to_thread(stack.kafka.kill)
        await asyncio.to_thread(stack.s3.kill)
        assert not stack.kafka.running
        assert not stack.s3.running
        await asyncio.to_thread(stack.s3.start)
        await asyncio.to_thread(stack.kafka.start)
        assert await read_one(stack.kafka.bootstrap, name) == b"one"
        assert await store.get("a/b") == b"two"

        await asyncio.to_thread(stack.kafka.restart)
        await asyncio.to_thread(stack.s3.restart)
        assert await read_one(stack.kafka.bootstrap, name) == b"one"
        assert await store.get("a/b") == b"two"
