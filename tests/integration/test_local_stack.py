"""The embedded Kafka and S3: real, restartable, and gone when their owner is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headrace.errors import HeadraceError
from headrace.local.kafka import Kafka, run_tool
from headrace.local.ports import LOOPBACK, free_ports, is_free
from headrace.local.stack import Stack
from headrace.s3 import S3Refused, S3Store, S3Unavailable, open_store
from headrace.settings import S3Settings, load
from tests.services import kafka_service, s3_service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import StackFactory
    from tests.services import KafkaService, S3Service

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


@pytest.mark.slow
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
        assert await get(store, "a/b") == b"two"

        await asyncio.to_thread(stack.kafka.restart)
        await asyncio.to_thread(stack.s3.restart)
        assert await read_one(stack.kafka.bootstrap, name) == b"one"
        assert await get(store, "a/b") == b"two"


async def get(store: S3Store, key: str) -> bytes | None:
    """SeaweedFS answers 500 for a moment after a start, until its volumes are known."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.get(key)
            except S3Unavailable:
                await asyncio.sleep(0.1)


async def test_several_side_by_side_share_nothing(kafka: KafkaService, own_stack: StackFactory) -> None:
    stack = await asyncio.to_thread(own_stack)
    await create_topic(stack.kafka.bootstrap, "mine")
    assert "mine" not in await topics(kafka.bootstrap)
    assert "mine" in await topics(stack.kafka.bootstrap)


async def topics(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


def test_data_is_found_on_other_ports_too(tmp_path: Path) -> None:
    with contextlib.ExitStack() as later:
        for run in range(2):
            stack = Stack(tmp_path, kafka_port=free_ports(1)[0], s3_port=free_ports(1, twins=True)[0])
            later.callback(stack.kill)
            stack.start()
            if run == 0:
                asyncio.run(create_topic(stack.kafka.bootstrap, "kept"))
                stack.stop()
                (tmp_path / "stack.json").unlink()
        assert "kept" in asyncio.run(topics(stack.kafka.bootstrap))


def test_the_same_ports_are_taken_again_and_others_when_they_are_gone(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    with contextlib.closing(socket.socket()) as squatter:
        try:
            stack.start()
            first = stack.environment
            stack.stop()
            stack = Stack(tmp_path)
            stack.start()
            assert stack.environment == first
            stack.stop()
            squatter.bind(("127.0.0.1", stack.kafka.port))
            squatter.listen()
            stack = Stack(tmp_path)
            stack.start()
            assert stack.environment["KAFKA_BOOTSTRAP_SERVERS"] != first["KAFKA_BOOTSTRAP_SERVERS"]
            assert stack.environment["AWS_ENDPOINT_URL_S3"] == first["AWS_ENDPOINT_URL_S3"]
        finally:
            stack.kill()


def test_a_port_that_is_taken_in_the_last_moment_is_changed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(tmp_path)
    with contextlib.closing(socket.socket()) as squatter:
        squatter.bind((LOOPBACK, 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        (tmp_path / "stack.json").write_text(json.dumps({"ports": {"kafka_controller": taken}}))
        monkeypatch.setattr("headrace.local.stack.is_free", lambda port: port == taken or is_free(port))
        monkeypatch.setattr("headrace.local.kafka.require_free", lambda *_: None)
        try:
            stack.start()
            assert stack.kafka.controller_port != taken
            assert stack.kafka.answers()
        finally:
            stack.kill()


def test_a_kafka_that_does_not_come_up_shows_its_log(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path)
    kafka.start()
    kafka.stop()
    broken = Kafka(tmp_path, port=kafka.port, properties={"num.io.threads": "perhaps"})
    try:
        with pytest.raises(HeadraceError) as caught:
            broken.start()
    finally:
        broken.kill()
    assert "Kafka ended with code 1 instead of coming up" in str(caught.value)
    assert str(tmp_path / "kafka.log") in str(caught.value)
    assert "perhaps" in str(caught.value)


def test_a_kafka_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path)
    try:
        kafka.spawn()
        kafka.child.pause()
        with pytest.raises(HeadraceError, match="did not answer within 0 s"):
            kafka.wait_ready(timeout=0.3)
        assert not kafka.running
    finally:
        kafka.kill()


def test_a_stack_that_fails_leaves_nothing_and_says_which_port(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        stack = Stack(tmp_path, kafka_port=taken.getsockname()[1])
        with pytest.raises(HeadraceError, match=f"Kafka can't listen on 127.0.0.1:{taken.getsockname()[1]}"):
            stack.start()
    assert not stack.s3.running
    assert json.loads((tmp_path / "stack.json").read_bytes())["owner"] is None


async def test_s3_refuses_a_wrong_key(s3: S3Service, service_environ: dict[str, str], monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with open_store(load(S3Settings)) as store:
        with pytest.raises(S3Refused):
            await store.check()


def test_kafkas_own_tools_run(kafka: KafkaService) -> None:
    answer = run_tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", kafka.bootstrap, "--list")
    assert answer.returncode == 0, answer.stderr
    groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    answer = run_tool(groups, "--bootstrap-server", kafka.bootstrap, "--describe", "--group", "nobody")
    assert "nobody" in answer.stdout + answer.stderr


def test_given_addresses_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HEADRACE_TEST_KAFKA": "kafka.example:9092",
        "HEADRACE_TEST_S3_ENDPOINT": "http://s3.example",
        "HEADRACE_TEST_S3_BUCKET": "b",
        "HEADRACE_TEST_S3_ACCESS_KEY": "a",
        "HEADRACE_TEST_S3_SECRET_KEY": "k",
    }.items():
        monkeypatch.setenv(name, value)
    with kafka_service() as kafka, s3_service() as s3:
        assert kafka.bootstrap == "kafka.example:9092"
        assert (s3.endpoint, s3.bucket, s3.access_key, s3.secret_key) == ("http://s3.example", "b", "a", "k")
