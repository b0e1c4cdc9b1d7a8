"""Records in: from a source into the lanes of one assignment, and their pressure back onto it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from consumer.lane import Lane, LaneState
from consumer.source import FetchFailed, OutOfRange
from headrace.kafka import EARLIEST, KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from aiokafka import TopicPartition

    from consumer.dispatcher import Dispatcher
    from consumer.source import Source
    from headrace.kafka import KafkaCluster

log = logging.getLogger(__name__)

LONGEST_FETCH_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 0.2
PAUSE_SECONDS: Final = 0.2
ROOM_SECONDS: Final = 0.01
"""Between two looks whether lanes may go on: each looks at all of them."""
FAILURES_TO_HALT: Final = 3


class Reader:
    """Fetches for the lanes as long as they can take it. `run` is called once."""

    def __init__(
        self, *, source: Source, cluster: KafkaCluster, dispatcher: Dispatcher, clock: Callable[[], float]
    ) -> None:
        self._source = source
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._clock = clock

    async def run(
        self, retake: Callable[[TopicPartition], Coroutine[None, None, None]], looked: Callable[[], None]
    ) -> None:
        """Until cancelled. `retake` is for a partition whose lane fits the log no more; `looked` follows each fetch."""
        swept = self._clock()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._go_on())
            while True:
                for partition in await self._fetch():
                    tasks.create_task(retake(partition))
                if self._clock() - swept >= SWEEP_SECONDS:
                    swept = self._clock()
                    self._sweep()
                self._apply_pressure()
                looked()

    async def _go_on(self) -> None:
        """Let lanes that rest go on as soon as there is room: a fetch of the others may take long to come back."""
        while True:
            await self._dispatcher.room.wait()
            self._dispatcher.room.clear()
            self._apply_pressure()
            await asyncio.sleep(ROOM_SECONDS)

    def begin(self, lane: Lane) -> None:
        """A lane is there: fetch for it from where it stands."""
        if lane.live:
            self._seek(lane)
            self._source.resume([lane.partition])

    def cease(self, partition: TopicPartition) -> None:
        """Fetch no more for it."""
        self._source.pause([partition])

    async def _fetch(self) -> Collection[TopicPartition]:
        """One fetch into the lanes. Returns partitions whose takeover must be made again."""
        due = self._dispatcher.next_due()
        timeout = LONGEST_FETCH_SECONDS if due is None else min(LONGEST_FETCH_SECONDS, max(0.0, due - self._clock()))
        try:
            for partition, records, position in await self._source.fetch(max(timeout, 0.01)):
                self._dispatcher.take(partition, records, position)
                lane = self._dispatcher.lanes.get(partition)
                if lane is not None:
                    self._seek(lane)
        except OutOfRange as error:
            self._seek_all()
            return await self._out_of_range(sorted(error.partitions))
        except FetchFailed as error:
            log.warning("%s", error)
            self._seek_all()
            await self._isolate()
        return ()

    def _seek(self, lane: Lane) -> None:
        """Fetch on from where the lane stands, if it has jumped."""
        if lane.seek_to is not None:
            self._source.seek(lane.partition, lane.seek_to)
            lane.seek_to = None

    def _seek_all(self) -> None:
        """After a failed fetch positions may have moved without their records reaching anybody."""
        for lane in self._dispatcher.lanes.values():
            if lane.live:
                lane.seek_to = None
                self._source.seek(lane.partition, lane.position)

    async def _isolate(self) -> None:
        """Fetch partition by partition: one that can't be read must not hold up the others, it halts."""
        for lane in list(self._dispatcher.lanes.values()):
            if lane.state is not LaneState.FETCHING:
                continue
            failures = 0
            while failures < FAILURES_TO_HALT:
                try:
                    for partition, records, position in await self._source.fetch(0.05, only=lane.partition):
                        self._dispatcher.take(partition, records, position)
                        self._seek(lane)
                    break
                except OutOfRange:
                    break  # the next fetch of all meets it again
                except FetchFailed as error:
                    failures += 1
                    self._source.seek(lane.partition, lane.position)
                    if failures == FAILURES_TO_HALT:
                        self._dispatcher.halt(lane, f"it can't be read at offset {lane.position}: {error}")
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _out_of_range(self, partitions: Collection[TopicPartition]) -> Collection[TopicPartition]:
        """Kafka no longer has what comes next: a gap, told loudly; or another log, which the takeover finds out."""
        again = []
        try:
            starts = await self._cluster.log_offsets(partitions, EARLIEST)
        except KafkaUnavailable as error:
            log.warning("%s", error)
            await asyncio.sleep(PAUSE_SECONDS)
            return ()
        for partition in partitions:
            lane = self._dispatcher.lanes.get(partition)
            if lane is None or not lane.live:
                continue
            if not self._dispatcher.log_starts_at(lane, starts[partition]):
                again.append(partition)
            self._seek(lane)
        return again

    def _sweep(self) -> None:
        """Positions that moved without a record (transaction markers, compaction), and chunks whose age is up."""
        for partition, lane in self._dispatcher.lanes.items():
            if lane.state is LaneState.FETCHING:
                position = self._source.position(partition)
                if position is not None and position > lane.position:
                    self._dispatcher.take(partition, (), position)
        self._dispatcher.tick()
        for lane in self._dispatcher.lanes.values():
            self._seek(lane)

    def _apply_pressure(self) -> None:
        pause, resume = self._dispatcher.pressure()
        if pause:
            self._source.pause(pause)
        if resume:
            for partition in resume:
                self._source.seek(partition, self._dispatcher.lanes[partition].position)
            self._source.resume(resume)
