"""Fans the lanes of one assignment out to MAX_WORKERS uploader tasks, and turns their pressure into paused partitions.

uploader slots full -> claimed chunks wait (MAX_QUEUE) -> no new claims -> lanes full, bytes held -> partitions paused
-> Kafka keeps it. Slots, places and bytes are shared so that a partition in trouble leaves enough to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from consumer import metrics
from consumer.budget import Budget
from consumer.claims import ChunkState
from consumer.jobs import Jobs
from consumer.lane import Lane, LaneState
from consumer.offsets import METADATA_TOO_LARGE, RETRIABLE
from consumer.packer import Bundle
from consumer.press import Press
from consumer.uploader import HEALTH_PART
from headrace.errors import HaltError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection, Iterable, Sequence

    from aiokafka import TopicPartition

    from consumer.claims import ClosedChunk, Plan
    from consumer.jobs import Job
    from consumer.packer import Body, Packer
    from consumer.uploader import Uploader
    from headrace.management import Health
    from headrace.record import Record

log = logging.getLogger(__name__)

PACKED_AT_A_TIME: Final = 1
"""Chunks being compressed: memory has their lines and what has become of them. Another core encodes meanwhile."""


class Dispatcher:
    """Owns the lanes. Its synchronous methods decide and return what to do; `work` is the body of an uploader task."""

    def __init__(
        self,
        *,
        packer: Packer,
        uploader: Uploader,
        health: Health,
        memory_budget_bytes: int,
        max_queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lanes: dict[TopicPartition, Lane] = {}
        self._unsettled: dict[Lane, None] = {}
        """Those that may have something to commit, in the order in which they changed. All others are settled."""
        self.budget = Budget(memory_budget_bytes)
        self.news = asyncio.Event()
        """Set when there may be something to commit."""
        self._packer = packer
        self._uploader = uploader
        self._health = health
        self._max_queue = max_queue
        self._clock = clock
        self.room = asyncio.Event()
        """Set when a lane that rests may have reason to go on: ask `pressure` again."""
        self._resting = False
        self._jobs_changed = asyncio.Event()
        self._jobs = Jobs(self._jobs_changed.set)
        self._workers = 0
        self._packing = asyncio.Semaphore(PACKED_AT_A_TIME)
        self.press = Press(packer.press, turn=self._packing, changed=self._pressed)
        self._taking_claims = True
        self._parked: set[TopicPartition] = set()

    # Records in

    def add(self, lane: Lane) -> None:
        """A lane begins, its takeover done."""
        assert lane.partition not in self.lanes
        self.lanes[lane.partition] = lane
        self._parked.discard(lane.partition)
        self.budget.add(lane.held_bytes)
        self._jobs.add_lane(lane)
        self._unsettled[lane] = None
        self._enqueue(lane)

    def remove(self, partition: TopicPartition) -> None:
        """Forget a lane. An attempt to upload that is under way ends by itself and counts for nothing; none follows."""
        lane = self.lanes.pop(partition)
        self._fail(lane, "taken over again")

    def _fail(self, lane: Lane, problem: str) -> None:
        """Its bytes are given back at once; an upload under way gives back its body by itself."""
        self._unsettled.pop(lane, None)
        self.budget.add(-lane.held_bytes)
        for job in self._jobs.drop_lane(lane):
            self.budget.add(-job.body_bytes)
        lane.fail(problem)

    def take(self, partition: TopicPartition, records: Sequence[Record], position: int) -> None:
        """Records as they were fetched; those of a partition without a lane are not wanted."""
        lane = self.lanes.get(partition)
        if lane is None or not lane.live:
            return
        before = lane.held_bytes
        lane.take(records, position, self._clock())
        metrics.RECORDS.labels(partition.topic).inc(len(records))
        self.press.look_at(lane)
        if lane.open_bytes * 2 >= self.budget.high:
            lane.cut()  # the other half is for the next chunk, while this one is on its way
        self._account(lane, before)

    def tick(self) -> None:
        """Close what is due by age; make room where memory is short."""
        now = self._clock()
        for lane in self.lanes.values():
            before = lane.held_bytes
            if lane.tick(now):
                self._account(lane, before)
        self._cut_largest()
        self.news.set()
        metrics.HELD_BYTES.set(self.budget.held)

    def _account(self, lane: Lane, before: int) -> None:
        self.budget.add(lane.held_bytes - before)
        self._unsettled[lane] = None
        self._enqueue(lane)
        self.news.set()

    def _cut_largest(self) -> None:
        """Memory becomes short, and what is leaving does not make up for it: close the largest open chunks.

        Without this, many open chunks could fill the budget and none of them be uploaded before its age is up. It
        begins at low water, so that fetching need not stop at high water where S3 keeps up.
        """
        if not self.budget.excess:
            return
        wanted = self.budget.excess - self._leaving()
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

    def _leaving(self) -> int:
        """Bytes on their way to S3, except those that S3 does not take; and those that are about to be compressed."""
        staying = sum(lane.open_bytes for lane in self.lanes.values()) - self.press.bytes_due
        return self.budget.held - self.budget.stuck - staying

    def _own_bytes(self, lane: Lane) -> int:
        return lane.held_bytes + self._jobs.body_bytes(lane)

    def pressure(self) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """Partitions to pause and to resume now. The lanes' states have changed when this returns."""
        pause, resume = [], []
        failing = self._jobs.failing
        self.budget.set_stuck(sum(self._own_bytes(lane) - lane.open_bytes for lane in failing))
        self._cut_largest()
        exempt = self._must_go_on(failing)
        short, uneven = self.budget.short, bool(failing) or self.budget.crowded
        self._resting = False
        for partition, lane in self.lanes.items():  # all of them, after each fetch: what is looked at here is little
            state = lane.state
            if state is LaneState.FETCHING or state is LaneState.PAUSED:
                busy = (
                    (short and lane is not exempt) or lane.claims.full or (uneven and self._has_enough(lane, failing))
                )
                if busy and state is LaneState.FETCHING:
                    lane.pause()
                    pause.append(partition)
                elif not busy and state is LaneState.PAUSED:
                    lane.resume()
                    resume.append(partition)
                self._resting |= busy
            elif partition not in self._parked:
                self._parked.add(partition)
                pause.append(partition)
        return pause, resume

    def _made_room(self) -> None:
        if self._resting:
            self.room.set()

    def _has_enough(self, lane: Lane, failing: Collection[Lane]) -> bool:
        """Has it chunks on their way, and these fail, or are more than its share? Then others come first."""
        own = self._own_bytes(lane)
        if own == lane.open_bytes:
            return False
        if lane in failing:
            return True
        return len(self.lanes) > 1 and self.budget.beyond_share(own, resting=lane.state is LaneState.PAUSED)

    def _must_go_on(self, failing: Collection[Lane]) -> Lane | None:
        """Memory is short, nothing is leaving, nothing can be cut: one lane goes on until its claimed chunk is whole.

        Without this, claimed chunks that are larger than the budget together would wait for each other for ever. What
        is held goes beyond the budget by one chunk at most.
        """
        if not self.budget.short or self._leaving() > 0:
            return None
        able = (lane for lane in self.lanes.values() if lane not in failing)
        return max(able, key=lambda lane: lane.open_bytes, default=None)

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
        for lane in list(self._unsettled):
            if lane.state is LaneState.FAILED:
                del self._unsettled[lane]
                continue
            plan = lane.claims.plan(self._jobs.places_for(lane, allowance))
            if plan is not None:
                allowance -= sum(chunk.state is ChunkState.CLOSED for chunk in plan.chunks)
                found.append((lane, plan))
            elif lane.claims.settled:
                del self._unsettled[lane]
        return found

    def answered(self, lane: Lane, plan: Plan, code: int) -> bool:
        """Kafka's answer for one partition: 0 lets the claimed chunks go. True when it may be asked again."""
        if code == 0:
            for chunk in lane.claims.acknowledged(plan):
                self._put(lane, chunk)
            self._made_room()
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
        lanes = [lane for lane in self._unsettled if lane.state is not LaneState.FAILED]
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
            self._put(lane, lane.ready.popleft())

    def _put(self, lane: Lane, chunk: ClosedChunk) -> None:
        assert chunk.cargo is not None
        self._jobs.put_nowait((lane, chunk), self._packer.puts(chunk.cargo))

    def _pressed(self, change: int) -> None:
        self.budget.add(change)
        self._made_room()

    async def work(self) -> None:
        """One of MAX_WORKERS: upload claimed chunks until cancelled. One that must be tried again waits elsewhere."""
        self._workers += 1
        try:
            while True:
                job = await self._next_job()
                self.news.set()  # the queue has room for a claim
                with metrics.UPLOADS.track_inprogress():
                    await self._try(job)
                self._made_room()
        finally:
            self._workers -= 1

    async def _next_job(self) -> Job:
        loop = asyncio.get_running_loop()
        while (job := self._jobs.next(loop.time(), self._workers)) is None:
            self._jobs_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._jobs.wake_at(loop.time())):
                    await self._jobs_changed.wait()
        return job

    def _wanted(self, lane: Lane) -> bool:
        """May its chunks still be uploaded? A takeover that waits for silence waits for that of this process, too."""
        return self.lanes.get(lane.partition) is lane and lane.state is not LaneState.FAILED

    async def _try(self, job: Job) -> None:
        """Compress it, where that is to be done, and store its objects, up to attempts that fail."""
        lane, kept = job.lane, False
        try:
            if job.bodies is None:
                await self._pack(job)
            while job.bodies and self._wanted(lane):
                if not await self._upload(job, job.bodies):
                    ready_at = asyncio.get_running_loop().time() + self._uploader.pause(job.failures + 1)
                    kept = self._jobs.again(job, ready_at)
                    return
            if not job.bodies:
                self._stored(job)
        finally:
            if not kept:
                self._jobs.done(job)
                self.budget.add(-job.body_bytes)

    async def _upload(self, job: Job, bodies: deque[Body]) -> bool:
        """The first of its objects; or all of them side by side, once its bundles and what comes before are stored."""
        partition, wanted, body = job.lane.partition, partial(self._wanted, job.lane), bodies[0]
        stored = partial(self._body_stored, job)
        together = [it for it in bodies if it.before == body.before]
        if len(together) > 1 and not isinstance(body, Bundle):
            again = job.failures > 0
            return await self._uploader.upload_all(partition, together, wanted, stored=stored, after_failure=again)
        if await self._uploader.upload(partition, body, wanted, partial(self._progressed, job)):
            stored(body)
            return True
        return False

    def _body_stored(self, job: Job, body: Body) -> None:
        self.budget.add(-self._jobs.stored(job, body))
        self._s3_takes_it()

    def _progressed(self, job: Job) -> None:
        self._jobs.progressed(job)
        self._s3_takes_it()

    def _s3_takes_it(self) -> None:
        if not self._jobs.failing:
            self._health.report(HEALTH_PART, None)

    async def _pack(self, job: Job) -> None:
        lane, chunk = job.lane, job.chunk
        assert chunk.cargo is not None
        assert chunk.state is ChunkState.CLAIMED
        async with self._packing:
            bodies = await self._packer.bodies(lane.partition, chunk.offsets, chunk.cargo)
        self._jobs.packed(job, bodies)
        before = lane.held_bytes  # nothing, if it has failed
        lane.compressed(chunk.cargo)
        self.budget.add(job.body_bytes + lane.held_bytes - before)  # at once: the one has become the other
        self._made_room()

    def _stored(self, job: Job) -> None:
        lane, chunk = job.lane, job.chunk
        assert chunk.cargo is not None
        if chunk.cargo.lost is not None:
            lost = chunk.cargo.lost.end - chunk.cargo.lost.start
            metrics.LOST_OFFSETS.labels(lane.partition.topic).inc(lost)
            log.error(
                "%s: offsets %s were gone from Kafka before they were stored", _name(lane.partition), chunk.cargo.lost
            )
        if job.began is not None:
            metrics.UPLOAD_SECONDS.observe(asyncio.get_running_loop().time() - job.began)
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
