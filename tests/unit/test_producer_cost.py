"""What a request costs, counted and not timed: calls of Python functions, blocks of memory, modules at the start.

The ceilings are a tenth above what there was when they were set. A change that makes a payload cost a call more goes
through them at once; one that is worth its cost raises them, and says why in docs/PERFORMANCE.md.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace.management import Health
from producer.app import create_app
from producer.codecs import codec_for, crc32c
from producer.ingest import Ingest
from producer.intake import Intake
from producer.packing import RecordBatch
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from types import FrameType

    from producer.batches import Batch

ROUNDS = 40
CONNECTIONS = 16
ROOT = Path(__file__).parents[2]

CALLS_A_REQUEST = 24
"""Of Python functions, from the app's being called until its answer is sent, whatever the number of payloads."""
CALLS_A_BATCH = 40
BLOCKS_HELD_A_PAYLOAD = 1.1
"""Python's memory blocks while a request waits for Kafka: a payload is a view of the body, and nothing more."""
BLOCKS_HELD_A_REQUEST = 40


class Counting:
    """Acknowledges what it gets at the next turn of the loop, packed as for Kafka."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._loop = asyncio.get_running_loop()
        self.batches = 0
        self.held: list[Batch] | None = None

    def partitions(self) -> range:
        return range(12)

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        self.batches += 1
        if self.held is not None:
            self.held.append(batch)
            return
        RecordBatch(batch.requests, 1, codec=codec_for("lz4"), crc32c=crc32c)._build()
        self._loop.call_soon(self._intake.landed, batch, 1.0, None)


class Front:
    def __init__(self) -> None:
        settings = ProducerSettings.model_validate({"kafka_topic": "t", "linger_ms": 0})
        self.intake = Intake(settings)
        self.outlet = Counting(self.intake)
        self.intake.open(self.outlet)
        self.app = create_app(Ingest(settings, self.intake), Health())

    async def post(self, body: bytes) -> None:
        message = {"type": "http.request", "body": body, "more_body": False}
        headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

        async def receive() -> dict[str, Any]:
            return message

        async def send(message: dict[str, Any]) -> None:
            assert message.get("status", 200) == 200

        await self.app({"type": "http", "method": "POST", "path": "/payloads", "headers": headers}, receive, send)  # type: ignore[arg-type]


def body_of(payloads: int) -> bytes:
    return b'{"version":"1","token":"t","data":[' + b",".join(b'{"n":%d}' % n for n in range(payloads)) + b"]}"


async def calls(front: Front, payloads: int) -> tuple[float, float, Counter[str]]:
    """Calls a request, batches a request, and where the calls went."""
    body = body_of(payloads)
    for _ in range(3):
        await asyncio.gather(*(front.post(body) for _ in range(CONNECTIONS)))
    found: Counter[str] = Counter()

    def notice(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "/producer/" in frame.f_code.co_filename:
            found[frame.f_code.co_qualname] += 1

    before = front.outlet.batches
    sys.setprofile(notice)
    try:
        for _ in range(ROUNDS):
            await asyncio.gather(*(front.post(body) for _ in range(CONNECTIONS)))
    finally:
        sys.setprofile(None)
    requests = ROUNDS * CONNECTIONS
    return found.total() / requests, (front.outlet.batches - before) / requests, found


@pytest.mark.parametrize("payloads", [1, 10, 1000])
async def test_a_request_costs_so_many_calls_however_many_payloads_it_has(payloads: int) -> None:
    a_request, batches, where = await calls(Front(), payloads)
    assert a_request <= CALLS_A_REQUEST + batches * CALLS_A_BATCH, where.most_common(20)


async def test_while_kafka_is_awaited_a_payload_is_one_block_of_memory() -> None:
    front = Front()
    await front.post(body_of(1000))
    held: dict[int, int] = {}
    for payloads in (10, 1010):
        front.outlet.held = []
        bodies = [body_of(payloads) for _ in range(CONNECTIONS)]
        gc.collect()
        before = sys.getallocatedblocks()
        tasks = [asyncio.create_task(front.post(body)) for body in bodies]
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        held[payloads] = sys.getallocatedblocks() - before
        batches, front.outlet.held = front.outlet.held, None
        for batch in batches:
            front.intake.landed(batch, 1.0, None)
        await asyncio.gather(*tasks)
    a_payload = (held[1010] - held[10]) / CONNECTIONS / 1000
    assert a_payload <= BLOCKS_HELD_A_PAYLOAD
    assert held[10] / CONNECTIONS - 10 * a_payload <= BLOCKS_HELD_A_REQUEST


async def test_while_kafka_is_awaited_a_body_is_held_once() -> None:
    front = Front()
    body = b'{"data":["' + b'","'.join([b"x" * 10_000] * 10) + b'"]}'
    await front.post(body)
    front.outlet.held = []
    tracemalloc.start()
    try:
        posting = asyncio.create_task(front.post(body))
        for _ in range(5):
            await asyncio.sleep(0)
        beside_the_body, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert beside_the_body < len(body) // 4
    front.intake.landed(front.outlet.held[0], 1.0, None)
    await posting


HEAVY = {
    "aiobotocore",
    "aiohttp",
    "botocore",
    "consumer",
    "httpx",
    "isal",
    "jgo",
    "psutil",
    "rich",
    "wsproto",
    "websockets",
    "zstandard",
}


def test_serve_loads_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys, headrace.cli, uvloop, producer.cli, producer.process, producer.server\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), len(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    *loaded, count = told.split()
    assert HEAVY.intersection(loaded) == set()
    assert int(count) < 640, "each module is a part of the start"


def test_who_looks_after_workers_loads_no_server() -> None:
    servers = "{'aiokafka', 'starlette', 'uvicorn', 'uvloop'}"
    code = f"import sys, producer.cli, producer.process; print({servers} & {{*sys.modules}})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert told.strip() == "set()"
