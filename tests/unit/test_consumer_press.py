"""Lines of open chunks that are compressed while more of them come."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from consumer.chunk import PRESSED_AGAIN, Limits
from consumer.claims import Committed
from consumer.dispatcher import Dispatcher
from consumer.lane import Lane
from consumer.layout import Layout
from consumer.packer import Packer
from consumer.takeover import Takeover
from consumer.uploader import Uploader
from headrace.archive import read_object
from headrace.management import Health
from headrace.record import StoredRecord
from tests.fakes import CODER_BYTES, MemoryStore, PressedLines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LAYOUT = Layout("p", "hour=%H", "jsonl.zst")
HOUR_MS = 3_600_000
PRESS_BYTES = 64_000


class Rig:
    """A dispatcher whose lanes read endless logs of records of about 1 KB, in steps that a test takes."""

    def __init__(self, *, budget: int = 1 << 26, lanes: int = 1, press_bytes: int = PRESS_BYTES) -> None:
        form = PressedLines("zstd", 1)
        self.store = MemoryStore()
        self.uploader = Uploader(
            store=self.store,
            timeout_seconds=60,
            alive_for=lambda: 0.0,
            health=Health(),
        )
        packer = Packer(layout=LAYOUT, form=form)
        self._press = packer.press
        packer.press = self._watched  # type: ignore[method-assign]
        self.dispatcher = Dispatcher(
            packer=packer,
            uploader=self.uploader,
            health=Health(),
            memory_budget_bytes=budget,
            max_queue=100,
            clock=lambda: 0.0,
        )
        self.lanes = [
            Lane(
                TopicPartition("t", number),
                Takeover(Committed(0, 0, (), 0, LAYOUT.fingerprint, "id"), True, (), 0),
                layout=LAYOUT,
                encode=form.encode,
                limits=Limits(1000, 1 << 30, 60, press_bytes=press_bytes),
                most_claims=8,
            )
            for number in range(lanes)
        ]
        for lane in self.lanes:
            lane.seek_to = None
            self.dispatcher.add(lane)
        self.lane = self.lanes[0]
        self.pressing = asyncio.Event()
        """Set when lines are on their way to a coder; they get there when `go_on` is set."""
        self.go_on = asyncio.Event()
        self.pressed: list[int] = []

    async def _watched(self, bucket: Any) -> int:
        self.pressed.append(bucket.waiting)
        self.pressing.set()
        await self.go_on.wait()
        return await self._press(bucket)

    def feed(self, count: int, hours: int = 0, lane: int = 0) -> None:
        at, partition = self.lanes[lane].position, self.lanes[lane].partition
        value = b'{"text":"%b"}' % (b"x" * 1000)
        time = 1_795_219_200_000 + hours * HOUR_MS
        records = [StoredRecord(at + more, time, None, value) for more in range(count)]
        self.dispatcher.take(partition, records, at + count)

    @property
    def held(self) -> int:
        return self.dispatcher.budget.held

    @contextlib.asynccontextmanager
    async def tasks(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(part()) for part in (self.dispatcher.press.run, self.dispatcher.work)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results), results

    async def until_pressed(self, times: int) -> None:
        while len(self.pressed) < times or self.dispatcher._packing.locked():
            await asyncio.sleep(0.001)

    async def store_all(self) -> list[int]:
        """Claim and store what is closed. The offsets that S3 has then, by keys in order."""
        while self.lane.claims.unsettled:
            for lane, plan in self.dispatcher.plans():
                self.dispatcher.answered(lane, plan, 0)
            await asyncio.sleep(0.001)
        objects = self.store.objects
        return [record.offset for key in sorted(objects) for record in read_object(objects[key].body, "jsonl.zst")]


async def test_lines_that_wait_become_small() -> None:
    rig = Rig()
    rig.go_on.set()
    async with rig.tasks():
        rig.feed(40)
        before = rig.held
        await asyncio.sleep(0.01)
        assert (rig.pressed, rig.held) == ([], before), "not worth a coder"
        rig.feed(40)
        await rig.until_pressed(1)
        assert CODER_BYTES <= rig.held == rig.lane.held_bytes < 4_000
        rig.feed(5)
        await asyncio.sleep(0.01)
        assert len(rig.pressed) == 1
        rig.feed(5)
        await rig.until_pressed(2)
        assert PRESS_BYTES // PRESSED_AGAIN <= rig.pressed[1] < 12_000
        rig.feed(10)
        assert rig.lane.cut()
        assert await rig.store_all() == [*range(100)]
    assert rig.held == 0
    (stored,) = rig.store.objects.values()
    assert stored.metadata["headrace-records"] == "100"


@pytest.mark.parametrize("more", [0, 7])
async def test_a_chunk_that_closes_meanwhile_waits_for_its_coder(more: int) -> None:
    rig = Rig()
    async with rig.tasks():
        rig.feed(80)
        await rig.pressing.wait()
        rig.feed(more)
        before = rig.lane.held_bytes
        rig.lane.cut()
        assert rig.lane.held_bytes == before
        storing = asyncio.create_task(rig.store_all())
        await asyncio.sleep(0.01)
        assert not rig.store.objects
        rig.go_on.set()
        assert await storing == [*range(80 + more)]
    assert rig.held == 0


async def test_each_bucket_has_its_own_coder() -> None:
    rig = Rig()
    rig.go_on.set()
    async with rig.tasks():
        for _ in range(4):
            rig.feed(40, hours=0)
            rig.feed(30, hours=1)
            rig.feed(2, hours=2)
            await asyncio.sleep(0.01)
        assert rig.lane.cut()
        offsets = await rig.store_all()
    assert sorted(offsets) == [*range(4 * 72)]
    assert len(rig.store.objects) == 3
    assert rig.held == 0


@pytest.mark.parametrize("how", ["dropped", "failed", "removed"])
async def test_a_chunk_that_goes_meanwhile_is_given_back_once(how: str) -> None:
    rig = Rig()
    async with rig.tasks():
        rig.feed(80)
        await rig.pressing.wait()
        match how:
            case "dropped":
                rig.dispatcher.withhold_claims()
            case "failed":
                rig.dispatcher.halt(rig.lane, "meanwhile")
            case _:
                rig.dispatcher.remove(rig.lane.partition)
        assert rig.held == 0
        rig.go_on.set()
        await rig.until_pressed(1)
        assert rig.held == 0


@pytest.mark.parametrize("press_bytes", [0, PRESS_BYTES])
async def test_what_is_about_to_be_compressed_closes_no_chunk(press_bytes: int) -> None:
    """Memory is short for a moment only: a chunk that is closed for that would make an object more."""
    rig = Rig(budget=1_000_000, lanes=2, press_bytes=press_bytes)
    for lane in (0, 1):
        rig.feed(400, lane=lane)
    assert rig.dispatcher.budget.excess
    rig.dispatcher.tick()
    assert sum(lane.claims.unsettled for lane in rig.lanes) == (0 if press_bytes else 1)
