"""Events of each kind through a real producer into a real Kafka; the CloudEvents SDK sends and reads them back."""

from __future__ import annotations

import gzip
import json
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import zstandard
from cloudevents.core.bindings import http as http_binding
from cloudevents.core.bindings import kafka as kafka_binding
from cloudevents.core.v1.event import CloudEvent

from tests.producer_process import records_of, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiokafka.structs import ConsumerRecord

    from tests.services import KafkaService

pytestmark = pytest.mark.stack


def sdk_event(number: int, data: Any, media_type: str, **extensions: str) -> CloudEvent:
    return CloudEvent(
        {
            "id": f"event {number} €",
            "source": "/tests?a=1",
            "specversion": "1.0",
            "type": "test.event",
            "time": datetime(2026, 11, 22, 1, 2, 3, 456000, tzinfo=UTC),
            "subject": 'a "subject" of 100 %',
            "datacontenttype": media_type,
            **extensions,
        },
        data,
    )


def read_back(record: ConsumerRecord) -> CloudEvent:
    message = kafka_binding.KafkaMessage(dict(record.headers), record.key, record.value or b"")
    event = kafka_binding.from_kafka_event(message)
    assert isinstance(event, CloudEvent)
    return event


async def test_the_sdks_events_are_read_back_by_the_sdk_from_kafka(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    kinds: list[tuple[Any, str]] = [
        ({"a": [1, None, "x€"], "big": 2**70}, "application/json"),
        ('text, "quoted"\n', "text/plain"),
        (b"\x89PNG\0\xff", "image/png"),
    ]
    sent: dict[str, CloudEvent] = {}

    def event(data: Any, media_type: str, **extensions: str) -> CloudEvent:
        made = sdk_event(len(sent), data, media_type, **extensions)
        sent[made.get_id()] = made
        return made

    async with (
        serving(service_env, name, KEYED_REQUESTS="transaction") as (_, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):

        async def post(body: bytes, headers: dict[str, str], accepted: int) -> None:
            answer = await client.post("/events", content=body, headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"accepted": accepted}), answer.text

        for data, media_type in kinds:
            for write in (http_binding.to_structured_event, http_binding.to_binary_event):
                message = write(event(data, media_type, myextension="é %41", partitionkey=f"k{len(sent)}"))
                await post(message.body, message.headers, 1)
        batch = [event(*kinds[number % 3], partitionkey=f"k{number % 5}") for number in range(20)]
        body = b"[" + b",".join(http_binding.to_structured_event(each).body for each in batch) + b"]"
        await post(
            gzip.compress(body), {"content-type": "application/cloudevents-batch+json", "content-encoding": "gzip"}, 20
        )
        broken = body[:-1] + b',{"id":"21"}]'
        refused = await client.post(
            "/events", content=broken, headers={"content-type": "application/cloudevents-batch+json"}
        )
        assert (refused.status_code, refused.json()["index"], refused.json()["attribute"]) == (400, 20, "source")

    found = await records_of(kafka.bootstrap, name)
    records = [record for records in found.values() for record in records]
    assert len(records) == len(sent), "nothing of the refused batch, and each of the others once"
    homes: dict[bytes, set[int]] = {}
    for record in records:
        original = sent[dict(record.headers)["ce_id"].decode()]
        assert read_back(record).get_attributes() == original.get_attributes()
        assert read_back(record).get_data() == original.get_data()
        assert record.key == original.get_extension("partitionkey").encode()
        homes.setdefault(record.key, set()).add(record.partition)
    assert all(len(partitions) == 1 for partitions in homes.values())


async def test_any_bytes_keys_headers_chunks_and_packings_arrive_verbatim(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    beacon = {"content-type": "text/plain;charset=UTF-8", "origin": "https://example.com"}
    odd = b' {"n": 12345678901234567890.10, "n": 1}\n'
    lines = [b'{"n":%d,"pad":"%s"}' % (n, b"x" * (n % 97)) for n in range(5_000)]
    packed: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
    }

    async def chunks() -> AsyncIterator[bytes]:
        body = b"\n".join(lines)
        for at in range(0, len(body), 1_013):
            yield body[at : at + 1_013]

    async with (
        serving(service_env, name, KEY_QUERY="key", KEY_POINTER="/user/id", HEADERS_KEPT="X-Shop") as (_, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):

        async def post(path: str, content: Any, **headers: str) -> None:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = await client.post(path, content=content, headers=named)
            assert answer.status_code == 200, answer.text

        await post("/events?key=b%C3%A9", b"beacon", **beacon)
        await post(
            "/events", odd, content_type="application/json", x_kafka_key="mine", x_shop="7", traceparent="00-a-b-01"
        )
        await post("/events", b'{"user":{"id":42}}', content_type="application/json")
        await post("/payloads", chunks(), content_type="application/x-ndjson", idempotency_key="chunks")
        for coding, pack in packed.items():
            body = b'{"data":["' + coding.encode() + b'", ' + b"[" * 300 + b"]" * 300 + b"]}"
            await post("/payloads", pack(body), content_encoding=coding, idempotency_key=coding)
        bomb = b"\x28\xb5\x2f\xfd\x00\x58" + b"\x02\x00\x10\x00" * 2_500 + b"\x01\x00\x00"
        refused = await client.post("/events", content=bomb, headers={"content-encoding": "zstd"})
        assert (refused.status_code, refused.json()["limit"]) == (413, 1_048_576)
        refused = await client.post("/events", content=b"x", headers={"content-encoding": "br"})
        assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
        metrics = (await client.get("/metrics")).text
        assert "headrace_producer_waiting_bytes 0.0" in metrics

    found = await records_of(kafka.bootstrap, name)
    single = {
        record.value: (record.key, list(record.headers))
        for records in found.values()
        for record in records
        if "idempotency-key" not in dict(record.headers)
    }
    assert single == {
        b"beacon": ("bé".encode(), [("content-type", b"text/plain;charset=UTF-8")]),
        odd: (b"mine", [("x-shop", b"7"), ("traceparent", b"00-a-b-01"), ("content-type", b"application/json")]),
        b'{"user":{"id":42}}': (b"42", [("content-type", b"application/json")]),
    }
    together: dict[bytes, list[bytes]] = {}
    for records in found.values():
        for record in records:
            key = dict(record.headers).get("idempotency-key")
            if key is not None:
                together.setdefault(key, []).append(record.value)
    deep = b"[" * 300 + b"]" * 300
    assert together == {
        b"chunks": lines,
        **{coding.encode(): [json.dumps(coding).encode(), deep] for coding in packed},
    }
