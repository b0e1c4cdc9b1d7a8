"""Memory has a ceiling whatever stands still, and a partition in trouble holds up no other. Longer: bench/bounds.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from headrace.local.ports import free_ports
from tests.bulk import Memory, count_exactly_once, fill
from tests.producer_process import records_of, serving
from tests.s3_proxy import Fault, never, on_objects, s3_proxy
from tests.trial import metric, trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import StackFactory

pytestmark = [pytest.mark.stack, pytest.mark.slow]

CEILING_MIB = 256
"""What README and docs promise of an archiver with the default MEMORY_BUDGET_BYTES."""
AS_DEPLOYED = {
    "CHUNK_MAX_RECORDS": "100000",
    "CHUNK_MAX_SECONDS": "60",
    "UPLOAD_TIMEOUT_SECONDS": "60",
    "SESSION_TIMEOUT_SECONDS": "10",
}


async def test_memory_while_s3_is_dead_and_while_the_backlog_drains(service_env: dict[str, str]) -> None:
    with trial(service_env, 12, "m") as it:
        await it.create_topic()
        await fill(it, 600_000, 220)
        async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.UNAVAILABLE)) as proxy:
            consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, **AS_DEPLOYED | {"CHUNK_MAX_SECONDS": "3"})
            memory = Memory(consumer.popen.pid)

            async def refused() -> bool:
                return proxy.seen[Fault.UNAVAILABLE] >= 60

            await it.eventually(refused, what="each partition's uploads fail")
            assert all(offset <= 0 for offset, _ in (await it.committed()).values())
            assert memory.peak() <= CEILING_MIB
            proxy.choose = never
            await it.stored(100)
            assert memory.peak() <= CEILING_MIB
            consumer.terminate()
            assert await consumer.ended() == 0
        assert await count_exactly_once(it) == 600_000


async def test_objects_have_more_lines_than_memory_would_hold(service_env: dict[str, str]) -> None:
    """Four times 12 MB of lines are open side by side within 16: they wait compressed."""
    with trial(service_env, 4, "w") as it:
        await it.create_topic()
        await fill(it, 160_000, 220, noisy=False)
        (port,) = free_ports(1)
        bounds = {"MEMORY_BUDGET_BYTES": str(16 << 20), "CHUNK_MAX_BYTES": str(16 << 20)}
        consumer = it.start(**AS_DEPLOYED, **bounds, MANAGEMENT_PORT=str(port))

        async def all_is_read() -> bool:
            return await metric(port, "headrace_consumer_records_total") == 160_000

        await it.eventually(all_is_read)
        assert not any(offset > 0 for offset, _ in (await it.committed()).values()), "no chunk is closed yet"
        consumer.terminate()
        assert await consumer.ended() == 0
        assert await count_exactly_once(it) == 160_000


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.STALL])
async def test_a_partition_whose_uploads_fail_does_not_hold_up_the_others(
    service_env: dict[str, str], fault: Fault
) -> None:
    """Its chunks alone would fill slots, queue and budget."""
    with trial(service_env, 6, "s") as it:
        await it.create_topic()
        await fill(it, 60_000, 220)
        await fill(it, 60_000, 220, only=3)

        def choose(method: str, path: str) -> tuple[Fault, float]:
            return (fault if method == "PUT" and "-00003-" in path else Fault.PASS), 0.0

        async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], choose, stall_seconds=8) as proxy:
            it.start(
                AWS_ENDPOINT_URL_S3=proxy.endpoint,
                MAX_WORKERS="4",
                MAX_QUEUE="8",
                MEMORY_BUDGET_BYTES=str(8 << 20),
                CHUNK_MAX_BYTES=str(4 << 20),
                CHUNK_MAX_RECORDS="500",
                UPLOAD_TIMEOUT_SECONDS="20",
            )

            async def troubled() -> bool:
                return proxy.seen[fault] >= 2

            await it.eventually(troubled)
            await fill(it, 6_000, 220)
            ends = await it.log_ends()

            async def others() -> bool:
                committed = await it.committed()
                return all(committed[tp][0] == end for tp, end in ends.items() if tp.partition != 3)

            await it.eventually(others, 30, "all but partition 3 is stored")
            assert (await it.committed())[it.tps[3]][0] < 10_000
            proxy.choose = never
            await it.stored(100)
        assert await count_exactly_once(it) == 126_000


async def test_the_producer_while_kafka_is_dead(own_stack: StackFactory, topic: Callable[..., str]) -> None:
    stack = own_stack()
    name = topic()
    body = b'{"data":[' + b",".join([b'"%b"' % (b"y" * 210)] * 100) + b"]}"
    codes: Counter[int] = Counter()
    ended = False

    async def client(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
            while not ended:
                answer = await http.post("/payloads", content=body)
                codes[answer.status_code] += 1
                if answer.status_code == 503:
                    assert int(answer.headers["retry-after"]) >= 1
                    await asyncio.sleep(0.05)

    async with serving(
        stack.environment, name, REQUEST_TIMEOUT_SECONDS="3", MAX_QUEUE="2000", MEMORY_BUDGET_BYTES=str(4 << 20)
    ) as (process, url):
        memory = Memory(process.process.pid)
        async with asyncio.TaskGroup() as group:
            for _ in range(60):
                group.create_task(client(url))
            await _until(lambda: codes[200] >= 100)
            await asyncio.to_thread(stack.kafka.kill)
            codes.clear()
            await _until(lambda: codes[503] >= 1000)
            assert memory.peak() <= 128
            await asyncio.to_thread(stack.kafka.restart)
            codes.clear()
            await _until(lambda: codes[200] >= 100)
            ended = True
        assert set(codes) <= {200, 503}
        await _until_gauge(url, "headrace_producer_waiting_bytes", 0)
        assert memory.peak() <= 128
        assert sum(map(len, (await records_of(stack.environment["KAFKA_BOOTSTRAP_SERVERS"], name)).values())) > 0


async def test_connections_and_bodies_have_a_bound(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    """Bodies that come slowly count while they come; more connections than may be are told so, still more are cut."""
    (port,) = free_ports(1)
    limits = {"MAX_CONNECTIONS": "40", "MANAGEMENT_PORT": str(port), "MEMORY_BUDGET_BYTES": str(2 << 20)}
    async with serving(service_env, topic(), **limits) as (_, url), httpx.AsyncClient(trust_env=False) as http:
        manage = f"http://127.0.0.1:{port}"
        async with contextlib.AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(_connected(url, 60_000, 30_001)) for _ in range(30)]
            await _until_gauge(manage, "headrace_producer_waiting_bytes", 30 * 30_001)
            async with contextlib.AsyncExitStack() as idle:
                for _ in range(14):
                    await idle.enter_async_context(_connected(url))
                refused = await http.post(f"{url}/payloads", content=b'{"data":[1]}')
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert refused.headers["connection"] == "close"
                assert refused.json()["type"] == "urn:headrace:problem:crowded"
                for _ in range(20):
                    await idle.enter_async_context(_connected(url))
                with pytest.raises(httpx.TransportError):
                    await http.post(f"{url}/payloads", content=b'{"data":[1]}')
                assert (await http.get(f"{manage}/healthz")).status_code == 200
            for _, writer in slow:
                writer.write(b" " * 29_999)
            for reader, _ in slow:
                assert b" 400 " in await reader.readuntil(b"\r\n"), "blanks are no JSON; the body was whole"
        await _until_gauge(manage, "headrace_producer_waiting_bytes", 0)
        assert (await http.post(f"{url}/payloads", content=b'{"data":[1]}')).status_code == 200


@contextlib.asynccontextmanager
async def _connected(
    url: str, size: int = 0, sent: int = 0
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection; with a size, its request's body has come in part."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        if size:
            head = f"POST /payloads HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
            writer.write(head.encode() + b" " * sent)
        yield reader, writer
    finally:
        writer.close()


async def _until(true: Callable[[], bool], timeout: float = 60) -> None:
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.05)


async def _until_gauge(url: str, name: str, value: float) -> None:
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
        while True:
            lines = (await http.get(f"{url}/metrics")).text.splitlines()
            if value in [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")]:
                return
            await asyncio.sleep(0.05)
