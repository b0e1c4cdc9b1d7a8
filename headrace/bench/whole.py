"""Both halves at once: a load that is kept up, and how long a payload takes from POST until S3 gives it to a reader."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx

from headrace.archive import inflate
from headrace.bench.back import archiver_command
from headrace.bench.figures import WholeRun
from headrace.bench.front import BODIES
from headrace.bench.load import CONTENT_TYPE, Load, run_load
from headrace.bench.payloads import find_marks, make_bodies, make_payloads, marked_payload
from headrace.bench.subject import LOOPBACK, free_port, headrace_producer, running, wait_until_ready
from headrace.bench.usage import Meter
from headrace.objects import parse_key, topic_folder
from headrace.s3 import open_store

if TYPE_CHECKING:
    from headrace.bench.place import Place
    from headrace.bench.workspace import Workspace
    from headrace.s3 import S3Store

MARK_EVERY_SECONDS: Final = 0.05
LOOK_EVERY_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 30.0
"""How long after its flush age a payload may still show up; then it counts as unseen."""


@dataclass(frozen=True, slots=True)
class WholePlan:
    """`rate` requests a second of `payloads` payloads each, for so many seconds, over so many connections."""

    rate: float
    seconds: float
    warmup: float
    connections: int
    payloads: int
    payload_bytes: int
    flush_seconds: float
    workers: int
    processes: int
    keep_bytes: int


@dataclass
class Marks:
    """Marked payloads on their way, by number: when POSTed, and when first read in S3 (monotonic)."""

    run: str
    sent: dict[int, float] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict)
    refused: int = 0

    @property
    def missing(self) -> int:
        return len(self.sent.keys() - self.seen.keys())

    def found(self, content: bytes, now: float) -> None:
        for number in find_marks(self.run, content):
            self.seen.setdefault(number, now)

    def seconds(self) -> list[float]:
        """From POST to S3, ordered."""
        return sorted(self.seen[number] - began for number, began in self.sent.items() if number in self.seen)


async def measure_whole(plan: WholePlan, place: Place, workspace: Workspace, number: int) -> WholeRun:
    """One run, with a topic, a group and a prefix of its own."""
    assert place.s3 is not None
    hint = f"together-{number}"
    topic = await workspace.topic(hint, keep_bytes=plan.keep_bytes)
    prefix = f"{workspace.prefix}/{hint}"
    port = free_port()
    settings = {
        "KAFKA_TOPIC": topic,
        "KAFKA_GROUP": workspace.group(hint),
        "S3_PREFIX": prefix,
        "CHUNK_MAX_SECONDS": f"{plan.flush_seconds:g}",
        "MANAGEMENT_HOST": LOOPBACK,
        "MANAGEMENT_PORT": str(port),
    }
    bodies = make_bodies(make_payloads(BODIES * plan.payloads, plan.payload_bytes), plan.payloads, BODIES)
    command = archiver_command(plan.processes)
    async with (
        running(place, f"consumer-{hint}", command, settings) as consumer,
        headrace_producer(place, topic, workers=plan.workers) as endpoint,
        open_store(place.s3) as store,
    ):
        await wait_until_ready(consumer, f"http://{LOOPBACK}:{port}/readyz")
        marks = Marks(topic)
        meter = Meter({"server": endpoint.pid, "consumer": consumer.pid, **place.servers})
        warm = 0
        if plan.warmup > 0:
            warm = (await run_load(Load(endpoint.url, bodies, plan.connections, plan.warmup, plan.rate))).requests
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look_for(marks, store, topic_folder(prefix, topic)))
            posting = tasks.create_task(post_marks(marks, endpoint.url, plan.payload_bytes))
            answers = await run_load(Load(endpoint.url, bodies, plan.connections, plan.seconds, plan.rate))
            posting.cancel()
            await asyncio.wait([posting])
            end = time.monotonic() + plan.flush_seconds + PATIENCE_SECONDS
            while marks.missing and time.monotonic() < end:  # noqa: ASYNC110 - S3 has to be asked anyway
                await asyncio.sleep(LOOK_EVERY_SECONDS)
            used = meter.read()
            looking.cancel()
        return WholeRun(
            round=number,
            rate=plan.rate,
            payloads=plan.payloads,
            payload_bytes=plan.payload_bytes,
            flush_seconds=plan.flush_seconds,
            answers=answers,
            to_s3=[round(seconds, 3) for seconds in marks.seconds()],
            unseen=marks.missing + marks.refused,
            carried=(warm + answers.requests) * plan.payloads + len(marks.sent),
            used=used,
            generator_cpu_seconds=meter.children_seconds(),
            noise=meter.noise(used),
        )


async def post_marks(marks: Marks, url: str, size: int) -> None:
    """One marked payload after another, each in a request of its own, until cancelled."""
    number = 0
    async with httpx.AsyncClient(trust_env=False, timeout=20, headers={"Content-Type": CONTENT_TYPE}) as client:
        while True:
            began = time.monotonic()
            answer = await client.post(url, content=b'{"data":[' + marked_payload(marks.run, number, size) + b"]}")
            if answer.status_code == 200:
                marks.sent[number] = began
            else:
                marks.refused += 1
            number += 1
            await asyncio.sleep(max(0.0, began + MARK_EVERY_SECONDS - time.monotonic()))


async def look_for(marks: Marks, store: S3Store, folder: str) -> None:
    """LIST a folder again and again, and read each new object, until cancelled."""
    known: set[str] = set()
    while True:
        began = time.monotonic()
        fresh = [item.key async for item in store.list(folder) if item.key not in known]
        for key in fresh:
            known.add(key)
            name, body = parse_key(key), await store.get(key)
            if name is not None and body is not None:
                readable = time.monotonic()
                content = await asyncio.to_thread(inflate, body, name.suffix)
                await asyncio.to_thread(marks.found, content, readable)
        await asyncio.sleep(max(0.0, began + LOOK_EVERY_SECONDS - time.monotonic()))
