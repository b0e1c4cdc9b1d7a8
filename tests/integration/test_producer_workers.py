"""Several workers on one port: they share what comes, one that dies is replaced, and they leave together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.producer_process import ProducerProcess, records_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import KafkaService

pytestmark = pytest.mark.stack
PATIENCE_SECONDS = 40.0


def workers_of(process: ProducerProcess) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.process.pid).children()
    return []


def takes_connections(worker: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(at.status == psutil.CONN_LISTEN for at in worker.net_connections("tcp"))
    return False


async def all_listen(process: ProducerProcess, count: int, *, besides: int | None = None) -> list[psutil.Process]:
    """The workers, as soon as so many of them take connections; none of them is `besides`."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        ready = [worker for worker in workers_of(process) if worker.pid != besides and takes_connections(worker)]
        if len(ready) == count:
            return ready
        assert time.monotonic() < end, process.log
        await asyncio.sleep(0.05)


async def post_many(url: str, numbers: range) -> list[int]:
    """Each payload on a connection of its own; those that were answered. Connections may break, no answer is bad."""
    accepted = []

    async def one(number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                answer = await client.post("/payloads", content=b'{"data":[%d]}' % number)
                assert answer.status_code == 200, answer.text
                accepted.append(number)

    await asyncio.gather(*(one(number) for number in numbers))
    return accepted


def two_ports_in_a_row() -> int:
    """The first of two that nobody has."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one, contextlib.suppress(OSError):
            port: int = one.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


async def test_workers_share_the_port_survive_a_death_and_leave_together(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    async with serving(service_env, name, WORKERS="2") as (process, url):
        first = await all_listen(process, 2)
        accepted = await post_many(url, range(100))
        assert len(accepted) == 100
        first[0].kill()
        accepted += await post_many(url, range(100, 150))
        second = await all_listen(process, 2, besides=first[0].pid)
        assert first[1].pid in {worker.pid for worker in second}, "the other one went on"
        more = await post_many(url, range(200, 250))
        assert len(more) == 50
        accepted += more
        process.terminate()
        assert await process.ended() == 0, process.log
        assert not [worker for worker in second if worker.is_running()]
        assert process.log.count("Left") == 2, process.log
        assert "Traceback" not in process.log, process.log
    found = await records_of(kafka.bootstrap, name)
    there = sorted(int(record.value or b"") for records in found.values() for record in records)
    assert set(accepted) <= set(there)
    assert len(there) == len(set(there))


async def test_connections_spread_over_the_workers(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    """128 connections at once, dealt by a hash: that less than a quarter falls to one of two is unheard of."""
    async with serving(service_env, topic(), WORKERS="2") as (process, url):
        workers = await all_listen(process, 2)
        parts = httpx.URL(url)
        opened = await asyncio.gather(*(asyncio.open_connection(parts.host, parts.port) for _ in range(128)))

        def taken() -> list[int]:
            return [
                sum(
                    at.status == psutil.CONN_ESTABLISHED and at.laddr.port == parts.port
                    for at in worker.net_connections()
                )
                for worker in workers
            ]

        end = time.monotonic() + PATIENCE_SECONDS
        while sum(taken()) < 128:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert min(taken()) > 32, taken()
        for _, writer in opened:
            writer.close()


async def test_each_worker_has_a_management_port_of_its_own(
    service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    port = two_ports_in_a_row()
    async with serving(service_env, topic(), WORKERS="2", MANAGEMENT_PORT=str(port)) as (process, _):
        workers = await all_listen(process, 2)
        ports = [
            {at.laddr.port for at in worker.net_connections() if at.status == psutil.CONN_LISTEN} for worker in workers
        ]
        assert set.union(*ports) >= {port, port + 1}
        assert not any({port, port + 1} <= own for own in ports)
        async with httpx.AsyncClient(trust_env=False) as client:
            for own in (port, port + 1):
                assert (await client.get(f"http://127.0.0.1:{own}/readyz")).status_code == 200


async def test_a_second_signal_ends_all_at_once(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    settings = {"WORKERS": "2", "LINGER_MS": "10000", "DRAIN_SECONDS": "60", "REQUEST_TIMEOUT_SECONDS": "60"}
    async with serving(service_env, topic(), **settings) as (process, url):
        workers = await all_listen(process, 2)
        parts = httpx.URL(url)
        _, writer = await asyncio.open_connection(parts.host, parts.port)
        writer.write(b"POST /payloads HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")  # the rest never comes
        await writer.drain()
        process.terminate()
        while process.log.count("leaving, requests in flight") < 2:
            await asyncio.sleep(0.02)
        process.terminate()
        assert await process.ended() == 0, process.log
        assert not [worker for worker in workers if worker.is_running()]
        assert "leaving at once" in process.log
        writer.close()


async def test_workers_do_not_outlive_their_supervisor(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    async with serving(service_env, topic(), WORKERS="2") as (process, _):
        workers = await all_listen(process, 2)
        process.process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=PATIENCE_SECONDS)
        assert not alive
        assert process.log.count("The supervising process is gone: leaving") == 2


async def test_a_second_set_of_workers_does_not_join_in_unnoticed(
    service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    async with serving(service_env, topic(), WORKERS="2") as (_, url):
        port = httpx.URL(url).port
        for workers in ("1", "2"):
            with ProducerProcess(service_env, KAFKA_TOPIC="t", HTTP_PORT=str(port), WORKERS=workers) as another:
                assert await another.ended() == 1
                assert f"Port {port} on 127.0.0.1 is taken by another program." in another.log


async def test_workers_come_up_without_kafka_and_say_so(service_env: dict[str, str]) -> None:
    environment = {**service_env, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    with ProducerProcess(environment, KAFKA_TOPIC="t", WORKERS="2") as process:
        await all_listen(process, 2)
        async with httpx.AsyncClient(base_url=await process.address(), trust_env=False) as client:
            assert (await client.get("/readyz")).status_code == 503
        process.terminate()
        assert await process.ended() == 0


async def test_settings_that_are_wrong_end_all_with_2(service_env: dict[str, str]) -> None:
    with ProducerProcess(
        service_env, KAFKA_TOPIC="t", WORKERS="2", MANAGEMENT_PORT="8000", HTTP_PORT="8001"
    ) as process:
        assert await process.ended() == 2
        assert "HTTP_PORT=8001 is one of the ports from MANAGEMENT_PORT=8000 on" in process.log
