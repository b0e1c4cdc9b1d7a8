"""Clients of the Kafka REST proxy come over: their requests, byte by byte, on the real producer and a real Kafka."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiokafka.partitioner import DefaultPartitioner

from tests.producer_process import ProducerProcess, records_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import KafkaService

pytestmark = pytest.mark.stack

V2 = "application/vnd.kafka.v2+json"
JSON, BINARY = ({"Content-Type": f"application/vnd.kafka.{name}.v2+json", "Accept": V2} for name in ("json", "binary"))

# Written after Confluent's documentation, "API reference", v2, POST /topics/(string: topic_name).
DOCUMENTED_BINARY = b"""{
  "records": [
    {
      "key": "a2V5",
      "value": "Y29uZmx1ZW50"
    },
    {
      "value": "a2Fma2E=",
      "partition": 1
    },
    {
      "value": "bG9ncw=="
    }
  ]
}"""
DOCUMENTED_JSON = b"""{
  "records": [
    {"key": "somekey", "value": {"foo": "bar"}},
    {"value": ["foo", "bar"], "partition": 1},
    {"value": 53.5}
  ]
}"""
LINE = b'{"@timestamp":"2026-11-23T01:00:00.000000Z","log":"line","cpu_p":0.10000000000000001}'
FLUENT_BIT = b'{"records":[{"value":%s}]}' % LINE
"""The form that Fluent Bit's output kafka-rest has, after its source; not a recording."""


