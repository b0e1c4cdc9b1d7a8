"""Fans the lanes of one assignment out to MAX_WORKERS uploader tasks, and turns their pressure into paused partitions.

uploader slots full -> claimed chunks wait (MAX_QUEUE) -> no new claims -> lanes full, bytes held -> partitions paused
-> Kafka keeps it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from consumer import metrics
from consumer.budget import Budget
from consumer.claims import ChunkState
from consumer.lane import Lane, LaneState
from consumer.offsets import METADATA_TOO_LARGE, RETRIABLE
from headrace.errors import HaltError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiokafka import TopicPartition

    from consumer.claims import ClosedChunk, Plan
    from consumer.uploader import Uploader
    from headrace.management import Health
    from headrace.record import Record

log = logging.getLogger(__name__)

PACKED_AT_A_TIME: Final = 2
"""Chunks being compressed: while they are, memory holds their lines and their bodies both."""


class Dispatcher:
    """Owns the lanes. Its synchronous methods decide and return what to do; `work` is the body of an uploader task."""

    def __init__(
        self,
        *,
        uploader: Uploader,
        health: Health,
        memory_budget_bytes: int,
        max_queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lanes: dict[TopicPartition, Lane] = {}
        self.budget = Budget(memory_budget_bytes)
        self.news = asyncio.Event()
        """Set when there may be something to commit."""
        self._uploader = uploader
        self._health = health
        self._max_queue = max_queue
        self._clock = clock
        self._jobs: asyncio.Queue[tuple[Lane, ClosedChunk]] = asyncio.Queue()
        self._packing = asyncio.Semaphore(PACKED_AT_A_TIME)
        self._taking_claims = True
        self._parked: set[TopicPartition] = set()

    # Records in

    def add(self, lane: Lane) -> None:
        """A lane begins, its takeover done."""
        assert lane.partition not in self.lanes
        self.lanes[lane.partition] = lane
        self._parked.discard(lane.partition)
        self.budget.add(lane.held_bytes)
        self._enqueue(lane)

    def remove(self, partition: TopicPartition) -> None:
        """Forget a lane. An attempt to upload that is under way ends by itself and counts for nothing; none follows."""
        lane = self.lanes.pop(partition)
        self._fail(lane, "taken over again")

    def _fail(self, lane: Lane, problem: str) -> None:
        """Its bytes are given back at once; an upload under way gives back its body by itself."""
        self.budget.add(-lane.held_bytes)
        lane.fail(problem)

    def take(self, partition: TopicPartition, records: Sequence[Record], position: int) -> None:
        """Records as they were fetched; those of a partition without a lane are not wanted."""
        lane = self.lanes.get(partition)
        if lane is None or not lane.live:
            return
        before = lane.held_bytes
        lane.take(records, position, self._clock())
        metrics.RECORDS.labels(partition.topic).inc(len(records))
        self._account(lane, before)

    def tick(self) -> None:
        """Close what is due by age; make room where memory is short."""
        now = self._clock()
        for lane in self.lanes.values():
            before = lane.held_bytes
            lane.tick(now)
            self._account(lane, before)
        self._cut_largest()
        metrics.HELD_BYTES.set(self.budget.held)

    def _account(self, lane: Lane, before: int) -> None:
        self.budget.add(lane.held_bytes - before)
        self._enqueue(lane)
        self.news.set()

    def _cut_largest(self) -> None:
        """Memory is short, and what is closed already does not make up for it: close the largest open chunks.

        Without this, many open chunks could fill the budget and none of them be uploaded before its age is up.
        """
        leaving = self.budget.held - sum(lane.open_bytes for lane in self.lanes.values())
        wanted = self.budget.excess - leaving
        if wanted <= 0:
            return
        for lane in sorted(self.lanes.values(), key=lambda lane: lane.open_bytes, reverse=True):
            size = lane.open_bytes
            if wanted <= 0 or size == 0:
                return
            before = lane.held_bytes
            if lane.cut():
                wanted -= size
            self._account(lane, before)

    def pressure(self) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """Partitions to pause and to resume now. The lanes' states have changed when this returns."""
        pause, resume = [], []
        exempt = self._must_go_on()
        for partition, lane in self.lanes.items():
            busy = (self.budget.short and lane is not exempt) or lane.claims.full
            if lane.state is LaneState.FETCHING and busy:
                lane.pause()
                pause.append(partition)
            elif lane.state is LaneState.PAUSED and not busy:
                lane.resume()
                resume.append(partition)
            elif not lane.live and partition not in self._parked:
                self._parked.add(partition)
                pause.append(partition)
        return pause, resume

    def _must_go_on(self) -> Lane | None:
        """Memory is short, nothing is leaving, nothing can be cut: one lane goes on until its claimed chunk is whole.

        Without this, claimed chunks that are larger than the budget together would wait for each other for ever. What
        is held goes beyond the budget by one chunk at most.
        """
        if not self.budget.short or self.budget.held > sum(lane.open_bytes for lane in self.lanes.values()):
            return None
        return max(self.lanes.values(), key=lambda lane: lane.open_bytes, default=None)

    def next_due(self) -> float | None:
        """When the next open chunk's age is up."""
        return min((due for lane in self.lanes.values() if (due := lane.next_due()) is not None), default=None)

    def log_starts_at(self, lane: Lane, start: int) -> bool:
        """Kafka has dropped what lies before `start`. False: the partition must be taken over again."""
        before = lane.held_bytes
        fits = lane.log_starts_at(start)
        self._account(lane, before)
        return fits

    # Claims

    def plans(self) -> list[tuple[Lane, Plan]]:
        """What to commit, of all lanes. Each plan must be ended by `answered`."""
        allowance = max(0, self._max_queue - self._jobs.qsize()) if self._taking_claims else 0
        found = []
        for lane in self.lanes.values():
            if lane.state is LaneState.FAILED:
                continue
            plan = lane.claims.plan(allowance)
            if plan is not None:
                allowance -= sum(chunk.state is ChunkState.CLOSED for chunk in plan.chunks)
                found.append((lane, plan))
        return found

    def answered(self, lane: Lane, plan: Plan, code: int) -> bool:
        """Kafka's answer for one partition: 0 lets the claimed chunks go. True when it may be asked again."""
        if code == 0:
            for chunk in lane.claims.acknowledged(plan):
                self._jobs.put_nowait((lane, chunk))
            return False
        if code == METADATA_TOO_LARGE:
            try:
                lane.claims.metadata_too_large(plan)
            except HaltError as error:
                self.halt(lane, str(error))
            return True
        lane.claims.refused(plan)
        if code in RETRIABLE:
            return True
        self.halt(lane, f"Kafka refuses its commits (error {code}). Does the topic still exist, may the group read it?")
        return False

    def withhold_claims(self) -> None:
        """From now on store and commit only what is claimed: the partitions are about to go to somebody else."""
        self._taking_claims = False
        for lane in self.lanes.values():
            before = lane.held_bytes
            lane.drop_open()
            self._account(lane, before)

    def cut_all(self) -> None:
        """Close all open chunks: the process is ending and wants to leave nothing behind."""
        for lane in self.lanes.values():
            before = lane.held_bytes
            if not lane.cut():
                lane.drop_open()
            self._account(lane, before)

    def halt(self, lane: Lane, problem: str) -> None:
        """This partition can't be kept right: it stops where it is, for everybody to see."""
        self._fail(lane, problem)
        report_halt(self._health, lane.partition, problem)

    @property
    def idle(self) -> bool:
        """All that is closed is stored and committed, as far as that is to be had."""
        lanes = [lane for lane in self.lanes.values() if lane.state is not LaneState.FAILED]
        if self._taking_claims:
            return all(lane.claims.settled for lane in lanes)
        return all(lane.claims.claims_settled for lane in lanes)

    @property
    def ended(self) -> bool:
        """Of a replay: each partition has stored and committed all of its range, or has failed."""
        return all(
            lane.state is LaneState.FAILED or (lane.state is LaneState.FINISHED and lane.claims.settled)
            for lane in self.lanes.values()
        )

    # Uploads

    def _enqueue(self, lane: Lane) -> None:
        while lane.ready:
            self._jobs.put_nowait((lane, lane.ready.popleft()))

    async def work(self) -> None:
        """One of MAX_WORKERS: upload claimed chunks until cancelled."""
        while True:
            lane, chunk = await self._jobs.get()
            self.news.set()  # the queue has room for a claim
            if self._wanted(lane):
                with metrics.UPLOADS.track_inprogress(), metrics.UPLOAD_SECONDS.time():
                    await self._store(lane, chunk)

    def _wanted(self, lane: Lane) -> bool:
        """May its chunks still be uploaded? A takeover that waits for silence waits for that of this process, too."""
        return self.lanes.get(lane.partition) is lane and lane.state is not LaneState.FAILED

    async def _store(self, lane: Lane, chunk: ClosedChunk) -> None:
        cargo = chunk.cargo
        assert cargo is not None
        assert chunk.state is ChunkState.CLAIMED
        raw, held = cargo.size, 0
        try:
            async with self._packing:
                bodies = await self._uploader.bodies(lane.partition, chunk.offsets, cargo)
            held = sum(len(body.content) for body in bodies)
            self.budget.add(held)
            if lane.state is not LaneState.FAILED:
                lane.compressed(raw)
                self.budget.add(-raw)
            for body in bodies:
                if not await self._uploader.upload(lane.partition, body, wanted=partial(self._wanted, lane)):
                    return
        finally:
            self.budget.add(-held)
        if cargo.lost is not None:
            lost = cargo.lost.end - cargo.lost.start
            metrics.LOST_OFFSETS.labels(lane.partition.topic).inc(lost)
            log.error("%s: offsets %s were gone from Kafka before they were stored", _name(lane.partition), cargo.lost)
        lane.claims.stored(chunk)
        self.news.set()


def report_halt(health: Health, partition: TopicPartition, problem: str) -> None:
    """Tell the log and /readyz that a partition has stopped."""
    metrics.FAILED.inc()
    log.error("%s has stopped: %s", _name(partition), problem)
    health.report(_name(partition), problem)


def clear_halts(health: Health, partitions: Iterable[TopicPartition]) -> None:
    """Partitions begin anew with a new assignment: what was said of them no longer holds."""
    metrics.FAILED.set(0)
    for partition in partitions:
        health.report(_name(partition), None)


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"
