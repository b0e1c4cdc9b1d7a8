"""`headrace status` on a real Kafka."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition
from click.testing import CliRunner

from headrace.cli import app
from headrace.kafka import KafkaUnavailable, TopicMissing, open_cluster
from headrace.local.ports import free_ports
from headrace.settings import KafkaSettings, load

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]


async def fill(name: str, *, partitions: int, records: int) -> None:
    settings = load(KafkaSettings)
    async with open_cluster(settings) as cluster:
        await cluster.ensure_topic(name, partitions=partitions, replication=1)
    async with AIOKafkaProducer(**settings.kafka_options(), acks="all") as producer:
        for number in range(records):
            await producer.send_and_wait(name, b"%d" % number, partition=0)


async def commit(name: str, group: str, offset: int, metadata: str) -> None:
    options = load(KafkaSettings).kafka_options()
    async with AIOKafkaConsumer(**options, group_id=group, enable_auto_commit=False) as consumer:
        tp = TopicPartition(name, 0)
        consumer.assign([tp])
        await consumer.commit({tp: OffsetAndMetadata(offset, metadata)})


def as_json(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["status", "--json", *options], catch_exceptions=False)
    assert result.exit_code == 0
    answer = orjson.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def test_a_group_that_has_not_begun(topic: Callable[..., str]) -> None:
    name, group = topic(), topic("group")
    asyncio.run(fill(name, partitions=2, records=3))
    answer = as_json("--topic", name, "--group", group)
    assert (answer["state"], answer["members"], answer["lag"]) == ("Dead", [], 3)
    first, second = answer["partitions"]
    expected = {"partition": 0, "log_start": 0, "log_end": 3, "committed": None, "lag": 3, "claims": 0, "member": None}
    assert first.items() >= expected.items()
    assert (second["partition"], second["lag"]) == (1, 0)
    shown = CliRunner().invoke(app, ["status", "--topic", name, "--group", group]).stdout
    assert "no such group yet" in shown
    assert "3 offsets are in Kafka and not yet in S3." in shown


@pytest.mark.parametrize(
    ("metadata", "claims"),
    [("headrace/1 abc id 2 2 0 5,5,10", 3), ("headrace/1 abc id 2 2 0 -", 0), ("", 0), ("somebody else's", None)],
)
def test_commits_are_shown(topic: Callable[..., str], metadata: str, claims: int | None) -> None:
    name, group = topic(), topic("group")
    asyncio.run(fill(name, partitions=1, records=3))
    asyncio.run(commit(name, group, 2, metadata))
    answer = as_json("--topic", name, "--group", group)
    assert answer["state"] == "Empty"
    assert answer["partitions"][0].items() >= {"committed": 2, "lag": 1, "claims": claims}.items()
    assert CliRunner().invoke(app, ["status", "--topic", name, "--group", group]).exit_code == 0


async def test_members_and_what_they_have(topic: Callable[..., str]) -> None:
    name, group = topic(), topic("group")
    await fill(name, partitions=2, records=1)
    options = load(KafkaSettings).kafka_options()
    async with AIOKafkaConsumer(
        name, **options, group_id=group, client_id="worker", auto_offset_reset="earliest"
    ) as consumer:
        await consumer.getone()  # so it has its assignment
        async with open_cluster(load(KafkaSettings)) as cluster:
            found = await cluster.group(group)
    assert found.state == "Stable"
    assert [(member.client, member.partitions) for member in found.members] == [
        ("worker", (TopicPartition(name, 0), TopicPartition(name, 1)))
    ]


async def test_only_what_is_asked_for_is_told(topic: Callable[..., str]) -> None:
    async with open_cluster(load(KafkaSettings)) as cluster:
        assert await cluster.committed(topic("group"), []) == {}
        nobody = TopicPartition(topic(), 5)
        assert await cluster.committed(topic("group"), [nobody]) == {nobody: (-1, "")}


def test_a_missing_topic_is_told(topic: Callable[..., str]) -> None:
    result = CliRunner().invoke(app, ["status", "--topic", topic()])
    assert isinstance(result.exception, TopicMissing)
    assert result.exception.exit_code == 1


def test_kafka_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{port}")
    result = CliRunner().invoke(app, ["status", "--topic", "t"])
    assert isinstance(result.exception, KafkaUnavailable)
    assert f"Kafka at 127.0.0.1:{port} (KAFKA_BOOTSTRAP_SERVERS) does not answer" in str(result.exception)
