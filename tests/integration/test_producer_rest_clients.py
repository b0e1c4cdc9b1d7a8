"""An existing client of the REST proxy's v2 call, as its package has it, at the real producer: kafka-bridge-client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from kafka_bridge_client import KafkaBridgeProducer
from kafka_bridge_client.exceptions import KafkaBridgeTopicNotFoundError, ValidationError

from tests.producer_process import records_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import KafkaService

pytestmark = pytest.mark.stack


async def test_what_a_client_of_strimzis_bridge_sends_arrives_and_it_understands_the_answers(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    batches: list[tuple[bool, list[Any]]] = [
        (False, [{"key": "user", "value": {"a": [1, "é"]}}, {"value": "text"}, {"key": "other", "value": None}]),
        (True, [{"key": "user", "value": b"\0\xff"}, {"value": b"bytes"}]),
    ]
    async with serving(service_env, name) as (process, url):
        producer = KafkaBridgeProducer(url, timeout=30)
        for binary, records in batches:
            assert await asyncio.to_thread(producer.sends, name, records, binary=binary)
        with pytest.raises(KafkaBridgeTopicNotFoundError):
            await asyncio.to_thread(producer.sends, "nowhere", [{"value": 1}])
        with pytest.raises(ValidationError):
            await asyncio.to_thread(producer.sends, name, [{"value": 1, "timestamp": 5}])
        assert "Traceback" not in process.log
    found = await records_of(kafka.bootstrap, name)
    stored = sorted((record.key or b"", record.value) for records in found.values() for record in records)
    assert stored == [
        (b"", b'"text"'),
        (b"", b"bytes"),
        (b'"other"', None),
        (b'"user"', rb'{"a": [1, "\u00e9"]}'),
        (b"user", b"\0\xff"),
    ]
