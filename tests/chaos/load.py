"""Load: careful HTTP clients of the producers, and a publisher of Kafka's own kind beside them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from headrace.closing import close_producer

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR_MS = 3_600_000


class Outcome(Enum):
    """What a client knows of a request."""

    ACCEPTED = "200"
    REFUSED = "refused: nothing of it may be in Kafka"
    UNKNOWN = "unknown: all of it may be, or nothing"


@dataclass
class HttpLoad:
    """Clients that send requests of a few payloads to the producers in turn, each with ids of its own.

    A request with an unknown outcome is sent again or not; that is a new attempt then, with new ids.
    """

    addresses: Sequence[str]
    seed: int
    clients: int = 12
    rest: float = 0.1
    """Seconds between a client's requests, on the average, at the full load."""
    share: float = 1.0
    """Of the full load."""
    outcomes: dict[int, tuple[Outcome, int]] = field(default_factory=dict)
    """Of each attempt: what its client knows, and its number of payloads."""
    answers: Counter[str] = field(default_factory=Counter)
    again: int = 0
    complaints: list[str] = field(default_factory=list)
    _attempts: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop: then the requests under way are seen to their ends."""
        timeout = httpx.Timeout(12, connect=2)
        limits = httpx.Limits(max_connections=4 * self.clients)
        async with contextlib.AsyncExitStack() as stack:
            targets = [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=address, trust_env=False, timeout=timeout, limits=limits)
                )
                for address in self.addresses
            ]
            async with asyncio.TaskGroup() as group:
                for number in range(self.clients):
                    group.create_task(self._client(number, targets, stop))

    async def _client(self, number: int, targets: Sequence[httpx.AsyncClient], stop: asyncio.Event) -> None:
        dice = random.Random(f"client {self.seed} {number}")
        turn = number
        while not stop.is_set():
            payloads = dice.choice((1, 1, 2, 3, 5, 8, 13, 40))
            lines = dice.random() < 0.3
            for _ in range(3):
                turn += 1
                outcome = await self._send(targets[turn % len(targets)], payloads, lines, dice)
                if outcome is Outcome.ACCEPTED or stop.is_set() or dice.random() < 0.3:
                    break
                self.again += 1
                await asyncio.sleep(dice.uniform(0.05, 0.5))
            await asyncio.sleep(dice.expovariate(self.share / self.rest))

    async def _send(self, target: httpx.AsyncClient, count: int, lines: bool, dice: random.Random) -> Outcome:
        self._attempts += 1
        attempt = self._attempts
        payloads = [
            b'{"attempt":%d,"n":%d,"of":%d,"exact": 12345678901234567890.10, "pad":"%s"}'
            % (attempt, n, count, b"x" * dice.randrange(250))
            for n in range(count)
        ]
        if lines:
            body, kind = b"\n".join(payloads) + b"\n", "application/x-ndjson"
        else:
            body, kind = b'{"version":"1","data":[' + b", ".join(payloads) + b"]}", "application/json"
        # Unknown until it is known, so that an attempt is on record before anything of it is in Kafka.
        self.outcomes[attempt] = (Outcome.UNKNOWN, count)
        outcome, told = await self._outcome(target, body, kind, count)
        self.outcomes[attempt] = (outcome, count)
        self.answers[told] += 1
        return outcome

    async def _outcome(self, target: httpx.AsyncClient, body: bytes, kind: str, count: int) -> tuple[Outcome, str]:
        try:
            answer = await target.post("/payloads", content=body, headers={"Content-Type": kind})
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return Outcome.REFUSED, "no connection"
        except httpx.TransportError as error:
            return Outcome.UNKNOWN, f"no answer ({type(error).__name__})"
        if answer.status_code == 200:
            if answer.json() != {"accepted": count}:
                self.complaints.append(f"{count} payloads were answered with {answer.text}")
            return Outcome.ACCEPTED, "200"
        problem = answer.json().get("type", "").rpartition(":")[2]
        if answer.status_code != 503 or "retry-after" not in answer.headers:
            self.complaints.append(f"a good request was answered with {answer.status_code} {answer.text}")
        outcome = Outcome.UNKNOWN if problem == "outcome-unknown" else Outcome.REFUSED
        return outcome, f"{answer.status_code} {problem}"

    def payloads(self, outcome: Outcome) -> int:
        return sum(count for told, count in self.outcomes.values() if told is outcome)

    def requests(self, outcome: Outcome) -> int:
        return sum(told is outcome for told, _ in self.outcomes.values())


@dataclass
class NativeLoad:
    """A publisher that writes keys, headers and any bytes straight into the topic, some of them hours old."""

    options: dict[str, Any]
    topic: str
    seed: int
    burst: int = 60
    rest: float = 0.15
    share: float = 1.0
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    replaced: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        dice = random.Random(f"native {self.seed}")
        while not stop.is_set():
            producer = AIOKafkaProducer(
                **self.options, acks="all", enable_idempotence=True, linger_ms=5, request_timeout_ms=40_000
            )
            try:
                async with asyncio.timeout(20):
                    await producer.start()
                while not stop.is_set():
                    await self._burst(producer, dice)
                    await asyncio.sleep(self.rest / self.share)
            except (KafkaError, OSError):  # TimeoutError is an OSError
                self.replaced += 1
                await asyncio.sleep(0.5)
            finally:
                await close_producer(producer)

    async def _burst(self, producer: AIOKafkaProducer, dice: random.Random) -> None:
        flying = []
        for _ in range(self.burst):
            number, self.sent = self.sent, self.sent + 1
            value = self._value(dice)
            when = int(time.time() * 1000) - dice.choice((0,) * 20 + (1, 30)) * HOUR_MS
            headers = [("kind", dice.randbytes(3))] if dice.random() < 0.2 else []
            key = b"native-%d" % number
            future = await producer.send(self.topic, value, key, headers=headers, timestamp_ms=when)
            flying.append((number, future))
        async with asyncio.timeout(60):
            for number, future in flying:
                await future
                self.acknowledged.add(number)

    def _value(self, dice: random.Random) -> bytes | None:
        match dice.randrange(12):
            case 0:
                return None
            case 1:
                return b""
            case 2:
                return dice.randbytes(dice.randrange(2000))
            case 3:
                return b"a line\nand another\r\n"
            case _:
                return b'{"a": 1.10, "b": "%s"}' % (b"y" * dice.randrange(200))