def raw(path: str, type_: str, body: bytes, *, accept: str = V2) -> bytes:
    """As a client writes it that knows no more of HTTP than it must."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {type_}\r\nAccept: {accept}\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def send(url: str, request: bytes) -> tuple[int, dict[str, str], Any]:
    parts = httpx.URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), json.loads(body)


async def test_documented_requests_are_answered_as_documented_and_offsets_are_true(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    main, name = topic(), topic()
    values: list[tuple[bytes | None, bytes | None]] = [
        (b"key", b"confluent"),
        (None, b"kafka"),
        (None, b"logs"),
        (b'"somekey"', b'{"foo": "bar"}'),
        (None, b'["foo", "bar"]'),
        (None, b"53.5"),
        (None, LINE),
    ]
    async with serving(service_env, main, KAFKA_TOPICS_ALLOWED=name) as (process, url):
        first = raw(f"/topics/{name}", JSON["Content-Type"], FLUENT_BIT)
        while (await send(url, first))[2].get("error_code") == 50003:  # it looks for topics beside its own by and by
            await asyncio.sleep(0.05)
        rows = []
        for path, type_, body in (
            (f"/topics/{name}", BINARY["Content-Type"], DOCUMENTED_BINARY),
            (f"/topics/{name}", JSON["Content-Type"], DOCUMENTED_JSON),
            (f"/topics/{name}/partitions/2", JSON["Content-Type"], FLUENT_BIT),
        ):
            status, headers, told = await send(url, raw(path, type_, body))
            assert (status, headers["content-type"]) == (200, V2), told
            assert list(told) == ["offsets", "key_schema_id", "value_schema_id"]
            assert (told["key_schema_id"], told["value_schema_id"]) == (None, None)
            rows += told["offsets"]
        assert all(list(row) == ["partition", "offset", "error_code", "error"] for row in rows)
        assert "Traceback" not in process.log
    found = {
        (partition, record.offset): (record.key, record.value)
        for partition, records in (await records_of(kafka.bootstrap, name)).items()
        for record in records
    }
    assert [found[row["partition"], row["offset"]] for row in rows] == values
    assert [rows[1]["partition"], rows[4]["partition"], rows[6]["partition"]] == [1, 1, 2]
    partitioner = DefaultPartitioner()
    assert rows[0]["partition"] == partitioner(b"key", [0, 1, 2], [])
    assert rows[3]["partition"] == partitioner(b'"somekey"', [0, 1, 2], [])


async def test_curl_as_in_the_quick_start(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    name = topic("jsontest")
    async with serving(service_env, name) as (_, url):
        # https://docs.confluent.io/platform/current/kafka-rest/quickstart.html
        command = [
            *(curl, "-s", "-X", "POST", "-H", "Content-Type: application/vnd.kafka.json.v2+json"),
            *("-H", f"Accept: {V2}", "--data", '{"records":[{"value":{"foo":"bar"}}]}', f"{url}/topics/{name}"),
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    place = json.loads(out)["offsets"][0]
    assert place == {"partition": place["partition"], "offset": 0, "error_code": None, "error": None}
    found = await records_of(kafka.bootstrap, name)
    assert [record.value for record in found[place["partition"]]] == [b'{"foo":"bar"}']


async def test_errors_are_in_the_proxys_form_and_publish_nothing(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    good = b'{"records":[{"value":1}]}'
    many = b'{"records":[' + b",".join([b'{"value":"x"}'] * 60_000) + b"]}"
    async with serving(service_env, name, KEYED_REQUESTS="refuse") as (process, url):
        for path, type_, body, accept, status, code, words in (
            ("/topics/nowhere", JSON["Content-Type"], good, V2, 404, 40401, "Topic nowhere"),
            (f"/topics/{name}/partitions/3", JSON["Content-Type"], good, V2, 404, 40402, "partition 3"),
            (f"/topics/{name}", "application/vnd.kafka.avro.v2+json", good, V2, 415, 415, "schema registry"),
            (f"/topics/{name}", JSON["Content-Type"], good, "text/html", 406, 406, "Accept"),
            (f"/topics/{name}", BINARY["Content-Type"], good, V2, 422, 422, "Record 0"),
            (f"/topics/{name}", JSON["Content-Type"], b"{", V2, 400, 400, "not JSON"),
            (f"/topics/{name}", JSON["Content-Type"], many, V2, 413, 413, "max.message.bytes"),
            (
                f"/topics/{name}",
                JSON["Content-Type"],
                b'{"records":[{"key":1},{"key":2},{"key":3},{"key":4}]}',
                V2,
                422,
                422,
                "KEYED_REQUESTS",
            ),
        ):
            told, headers, answer = await send(url, raw(path, type_, body, accept=accept))
            assert (told, headers["content-type"], answer["error_code"]) == (status, V2, code), answer
            assert set(answer) == {"error_code", "message"}
            assert words in answer["message"], answer
        assert "Traceback" not in process.log
    assert not any((await records_of(kafka.bootstrap, name)).values())


async def test_a_missing_topic_is_told_and_taken_when_it_comes(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    from tests.integration.test_producer_kafka import create_topic

    name, late = topic(), topic("late")
    await create_topic(kafka.bootstrap, name)
    with ProducerProcess(
        service_env, KAFKA_TOPIC=name, KAFKA_TOPIC_PARTITIONS="0", KAFKA_TOPICS_ALLOWED=late
    ) as process:
        url = await process.ready()
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=JSON) as client:
            body = b'{"records":[{"value":1}]}'
            while "does not exist" not in (answer := await client.post(f"/topics/{late}", content=body)).text:
                await asyncio.sleep(0.05)
            assert (answer.status_code, answer.json()["error_code"]) == (503, 50003)
            assert (await client.post(f"/topics/{name}", content=body)).status_code == 200
            assert (await client.get("/readyz")).status_code == 200, "KAFKA_TOPIC is there"
            assert f"Topic {late} is not published to for now" in process.log
            metrics = (await client.get("/metrics")).text
            assert f'headrace_producer_topic_open{{topic="{late}"}} 0.0' in metrics
            assert f'headrace_producer_topic_open{{topic="{name}"}} 1.0' in metrics
            assert f'headrace_producer_topic_payloads_total{{topic="{name}"}} 1.0' in metrics
            await create_topic(kafka.bootstrap, late)
            statuses: Counter[int] = Counter()
            while (status := (await client.post(f"/topics/{late}", content=body)).status_code) != 200:
                statuses[status] += 1
                await asyncio.sleep(0.05)
            assert set(statuses) <= {503}
