"""Rounds of cases against a producer process; after each of them everything is looked at."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.fuzz.cases import MAX_LENGTH, case
from tests.fuzz.client import Violation, send
from tests.fuzz.ledger import PATIENCE_SECONDS, Ledger
from tests.producer_process import serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    from aiokafka.structs import ConsumerRecord

    from tests.papers import Papers
    from tests.producer_process import ProducerProcess

ROUND: Final = 200
AT_A_TIME: Final = 12
PARTITIONS: Final = 3
WARM_ROUNDS: Final = 2
"""Until modules are loaded, caches of answers and media types are full, and malloc has the room it goes on with."""
LATEST_ROUNDS: Final = 2
MORE_MEMORY: Final = 6 * 1024 * 1024
"""What malloc's holes may add to that, however long it goes on. In an hour's 200,000 connections a leak of 30 bytes
each is more; in the 800 of the tests it takes 16,000, as a body that is never let go has."""
MORE_DESCRIPTORS: Final = 10
SETTLED_SECONDS: Final = 30.0
SETTINGS: Final = {
    "MAX_LENGTH": str(MAX_LENGTH),
    "MEMORY_BUDGET_BYTES": "3000000",
    "BODY_TIMEOUT_SECONDS": str(PATIENCE_SECONDS),
    "HEADER_TIMEOUT_SECONDS": str(PATIENCE_SECONDS),
    "KAFKA_TOPIC_PARTITIONS": str(PARTITIONS),
}
_WAITING: Final = re.compile(r"^headrace_producer_waiting_(?:payloads|bytes) (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Outcome:
    seed: int
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    records: int = 0
    seconds: float = 0.0
    memory: list[int] = field(default_factory=list)
    """Bytes in RAM after each round."""
    descriptors: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def grown(self) -> int:
        """Bytes that the least of the latest rounds has more than the most of the first; 0 as long as these are one."""
        first, later = self.memory[:WARM_ROUNDS], self.memory[WARM_ROUNDS:]
        return min(later[-LATEST_ROUNDS:]) - max(first) if len(later) >= LATEST_ROUNDS else 0

    def __str__(self) -> str:
        told = (
            f"seed {self.seed}: {self.cases} connections in {self.seconds:.0f} s; requests accepted {self.accepted}, "
            f"refused {self.refused}, unanswered {self.unanswered}; {self.records} records in Kafka"
        )
        lines = [told, *(f"VIOLATION {violation}" for violation in self.violations)]
        if self.memory:
            first, most, last = (size / 2**20 for size in (self.memory[0], max(self.memory), self.memory[-1]))
            lines.insert(
                1,
                f"memory {first:.1f} MiB after the first {ROUND}, {most:.1f} at most, {last:.1f} at the end; "
                f"open files {self.descriptors[0]}, {self.descriptors[-1]} at the end",
            )
        return "\n".join(lines)


async def fuzz(
    environment: Mapping[str, str],
    topic: str,
    *,
    seed: int,
    seconds: float = 0.0,
    cases: int = 0,
    only: int | None = None,
    tls: Papers | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Goes on for so many seconds and cases at least, or until a round has violations. `only`: this case alone.

    `tls`: with this certificate.
    """
    outcome = Outcome(seed)
    began = time.monotonic()
    numbers: Iterator[int] = itertools.count() if only is None else iter([only])
    context = None if tls is None else tls.context(client=False)
    settings = SETTINGS if tls is None else {**SETTINGS, **tls.settings}
    async with (
        serving(environment, topic, context or True, **settings) as (process, url),
        Reader(environment, topic) as kafka,
    ):
        while not outcome.violations:
            batch = list(itertools.islice(numbers, ROUND))
            if not batch:
                break
            await _round(process, url, kafka, batch, outcome, context)
            if outcome.grown > MORE_MEMORY:
                outcome.violations.append(f"memory grew by {outcome.grown} bytes")
            outcome.seconds = time.monotonic() - began
            say("; ".join(str(outcome).splitlines()[:2]))
            if outcome.seconds >= seconds and outcome.cases >= cases:
                break
        if process.process.poll() is not None:
            outcome.violations.append(f"the producer ended with {process.process.returncode}")
        for word in ("Traceback", "unforeseen"):
            if word in process.log:
                outcome.violations.append(f"its log has a {word}: {process.log[-3000:]}")
    return outcome


async def _round(
    process: ProducerProcess,
    url: str,
    kafka: Reader,
    numbers: list[int],
    outcome: Outcome,
    tls: ssl.SSLContext | None,
) -> None:
    parts = httpx.URL(url)
    ledger = Ledger()
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            made = case(outcome.seed, number)
            made.stream = made.stream.replace(b"@TOPIC@", kafka.topic.encode())
            try:
                answers, seconds = await send(parts.host, parts.port or 80, made, tls)
            except Violation as violation:
                outcome.violations.append(f"case {number}: {violation}")
            except OSError as error:
                outcome.violations.append(f"case {number}: {type(error).__name__}: {error}")
            else:
                ledger.note(made, answers, seconds)
            outcome.cases += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(work())
    outcome.violations += await _settled(process, url, outcome, tls)
    records = await kafka.new_records()
    outcome.records += len(records)
    outcome.violations += ledger.violations(records)
    outcome.accepted += ledger.accepted
    outcome.refused += ledger.refused
    outcome.unanswered += ledger.unanswered


async def _settled(process: ProducerProcess, url: str, outcome: Outcome, tls: ssl.SSLContext | None) -> list[str]:
    """Nothing waits any more, nothing is held, and it still answers; else what is wrong."""
    descriptors = Path(f"/proc/{process.process.pid}/fd")
    usual = outcome.descriptors[0] + MORE_DESCRIPTORS if outcome.descriptors else 1_000
    until = time.monotonic() + SETTLED_SECONDS
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SETTLED_SECONDS, verify=tls or True) as client:
        while True:
            try:
                metrics = (await client.get("/metrics")).text
            except httpx.HTTPError as error:
                return [f"it does not answer any more: {type(error).__name__} {error}"]
            waiting = [float(value) for value in _WAITING.findall(metrics)]
            opened = len(list(descriptors.iterdir()))
            if not any(waiting) and opened <= usual:
                break
            if time.monotonic() > until:
                return [f"{SETTLED_SECONDS:g} s later, {waiting} payloads and bytes wait and {opened} files are open"]
            await asyncio.sleep(0.05)
        answer = await client.post("/payloads", content=b'{"data":[]}')
        if answer.status_code != 200:
            return [f"a good request is answered {answer.status_code} {answer.text}"]
    outcome.descriptors.append(opened)
    outcome.memory.append(process.memory())
    return []


class Reader:
    """Reads the topic from where it was, committed records alone."""

    def __init__(self, environment: Mapping[str, str], topic: str) -> None:
        self.topic = topic
        self._partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=environment["KAFKA_BOOTSTRAP_SERVERS"],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_beginning(*self._partitions)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def new_records(self) -> list[ConsumerRecord]:
        ends = await self._consumer.end_offsets(self._partitions)
        found: list[ConsumerRecord] = []
        while any([await self._consumer.position(tp) < ends[tp] for tp in self._partitions]):
            for records in (await self._consumer.getmany(timeout_ms=200)).values():
                found += records
        return found
