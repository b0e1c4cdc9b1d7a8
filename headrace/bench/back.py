"""The back half: a topic that is full already, from Kafka to stored objects."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headrace.archive import survey
from headrace.bench.figures import OURS, BackRun
from headrace.bench.payloads import make_payloads
from headrace.bench.subject import LOOPBACK, Running, free_port, running, wait_until_ready
from headrace.bench.usage import Meter, Usage, read_usage
from headrace.errors import HeadraceError
from headrace.kafka import LATEST, open_cluster
from headrace.s3 import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from aiokafka import TopicPartition

    from headrace.bench.place import Place
    from headrace.bench.workspace import Workspace
    from headrace.kafka import KafkaCluster

DIFFERENT: Final = 20_011
"""Records of a topic that differ; then they begin again. A prime, so that each partition gets all of them in turn, and
what repeats lies further apart than compression looks back."""
POLL_SECONDS: Final = 0.1
STUCK_SECONDS: Final = 60.0
REFERENCE: Final = "aiokafka + gzip"


@dataclass(frozen=True, slots=True)
class BackPlan:
    """Records of a topic, their sizes (a topic each), processes that archive it, seconds after which a chunk closes."""

    records: int
    record_bytes: Sequence[int]
    processes: int
    chunk_seconds: float
    rounds: int
    reference: bool


async def measure_back(plan: BackPlan, place: Place, workspace: Workspace) -> AsyncIterator[BackRun]:
    """One run for each round and size, with a group and a prefix of its own, and the reference reader's beside it."""
    topics = {}
    for size in plan.record_bytes:
        topics[size] = await workspace.topic(f"back-{size}")
        await workspace.fill(topics[size], make_payloads(DIFFERENT, size), plan.records)
    for number in range(plan.rounds):
        for size, topic in topics.items():
            archiving = Archiving(plan, place, workspace, topic, size, number + 1)
            runs = [archiving.measure, archiving.reference] if plan.reference else [archiving.measure]
            for run in runs if number % 2 == 0 else reversed(runs):
                yield await run()


async def until_durable(
    cluster: KafkaCluster, process: Running, group: str, ends: Mapping[TopicPartition, int]
) -> list[tuple[float, int]]:
    """Until the group's offsets are these ends. Returns how many were durable when: (monotonic, records), each look.

    Raises HeadraceError when nothing moves any more.
    """
    moved, looks = time.monotonic(), [(time.monotonic(), 0)]
    while True:
        committed = await cluster.committed(group, ends)
        now, done = time.monotonic(), sum(min(max(0, committed[tp][0]), end) for tp, end in ends.items())
        if done > looks[-1][1]:
            moved = now
        looks.append((now, done))
        if done == sum(ends.values()):
            return looks
        if not process.alive():
            raise HeadraceError("The archiver ended before everything was stored.")
        if now - moved > STUCK_SECONDS:
            raise HeadraceError(
                f"The archiver stored nothing more for {STUCK_SECONDS:.0f} s. Its log:\n{process.last_words()}"
            )
        await asyncio.sleep(POLL_SECONDS)


def archiver_command(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "consumer"]
    return [sys.executable, "-m", "headrace", "consume", "--processes", str(processes)]


class Archiving:
    """One topic read from its start."""

    def __init__(
        self, plan: BackPlan, place: Place, workspace: Workspace, topic: str, record_bytes: int, number: int
    ) -> None:
        self._plan = plan
        self._place = place
        self._workspace = workspace
        self._topic = topic
        self._record_bytes = record_bytes
        self._number = number

    async def measure(self) -> BackRun:
        """The archiver, from its start until everything is durable."""
        hint = f"back-{self._record_bytes}-{self._number}"
        group, prefix = self._workspace.group(hint), f"{self._workspace.prefix}/{hint}"
        port = free_port()
        settings = {
            "KAFKA_TOPIC": self._topic,
            "KAFKA_GROUP": group,
            "S3_PREFIX": prefix,
            "CHUNK_MAX_SECONDS": f"{self._plan.chunk_seconds:g}",
            "MANAGEMENT_HOST": LOOPBACK,
            "MANAGEMENT_PORT": str(port),
        }
        meter = Meter(self._place.servers)
        began = time.monotonic()
        async with running(
            self._place, f"consumer-{hint}", archiver_command(self._plan.processes), settings
        ) as process:
            await wait_until_ready(process, f"http://{LOOPBACK}:{port}/readyz")
            start = read_usage(process.pid).cpu_seconds
            await self._all_durable(process, group)
            seconds = time.monotonic() - began
            used = {"consumer": read_usage(process.pid), **meter.read()}
            noise = meter.noise(used)
        return self._run(OURS, seconds, used, start, await self._stored(prefix), noise)

    async def reference(self) -> BackRun:
        """The reference reader, from its start to the topic's end."""
        meter = Meter(self._place.servers)
        command = [sys.executable, "-m", "headrace.bench.floor", "kafka", self._topic, str(self._plan.records)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            said, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise HeadraceError(f"The reference reader failed: {complaint.decode(errors='replace')[-1000:]}")
        told = json.loads(said)
        servers = meter.read()
        noise = meter.noise(servers)  # the reader was our child, and has ended
        used = {"consumer": Usage(told["cpu_seconds"], None, told["rss_peak_mib"], 1), **servers}
        return self._run(REFERENCE, told["seconds"], used, told["start_cpu_seconds"], told["stored_bytes"], noise)

    def _run(
        self, subject: str, seconds: float, used: dict[str, Usage], start: float, stored: int | None, noise: float
    ) -> BackRun:
        return BackRun(
            subject=subject,
            round=self._number,
            records=self._plan.records,
            record_bytes=self._record_bytes,
            partitions=self._workspace.partitions,
            seconds=seconds,
            used=used,
            start_cpu_seconds=start,
            stored_bytes=stored,
            noise=noise,
        )

    async def _all_durable(self, process: Running, group: str) -> None:
        async with open_cluster(self._place.kafka) as cluster:
            partitions = (await cluster.topic(self._topic)).topic_partitions
            await until_durable(cluster, process, group, await cluster.log_offsets(partitions, LATEST))

    async def _stored(self, prefix: str) -> int:
        """Bytes of the topic's objects."""
        assert self._place.s3 is not None
        async with open_store(self._place.s3) as store:
            found = await survey(store, prefix=prefix, topic=self._topic)
        return sum(coverage.size for coverage in found.partitions().values())
