"""Limits hold on the socket: who is slow, many or long gets an answer, and a real producer goes on for the others."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.test_producer_workers import two_ports_in_a_row
from tests.producer_process import ProducerProcess, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.stack
PATIENCE_SECONDS = 30
POST = b"POST /payloads HTTP/1.1\r\nHost: x\r\n"


class Line:
    """A connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, content: bytes) -> None:
        self.writer.write(content)

    async def rest(self) -> bytes:
        """All that comes until the other side ends, which it must."""
        content = b""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with contextlib.suppress(ConnectionResetError):
                while more := await self.reader.read(65536):
                    content += more
        return content


@contextlib.asynccontextmanager
async def lines(url: str, count: int) -> AsyncIterator[list[Line]]:
    parts = httpx.URL(url)
    opened = [Line(*await asyncio.open_connection(parts.host, parts.port)) for _ in range(count)]
    try:
        yield opened
    finally:
        for line in opened:
            line.writer.close()


async def accepts(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        return (await client.post("/payloads", content=b'{"data":[1]}')).status_code == 200


def status(answer: bytes) -> int:
    assert b"content-type: application/problem+json" in answer
    return int(answer.split()[1])


async def test_slow_heads_and_slow_bodies_end_and_nobody_waits_for_them(
    service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    settings = {"HEADER_TIMEOUT_SECONDS": "1", "BODY_TIMEOUT_SECONDS": "1"}
    async with serving(service_env, topic(), **settings) as (process, url), lines(url, 60) as opened:
        silent, heads, bodies = opened[:20], opened[20:40], opened[40:]
        for line in heads:
            line.write(POST)
        for line in bodies:
            line.write(POST + b"Content-Length: 100\r\n\r\n{")

        async def drip() -> None:
            while True:
                for line in heads:
                    line.write(b"X-Drip: 1\r\n")
                for line in bodies:
                    line.write(b" ")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        assert await accepts(url), "meanwhile others are served"
        answers = await asyncio.gather(*(line.rest() for line in opened))
        dripping.cancel()
        assert set(answers[:20]) == {b""}
        assert {status(answer) for answer in answers[20:]} == {408}
        assert all(b"head-timeout" in answer for answer in answers[20:40])
        assert all(b"body-timeout" in answer for answer in answers[40:])
        assert len(silent) == 20
        assert await accepts(url)
        assert "Traceback" not in process.log, process.log


async def test_more_connections_than_may_be_and_management_still_answers(
    service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    port = two_ports_in_a_row()
    settings = {"MAX_CONNECTIONS": "40", "MANAGEMENT_PORT": str(port), "BODY_TIMEOUT_SECONDS": "60"}
    async with serving(service_env, topic(), **settings) as (process, url):
        await until_metric(f"http://127.0.0.1:{port}", "headrace_producer_connections", 0)
        async with lines(url, 40) as full:
            for line in full:
                line.write(POST + b"Content-Length: 100\r\n\r\n{")
            await until_metric(f"http://127.0.0.1:{port}", "headrace_producer_waiting_bytes", 40)
            async with lines(url, 9) as more:
                for line in more:
                    line.write(POST + b"Content-Length: 12\r\n\r\n" + b'{"data":[1]}')
                answers = await asyncio.gather(*(line.rest() for line in more))
                assert {status(answer) for answer in answers} == {503}
                assert all(b"retry-after: 1" in answer and b"crowded" in answer for answer in answers)
            await until_metric(f"http://127.0.0.1:{port}", "headrace_producer_connections", 40)
            async with lines(url, 30) as flood:
                answers = await asyncio.gather(*(line.rest() for line in flood[-15:]))
                assert set(answers) == {b""}, "cut before they took any memory"
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                    for path in ("/healthz", "/readyz", "/metrics"):
                        assert (await client.get(path)).status_code == 200
            for line in full:
                line.write(b" " * 99)
            answers = [await asyncio.wait_for(line.reader.readuntil(b"}"), PATIENCE_SECONDS) for line in full]
            assert {status(answer) for answer in answers} == {400}, "who was there before was served"
        await until_metric(f"http://127.0.0.1:{port}", "headrace_producer_connections", 0)
        assert await accepts(url)
        assert "Traceback" not in process.log, process.log


async def test_more_requests_at_a_time_than_may_be(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    async with serving(service_env, topic(), MAX_REQUESTS="5") as (_, url), lines(url, 5) as full:
        for line in full:
            line.write(POST + b"Content-Length: 100\r\n\r\n{")
        await until_metric(url, "headrace_producer_waiting_bytes", 5)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/payloads", content=b'{"data":[1]}')
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["type"].endswith(":busy")
            full[0].write(b" " * 99)
            assert status(await full[0].reader.readuntil(b"}")) == 400
            assert (await client.post("/payloads", content=b'{"data":[1]}')).status_code == 200


async def until_metric(url: str, name: str, value: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while f"{name} {value}.0" not in (text := (await client.get("/metrics")).text):
            assert time.monotonic() < end, text
            await asyncio.sleep(0.02)


async def test_a_full_budget_is_503_and_gets_free_again(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    settings = {"MAX_LENGTH": "100000", "MEMORY_BUDGET_BYTES": "200000", "BODY_TIMEOUT_SECONDS": "60"}
    async with serving(service_env, topic(), **settings) as (process, url), lines(url, 4) as full:
        for line in full:  # in pieces, so that nothing is promised and all of the budget can be taken
            line.write(POST + b"Transfer-Encoding: chunked\r\n\r\nC350\r\n" + b" " * 50_000 + b"\r\n")
        await until_metric(url, "headrace_producer_waiting_bytes", 200_000)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/payloads", content=b'{"data":[1]}')
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["type"].endswith(":queue-full")
            assert (await client.get("/readyz")).status_code == 200
        for line in full:
            line.writer.close()
        await until_metric(url, "headrace_producer_waiting_bytes", 0)
        assert await accepts(url)
        assert "Traceback" not in process.log, process.log


async def test_what_is_no_http_or_too_long_a_head_is_told_so(
    service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    hostile = {
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": 400,
        b"GET / HTTP/1.1\r\nHost: x\r\n : y\r\n\r\n": 400,
        POST + b"Content-Length: -1\r\n\r\n": 400,
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n": 400,
        POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n": 400,
        POST + b"X: " + b"y" * 100_000: 431,
        b"GET /" + b"y" * 100_000: 431,
    }
    async with serving(service_env, topic()) as (process, url), lines(url, len(hostile)) as opened:
        for line, content in zip(opened, hostile, strict=True):
            line.write(content)
        answers = await asyncio.gather(*(line.rest() for line in opened))
        assert [status(answer) for answer in answers] == list(hostile.values())
        assert await accepts(url)
        assert "Traceback" not in process.log, process.log
        assert "Invalid HTTP" not in process.log, "whoever connects could fill the log"


async def test_nobody_is_slow_because_the_producer_stood_still(
    service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    """Its clock and what came meanwhile wait for it side by side."""
    settings = {"HEADER_TIMEOUT_SECONDS": "1", "BODY_TIMEOUT_SECONDS": "1"}
    body = b'{"data":[1]}'
    whole = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with serving(service_env, topic(), **settings) as (process, url), lines(url, 30) as opened:
        begins = [whole[: len(POST)], whole[:-5]] * 15
        for line, begin in zip(opened, begins, strict=True):
            line.write(begin)
        await asyncio.sleep(0.9)  # one look at all of them, and not yet the next: these are a second apart
        process.process.send_signal(signal.SIGSTOP)
        for line, begin in zip(opened, begins, strict=True):
            line.write(whole[len(begin) :])
        await asyncio.sleep(1.5)  # the standing still
        process.process.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*(line.rest() for line in opened))
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}


async def test_an_endless_refused_body_is_cut_off(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    settings = {"HEADER_TIMEOUT_SECONDS": "1"}
    async with serving(service_env, topic(), **settings) as (_, url), lines(url, 2) as (slow, fast):
        for line in (slow, fast):
            line.write(POST + b"Content-Length: 1000000000\r\n\r\n")
            head = await asyncio.wait_for(line.reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
            assert status(head) == 413
        sent = 0
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    fast.write(b" " * 65536)
                    await fast.writer.drain()
                    sent += 65536
        assert sent < 64 * 1024 * 1024
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    slow.write(b" ")
                    await slow.writer.drain()
                    await asyncio.sleep(0.05)
        assert await accepts(url)


async def test_a_callers_own_rate_is_429(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    async with (
        serving(service_env, topic(), RATE_REQUESTS_PER_SECOND="3") as (_, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        answers = await asyncio.gather(*(client.post("/payloads", content=b'{"data":[1]}') for _ in range(20)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


async def test_nobody_listens_beyond_loopback_without_credentials(service_env: dict[str, str]) -> None:
    with ProducerProcess(service_env, KAFKA_TOPIC="t", HTTP_HOST="0.0.0.0") as process:
        assert await process.ended() == 2
        assert "HTTP_TOKENS" in process.log
    for settings in ({"HTTP_ALLOW_ANONYMOUS": "true"}, {"HTTP_TOKEN": "a-token-of-some-length"}):
        with ProducerProcess(service_env, KAFKA_TOPIC="t", HTTP_HOST="0.0.0.0", **settings) as process:
            assert (await process.address()).startswith("http://0.0.0.0:")
