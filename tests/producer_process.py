"""A producer as people run it: a process of its own, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
from aiokafka import AIOKafkaConsumer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from aiokafka.structs import ConsumerRecord

ADDRESS = re.compile(r"Taking payloads at (https?://\S+)/payloads")


class ProducerProcess:
    """`python -m producer` with an environment of its own; ended, at the latest, when the context is left."""

    def __init__(self, environment: Mapping[str, str], **settings: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="headrace-producer-", suffix=".log")[1])
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "producer"],
                env={"HTTP_PORT": "0", **environment, **settings},
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[1],
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def address(self, timeout: float = 15) -> str:
        """Where it listens, as soon as it does."""
        end = time.monotonic() + timeout
        while (found := ADDRESS.search(self.log)) is None:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            await asyncio.sleep(0.02)
        return found[1]

    async def ready(self, timeout: float = 30, *, verify: ssl.SSLContext | bool = True) -> str:
        """Its address, as soon as /readyz says 200."""
        url = await self.address()
        await self.until(200, timeout, verify=verify)
        return url

    async def until(self, status: int, timeout: float = 30, *, verify: ssl.SSLContext | bool = True) -> None:
        """Waits until /readyz answers so."""
        url = await self.address()
        end = time.monotonic() + timeout
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=verify) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == status:
                        return
                assert self.process.poll() is None, self.log
                assert time.monotonic() < end, self.log
                await asyncio.sleep(0.05)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, timeout: float = 30) -> int:
        return await asyncio.to_thread(self.process.wait, timeout)

    def memory(self) -> int:
        """Bytes that it holds in RAM now."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * 4096

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.unlink()


@contextlib.asynccontextmanager
async def serving(
    environment: Mapping[str, str], topic: str, verify: ssl.SSLContext | bool = True, /, **settings: str
) -> AsyncIterator[tuple[ProducerProcess, str]]:
    """A producer that is ready, and its address; `verify`: what knows its certificate, where it has one."""
    with ProducerProcess(environment, **{"KAFKA_TOPIC": topic, "KAFKA_TOPIC_PARTITIONS": "3", **settings}) as process:
        yield process, await process.ready(verify=verify)


async def records_of(bootstrap: str, topic: str) -> dict[int, list[ConsumerRecord]]:
    """All a topic has now, by partition."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none")
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: dict[int, list[ConsumerRecord]] = {tp.partition: [] for tp in partitions}
        while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                found[tp.partition] += records
    finally:
        await consumer.stop()
    return found
