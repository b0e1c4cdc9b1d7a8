"""A trial of the archiver: a topic and a prefix of its own, real consumer processes, and what must hold in the end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headrace.archive import read_chunk, survey
from headrace.kafka import KafkaCluster, KafkaUnavailable, open_cluster
from headrace.record import StoredRecord
from headrace.s3 import S3Store, open_store
from headrace.settings import KafkaSettings, S3Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from headrace.coverage import Survey

_T = TypeVar("_T")
ROOT = Path(__file__).parent.parent
FAST = {
    # Chunks, claims and time-outs small enough that a test meets many of them.
    "CHUNK_MAX_SECONDS": "0.5",
    "CHUNK_MAX_RECORDS": "500",
    "UPLOAD_TIMEOUT_SECONDS": "2",
    "SESSION_TIMEOUT_SECONDS": "6",
    "DRAIN_SECONDS": "10",
}


@dataclass(eq=False)
class Process:
    """A `python -m consumer` (or another command) under test. Its log is shown when a test fails."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def terminate(self) -> None:
        self.popen.terminate()

    def pause(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    async def ended(self, timeout: float = 30) -> int:
        return await asyncio.to_thread(self.popen.wait, timeout)


@dataclass
class Trial:
    """One topic's way from Kafka to S3, on real servers."""

    environment: Mapping[str, str]
    topic: str
    prefix: str
    partitions: int
    folder: Path
    processes: list[Process] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"group-{self.topic}"

    @property
    def kafka_settings(self) -> KafkaSettings:
        return KafkaSettings(kafka_bootstrap_servers=(self.environment["KAFKA_BOOTSTRAP_SERVERS"],))

    @property
    def tps(self) -> list[TopicPartition]:
        return [TopicPartition(self.topic, number) for number in range(self.partitions)]

    # Parts

    def start(self, *arguments: str, **settings: str) -> Process:
        """A consumer with these settings; or another command of headrace's with these arguments."""
        log = self.folder / f"{len(self.processes)}.log"
        own = {"KAFKA_TOPIC": self.topic, "KAFKA_GROUP": self.group, "S3_PREFIX": self.prefix}
        command = [sys.executable, "-m", *(arguments or ("consumer",))]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command, env={**self.environment, **own, **FAST, **settings}, stdout=output, stderr=output, cwd=ROOT
            )
        process = Process(popen, log)
        self.processes.append(process)
        return process

    async def run(self, *arguments: str, timeout: float = 60, **settings: str) -> tuple[int, str]:
        """A command of headrace's to its end: exit code and output."""
        process = self.start("headrace", *arguments, **settings)
        code = await process.ended(timeout)
        return code, process.text

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[S3Store]:
        # Straight to the server, past any proxy that the consumers are given.
        settings = S3Settings(
            s3_bucket=self.environment["S3_BUCKET"], aws_endpoint_url_s3=self.environment["AWS_ENDPOINT_URL_S3"]
        )
        with _environ(self.environment):
            async with open_store(settings) as store:
                yield store

    @contextlib.asynccontextmanager
    async def cluster(self) -> AsyncIterator[KafkaCluster]:
        async with open_cluster(self.kafka_settings) as cluster:
            yield cluster

    async def create_topic(self, **config: str) -> None:
        async with self.admin() as admin:
            new = NewTopic(
                self.topic, self.partitions, 1, topic_configs={k.replace("_", "."): v for k, v in config.items()}
            )
            answer = await admin.create_topics([new])
            assert answer.topic_errors[0][1] == 0, answer

    async def make_anew(self) -> None:
        """Delete the topic, and create another one of the same name."""
        async with self.admin() as admin:
            await admin.delete_topics([self.topic])

        async def gone() -> bool:
            async with self.admin() as admin:
                return self.topic not in await admin.list_topics()

        await self.eventually(gone)
        await self.create_topic()

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self.kafka_settings.kafka_options())
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    @contextlib.asynccontextmanager
    async def producer(self, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
        chosen = {"acks": "all", "enable_idempotence": True, "linger_ms": 5, **options}
        producer = AIOKafkaProducer(**self.kafka_settings.kafka_options(), **chosen)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def produce(self, count: int, *, first: int = 0, noise: int = 0, **options: Any) -> None:
        """Numbered payloads, in turn to all partitions; with `noise` bytes each that can't be compressed."""
        dice = random.Random(first)
        async with self.producer(**options) as producer:
            sent = []
            for number in range(first, first + count):
                pad = base64.b64encode(dice.randbytes(noise)) if noise else b"x" * (number % 100)
                value = b'{"n":%d,"pad":"%s"}' % (number, pad)
                sent.append(await producer.send(self.topic, value, partition=number % self.partitions))
            await asyncio.gather(*sent)

    async def produce_keyed(self, count: int) -> None:
        """The same few keys again and again, for topics that are compacted."""
        async with self.producer() as producer:
            for number in range(count):
                key = b"key-%d" % (number % 7)
                await producer.send(self.topic, b"%d" % number, key, partition=number % self.partitions)
            await producer.flush()

    # What holds

    async def log_ends(self) -> dict[TopicPartition, int]:
        return await self._told(lambda cluster: cluster.log_offsets(self.tps, -1))

    async def committed(self) -> dict[TopicPartition, tuple[int, str]]:
        return await self._told(lambda cluster: cluster.committed(self.group, self.tps))

    async def _told(self, ask: Callable[[KafkaCluster], Awaitable[_T]]) -> _T:
        """Kafka's answer, also when it has just come back and its partitions have no leader for a moment."""
        async with asyncio.timeout(60):
            while True:
                try:
                    async with self.cluster() as cluster:
                        return await ask(cluster)
                except KafkaUnavailable:
                    await asyncio.sleep(0.1)

    async def survey(self) -> Survey:
        async with self.store() as store:
            return await survey(store, prefix=self.prefix, topic=self.topic)

    async def stamps(self) -> dict[str, object]:
        """The keys of the topic's objects, and when each was written."""
        async with self.store() as store:
            return {item.key: item.modified async for item in store.list(f"{self.prefix}/{self.topic}/")}

    async def stored(self, timeout: float = 90) -> None:
        """Wait until everything that is in Kafka now is stored and committed."""
        ends = await self.log_ends()

        async def whole() -> bool:
            committed = await self.committed()
            # Ours, with nothing to fill and no claim open.
            return all(committed[tp][0] >= end and committed[tp][1].endswith(" 0 -") for tp, end in ends.items())

        await self.eventually(whole, timeout, "all that is in Kafka is committed")

    async def eventually(
        self, true: Callable[[], Awaitable[bool]], timeout: float = 90, what: str = "it comes true"
    ) -> None:
        """Ask again and again until it is true. Shows the processes' logs when it never is."""
        try:
            async with asyncio.timeout(timeout):
                while not await true():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {what}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(f"--- {process.log.name}\n{process.text[-3000:]}" for process in self.processes)

    async def archive(self) -> dict[int, list[StoredRecord]]:
        """All records in S3, by partition. Fails where objects overlap or leave holes."""
        found: dict[int, list[StoredRecord]] = {}
        async with self.store() as store:
            listing = await survey(store, prefix=self.prefix, topic=self.topic)
            for partition, coverage in listing.partitions().items():
                assert not coverage.holes, f"partition {partition}: holes {coverage.holes}\n{self.logs()}"
                assert not coverage.overlaps, f"partition {partition}: overlaps {coverage.overlaps}\n{self.logs()}"
                found[partition] = []
                for chunk in coverage.chunks:
                    if not chunk.is_gap:
                        found[partition] += await read_chunk(store, chunk)
        return found

    async def log(self, isolation_level: str = "read_committed") -> dict[int, list[StoredRecord]]:
        """All records in Kafka, by partition, read by a client of its own."""
        consumer = AIOKafkaConsumer(
            **self.kafka_settings.kafka_options(), isolation_level=isolation_level, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign(self.tps)
            ends = await consumer.end_offsets(self.tps)
            found: dict[int, list[StoredRecord]] = {number: [] for number in range(self.partitions)}
            await consumer.seek_to_beginning(*self.tps)
            while any([await consumer.position(tp) < ends[tp] for tp in self.tps]):
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    found[tp.partition] += [
                        StoredRecord(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records
                    ]
            return found
        finally:
            await consumer.stop()

    async def assert_exactly_once(self) -> int:
        """Every record of Kafka's log is in S3 once, byte for byte, and nothing else. Returns their number."""
        log, archive = await self.log(), await self.archive()
        for partition, records in log.items():
            assert archive.get(partition, []) == records, f"partition {partition} differs\n{self.logs()}"
        assert sum(map(len, archive.values())) == sum(map(len, log.values()))
        return sum(map(len, log.values()))


@contextlib.contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def trial(environment: Mapping[str, str], partitions: int = 3, hint: str = "t") -> Iterator[Trial]:
    """A trial whose processes are gone when it ends."""
    with tempfile.TemporaryDirectory(prefix="headrace-trial-") as folder:
        topic = f"{hint}-{secrets.token_hex(5)}"
        it = Trial(environment, topic, f"trial/{topic}", partitions, Path(folder))
        try:
            yield it
        finally:
            for process in it.processes:
                if process.popen.poll() is None:
                    process.popen.kill()
                    process.popen.wait()


async def metric(port: int, name: str) -> float:
    """The sum of a metric on a MANAGEMENT_PORT, over its labels; 0 while nobody answers."""
    async with httpx.AsyncClient() as client:
        try:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        except httpx.TransportError:
            return 0.0
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
    )


async def ready(port: int) -> tuple[int, str]:
    """Status and body of /readyz on a MANAGEMENT_PORT."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
    return answer.status_code, answer.text


def values(records: Mapping[int, Sequence[StoredRecord]]) -> list[bytes | None]:
    return [record.value for partition in sorted(records) for record in records[partition]]
