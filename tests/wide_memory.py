"""How much memory many open buckets take, against what is counted: `python -m tests.wide_memory PARTITIONS HOURS SIZE`.

Real lanes and a real dispatcher, in a process of their own. Each fetch brings a single record, so that lines stand in
as many pieces as can be: no other way of filling the budget costs more beside the lines. Prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from pathlib import Path

import orjson
from aiokafka import TopicPartition

from consumer.chunk import Limits
from consumer.claims import Committed
from consumer.dispatcher import Dispatcher
from consumer.encode import open_format
from consumer.lane import Lane
from consumer.layout import DEFAULT_OBJECT_PATH, Layout
from consumer.packer import Packer
from consumer.takeover import Takeover
from consumer.uploader import Uploader
from headrace.management import Health
from headrace.record import StoredRecord
from headrace.s3 import S3Unavailable
from tests.fakes import Fault, MemoryStore

BUDGET = 64 * 1024 * 1024
BEGIN_MS = 1_795_219_200_000
HOUR_MS = 3_600_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def highest() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


async def main(partitions: int, hours: int, size: int) -> None:
    logging.disable(logging.CRITICAL)  # each upload fails
    form = open_format("jsonl", "zstd")
    layout = Layout("p", DEFAULT_OBJECT_PATH, form.suffix)
    store, health = MemoryStore(), Health()
    store.faults += [Fault("put", S3Unavailable("503")) for _ in range(100_000)]
    uploader = Uploader(store=store, timeout_seconds=60, alive_for=lambda: 0.0, health=health)
    packer = Packer(layout=layout, form=form)
    dispatcher = Dispatcher(packer=packer, uploader=uploader, health=health, memory_budget_bytes=BUDGET, max_queue=64)
    for number in range(partitions):
        begin = Takeover(Committed(0, 0, (), 0, layout.fingerprint, "id"), True, (), 0)
        lane = Lane(
            TopicPartition("t", number),
            begin,
            layout=layout,
            encode=form.encode,
            limits=Limits(100_000, BUDGET, 60),
            most_claims=32,
        )
        lane.seek_to = None
        dispatcher.add(lane)
    pad = bytes(97 + number % 26 for number in range(size))
    gc.collect()
    before = resident()
    offset = records = 0
    while not dispatcher.budget.short:
        for lane in dispatcher.lanes.values():
            value = b"".join((b'{"pad":"', b"%08d" % records, pad, b'"}'))  # as long as it must be, as fetches' are
            record = StoredRecord(offset, BEGIN_MS + offset % hours * HOUR_MS, None, value)
            dispatcher.take(lane.partition, [record], offset + 1)
            records += 1
        offset += 1
    gc.collect()
    told = {"records": records, "rounds": offset, "open": resident() - before, "held_open": dispatcher.budget.held}
    # Memory is short, so chunks close; S3 takes none of them, so that their bodies stay.
    workers = [asyncio.create_task(dispatcher.work()) for _ in range(16)]
    for _ in range(50):
        dispatcher.pressure()
        for lane, plan in dispatcher.plans():
            dispatcher.answered(lane, plan, 0)
        await asyncio.sleep(0.02)
    told |= {"highest": highest() - before, "held": dispatcher.budget.held, "puts": len(store.calls)}
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
