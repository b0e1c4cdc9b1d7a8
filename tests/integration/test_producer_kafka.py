"""The producer process against a real Kafka: what is answered 200 is there, verbatim and together."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.producer_process import ProducerProcess, records_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import StackFactory
    from tests.services import KafkaService

pytestmark = pytest.mark.stack


async def create_topic(bootstrap: str, name: str, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=config)])
    finally:
        await admin.close()


async def post(client: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    return await client.post("/payloads", content=body, headers={"Content-Type": "application/json", **headers})


async def raw(url: str, request: bytes, *, half_close: bool = False) -> bytes:
    """What comes back on a socket of one's own until the server closes it, or for five seconds."""
    parts = httpx.URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    try:
        writer.write(request)
        await writer.drain()
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_payloads_arrive_verbatim_and_a_request_stays_together(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str], compression: str
) -> None:
    name = topic()
    odd = [
        b"12345678901234567890.10",
        b'{"a":1,"a": 2}',
        rb'"\ud800"',
        "\u2028é".join('""').encode(),
        b"[ ]",
        b"9" * 40,
    ]
    async with (
        serving(service_env, name, KAFKA_COMPRESSION=compression, LINGER_MS="20") as (_, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):

        async def one(number: int) -> None:
            payloads = [b'{"request":%d,"n":%d}' % (number, n) for n in range(number % 20 + 1)]
            body = b'{"data":[' + b", ".join(payloads) + b"]}"
            answer = await post(client, body, **{"Idempotency-Key": str(number)})
            assert answer.json() == {"accepted": len(payloads)}

        assert (await post(client, b'{"data":[' + b" ,".join(odd) + b"]}")).status_code == 200
        await asyncio.gather(*(one(number) for number in range(200)))
    found = await records_of(kafka.bootstrap, name)
    values = [record.value for records in found.values() for record in records]
    assert sorted(value for value in values if b"request" not in value) == sorted(odd)
    together: dict[bytes, list[tuple[int, int, int, bytes]]] = {}
    for partition, records in found.items():
        for record in records:
            for header, key in record.headers:
                assert header == "idempotency-key"
                together.setdefault(key, []).append((partition, record.offset, record.timestamp, record.value))
    assert len(together) == 200
    for key, places in together.items():
        number = int(key)
        assert [place[3] for place in places] == [
            b'{"request":%d,"n":%d}' % (number, n) for n in range(number % 20 + 1)
        ]
        assert {place[0] for place in places} == {places[0][0]}
        assert [place[1] for place in places] == list(range(places[0][1], places[0][1] + len(places)))
        assert {place[2] for place in places} == {places[0][2]}
    batches = {(partition, record.timestamp) for partition, records in found.items() for record in records}
    assert len(batches) < 160, "requests share batches, of 201, also where a busy machine lets them come one by one"


async def test_bad_input_has_clear_answers_and_leaves_nothing_behind(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    deep = b'{"data":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}"
    async with serving(service_env, name, BODY_TIMEOUT_SECONDS="1") as (process, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await post(client, b'{"data":["first"]}')).status_code == 200
            for _ in range(5):
                await post(client, deep)
            before = process.memory()
            for body, status, words in (
                (b'{"data":[NaN]}', 400, "NaN"),
                (b'\xef\xbb\xbf{"data":[1]}', 400, "byte order mark"),
                (deep, 400, "nested too deep"),
                (b"", 400, "empty"),
                (b"[1]", 400, "array, where an object"),
                (b'{"data":[1', 400, "ends too early"),
                (b" " * 10_000_000, 413, "1048576"),
                (b'{"data":[' + b"0," * 60_000 + b"0]}", 413, "max.message.bytes"),
            ):
                answer = await post(client, body)
                assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
            for _ in range(30):
                await post(client, deep)
                await post(client, b" " * 10_000_000)
            assert process.memory() - before < 30 * 1024 * 1024
        head = b"POST /payloads HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        stalled, short, both, gone = await asyncio.gather(
            raw(url, head + b'Content-Length: 100\r\n\r\n{"data":["stalled"]}'),
            raw(url, head + b'Connection: close\r\nContent-Length: 10\r\n\r\n{"data":["short"]}'),
            raw(url, head + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{"data":["both"]}'),
            raw(url, head + b'Content-Length: 100\r\n\r\n{"data":["gone"]}', half_close=True),
        )
        assert stalled.startswith(b"HTTP/1.1 408 ")
        assert short.startswith(b"HTTP/1.1 400 ")
        assert both.startswith(b"HTTP/1.1 400 ")
        assert b" 200 " not in gone
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await post(client, b'{"data":["last"]}')).status_code == 200
            metrics = (await client.get("/metrics")).text
        assert "headrace_producer_replacements_total 0.0" in metrics
        assert "headrace_producer_waiting_bytes 0.0" in metrics
        assert "Traceback" not in process.log
    found = await records_of(kafka.bootstrap, name)
    assert sorted(record.value for records in found.values() for record in records) == [b'"first"', b'"last"']


async def test_what_does_not_fit_the_topic_is_413_and_good_ones_go_on(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    await create_topic(kafka.bootstrap, name, **{"max.message.bytes": "5000"})
    async with (
        serving(service_env, name, KAFKA_COMPRESSION="none") as (_, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        for _ in range(3):
            refused = await post(client, b'{"data":["' + b"x" * 5000 + b'"]}')
            assert (refused.status_code, refused.json()["limit"]) == (413, 5000)
            assert (await post(client, b'{"data":["' + b"x" * 4900 + b'"]}')).status_code == 200
            assert (await post(client, b'{"data":[1,2]}')).status_code == 200
        assert "replacements_total 0.0" in (await client.get("/metrics")).text


async def test_a_producer_that_broke_for_good_is_replaced(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    """The topic's limit shrinks behind our back: Kafka refuses a batch, and aiokafka never recovers from that."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    name = topic()
    await create_topic(kafka.bootstrap, name)
    long = b'{"data":["' + b"x" * 50_000 + b'"]}'
    async with (
        serving(service_env, name, KAFKA_COMPRESSION="none") as (process, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        assert (await post(client, long)).status_code == 200
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": "5000"})]
        )
        await admin.close()
        refused = await post(client, long)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2"), refused.text
        await process.until(200)
        assert (await post(client, long)).status_code == 413
        for _ in range(5):
            assert (await post(client, b'{"data":[1]}')).status_code == 200
        assert "replacements_total 1.0" in (await client.get("/metrics")).text
    found = await records_of(kafka.bootstrap, name)
    assert sum(len(records) for records in found.values()) == 6


async def test_a_missing_topic_is_not_made_and_recovers_when_it_comes(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    with ProducerProcess(service_env, KAFKA_TOPIC=name, KAFKA_TOPIC_PARTITIONS="0") as process:
        url = await process.address()
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            while "does not exist" not in (answer := await post(client, b'{"data":[1]}')).text:
                await asyncio.sleep(0.05)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert (await client.get("/readyz")).status_code == 503
            assert f"Topic {name} does not exist" in process.log
            await create_topic(kafka.bootstrap, name)
            await process.until(200)
            assert (await post(client, b'{"data":[1]}')).status_code == 200


async def test_a_taken_port_is_one_helpful_sentence(service_env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ProducerProcess(service_env, KAFKA_TOPIC="t", HTTP_PORT=str(port)) as process:
            assert await process.ended() == 1
            assert process.log.strip() == (
                f"headrace: Port {port} on 127.0.0.1 is taken by another program. "
                "Stop it, or set HTTP_PORT to a free one (0 finds one)."
            )


async def test_sigterm_answers_what_is_in_flight_and_leaves_with_0(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    accepted: list[int] = []
    async with serving(service_env, name, LINGER_MS="3000") as (process, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:

            async def one(number: int) -> None:
                answer = await post(client, b'{"data":[%d]}' % number)
                assert answer.status_code == 200
                accepted.append(number)

            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(one(number))
                while "waiting_payloads 20.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.02)
                began = asyncio.get_running_loop().time()
                process.terminate()
            assert asyncio.get_running_loop().time() - began < 2.5, "nobody lingers any more"
        assert await process.ended() == 0
        assert "Traceback" not in process.log
    found = await records_of(kafka.bootstrap, name)
    assert sorted(int(record.value) for records in found.values() for record in records) == sorted(accepted)


@pytest.mark.slow
async def test_kafka_killed_and_back_every_200_is_there(own_stack: StackFactory, topic: Callable[..., str]) -> None:
    stack = await asyncio.to_thread(own_stack)
    name = topic()
    accepted: set[int] = set()
    statuses: dict[int, int] = {}
    settings = {
        "REQUEST_TIMEOUT_SECONDS": "2",
        "MAX_LENGTH": "100000",
        "MEMORY_BUDGET_BYTES": "2000000",
        "DRAIN_SECONDS": "3",
    }
    async with serving(stack.environment, name, **settings) as (process, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            stop = asyncio.Event()
            numbers = iter(range(10**9))

            async def load() -> None:
                while not stop.is_set():
                    number = next(numbers)
                    answer = await post(client, json.dumps({"data": [number, "x" * 20_000]}).encode())
                    statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                    if answer.status_code == 200:
                        accepted.add(number)
                    else:
                        assert answer.status_code == 503, answer.text
                        assert int(answer.headers["retry-after"]) > 0
                        await asyncio.sleep(0.05)

            async with asyncio.TaskGroup() as group:
                for _ in range(150):
                    group.create_task(load())
                while len(accepted) < 500:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(stack.kafka.kill)
                await process.until(503)
                before = process.memory()
                for _ in range(60):
                    await asyncio.sleep(0.1)  # load on a dead Kafka, for as long as it takes to give its producer up
                assert process.memory() - before < 40_000_000
                await asyncio.to_thread(stack.kafka.start)
                await process.until(200, 60)
                enough = len(accepted) + 300
                while len(accepted) < enough:
                    await asyncio.sleep(0.05)
                stop.set()
            await asyncio.to_thread(stack.kafka.kill)
            late = await post(client, b'{"data":[1]}')
            assert late.status_code == 503
            process.terminate()
            assert await process.ended(15) == 0, process.log
        assert "Traceback" not in process.log, process.log
    await asyncio.to_thread(stack.kafka.start)
    found = await records_of(stack.kafka.bootstrap, name)
    there = {int(record.value) for records in found.values() for record in records if not record.value.startswith(b'"')}
    assert accepted <= there
    assert set(statuses) == {200, 503}


async def test_it_comes_up_without_kafka(service_env: dict[str, str]) -> None:
    environment: dict[str, Any] = {**service_env, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    with ProducerProcess(environment, KAFKA_TOPIC="t") as process:
        url = await process.address()
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
            assert (await post(client, b'{"data":[1]}')).status_code == 503
        process.terminate()
        assert await process.ended() == 0
