"""Workers are exchanged one by one under load: nothing acknowledged is lost, and no client has anything to mend."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.test_producer_workers import all_listen, two_ports_in_a_row, workers_of
from tests.producer_process import records_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services import KafkaService

pytestmark = pytest.mark.stack


@dataclass
class Load:
    """Clients that post one payload after the other, as well-behaved ones do.

    A connection is used again until its answer says that it ends. A request is sent a second time only where a
    connection that had been used before ended without any byte of an answer: it was closed while it was idle.
    """

    host: str
    port: int
    accepted: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sent_again: int = 0
    told_to_go: int = 0
    stop: bool = False
    number: int = 0

    async def client(self, requests_a_connection: int | None) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        used = 0
        while not self.stop:
            self.number += 1
            number = self.number
            while True:
                if streams is None:
                    streams, used = await asyncio.open_connection(self.host, self.port), 0
                reader, writer = streams
                try:
                    answer = await self.ask(reader, writer, b'{"data":[%d]}' % number)
                except (OSError, EOFError) as error:
                    streams = None
                    writer.close()
                    if used:
                        self.sent_again += 1
                        continue
                    self.failures.append(f"payload {number} on a new connection: {error!r}")
                    break
                used += 1
                status, last = answer
                if status == 200:
                    self.accepted.append(number)
                else:
                    self.failures.append(f"payload {number}: {status}")
                self.told_to_go += last
                if last or used == requests_a_connection:
                    writer.close()
                    streams = None
                break
        if streams is not None:
            streams[1].close()

    @staticmethod
    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bool]:
        writer.write(b"POST /payloads HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return int(head.split()[1]), b"connection: close" in head


async def test_all_workers_are_exchanged_under_load(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    management = two_ports_in_a_row()
    settings = {"WORKERS": "2", "MANAGEMENT_PORT": str(management), "DRAIN_SECONDS": "4"}
    async with serving(service_env, name, **settings) as (process, url):
        first = {worker.pid for worker in await all_listen(process, 2)}
        address = httpx.URL(url)
        load = Load(address.host, address.port or 0)
        clients = [asyncio.create_task(load.client(limit)) for limit in (None, None, None, 7, 1, 1)]
        for _ in range(2):
            rounds = process.log.count("All workers were exchanged") + 1
            process.process.send_signal(signal.SIGUSR1)
            async with asyncio.timeout(60):
                while process.log.count("All workers were exchanged") < rounds:
                    assert process.process.poll() is None, process.log
                    await asyncio.sleep(0.05)
            now = {worker.pid for worker in workers_of(process)}
            assert len(now) == 2
            assert not now & first, "each has a successor"
            first = now
        async with httpx.AsyncClient(trust_env=False) as client:
            for port in (management, management + 1):
                assert (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        load.stop = True
        await asyncio.gather(*clients)
        process.terminate()
        assert await process.ended() == 0, process.log
        assert "Traceback" not in process.log, process.log
    assert load.failures == [], process
    assert load.told_to_go > 0
    assert len(load.accepted) > 100
    found = await records_of(kafka.bootstrap, name)
    there = [int(record.value or b"") for records in found.values() for record in records]
    assert set(load.accepted) <= set(there)
    assert len(there) - len(set(there)) <= load.sent_again


async def test_a_successor_that_cannot_start_takes_nobodys_place(
    service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("")
    async with serving(service_env, topic(), WORKERS="2", HTTP_TOKENS_FILE=str(tokens)) as (process, url):
        first = {worker.pid for worker in await all_listen(process, 2)}
        tokens.write_text("nonsense")
        process.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(60):
            while "All workers were exchanged" not in process.log:
                await asyncio.sleep(0.05)
        assert process.log.count("stays in its place") == 2
        assert {worker.pid for worker in workers_of(process)} == first
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"{url}/payloads", content=b'{"data":[1]}')).status_code == 200
        process.terminate()
        assert await process.ended() == 0, process.log
