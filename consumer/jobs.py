"""Claimed chunks on their way to S3: which is tried next, so that no partition takes what all of them need. Pure.

Within a partition the oldest is first, also when it comes back from a pause: nothing can be committed before it is
stored. Younger ones begin only where those under way leave slots unused (a chunk may have thousands of objects).

Two rules keep a partition whose uploads hang or fail from holding up the others:

- who has as much as is still free gets no more (of upload slots, and of places in the queue). So something is always
  left for a newcomer, however many came before; a partition that is alone may have it all.
- a partition whose attempts fail one after the other has one attempt at a time, claims no more chunks, and all such
  partitions together have half of the slots.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumer.claims import ClosedChunk
    from consumer.lane import Lane
    from consumer.packer import Body

FAILURES_TO_FAIL: Final = 3
"""Attempts of one partition, one after the other: a single lost answer says nothing about the next."""

_number = attrgetter("number")


@dataclass(eq=False)
class Job:
    """A chunk to be stored. `bodies`: its objects that are not stored yet; None before it is compressed."""

    lane: Lane
    chunk: ClosedChunk
    number: int
    """Older ones have lower numbers."""
    puts: int = 1
    """About how many it takes to store it."""
    bodies: deque[Body] | None = None
    began: float | None = None
    """When it was first tried, and when it may be tried again, by the clock that `next` is given."""
    ready_at: float = 0.0
    failures: int = 0

    @property
    def body_bytes(self) -> int:
        return sum(body.held for body in self.bodies or ())


@dataclass(eq=False)
class Line:
    """What one lane has of what is shared."""

    waiting: list[Job] = field(default_factory=list)
    """The oldest first."""
    under_way: set[Job] = field(default_factory=set)
    body_bytes: int = 0
    """Compressed and not stored yet."""
    failures: int = 0
    """Attempts that failed since the last one that did not."""

    @property
    def failing(self) -> bool:
        return self.failures >= FAILURES_TO_FAIL

    def ready(self, now: float) -> Job | None:
        """The first that isn't in a pause."""
        return next((job for job in self.waiting if job.ready_at <= now), None)

    def leaves_unused(self, slots: int, job: Job) -> bool:
        """Would those under way, without this one, use fewer slots than there are? An older one goes before them."""
        if len(self.under_way) < 2 or job.number < min(map(_number, self.under_way)):
            return True
        return sum(it.puts for it in self.under_way) < 2 * slots  # each ends with fewer than there are slots


class Jobs:
    """Waits in a line for each lane. A job is waiting (perhaps for the end of its pause), under way, or gone."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called when there is a job to wait for."""
        self._wake = wake
        self._lines: dict[Lane, Line] = {}
        self._queued: dict[Lane, Line] = {}
        """Those with jobs that wait, in the order of their turn."""
        self._failing: set[Lane] = set()
        self._waiting = 0
        self._under_way = 0
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<Jobs waiting={self._waiting} under_way={self._under_way} lanes={len(self._lines)}>"

    def qsize(self) -> int:
        """How many wait."""
        return self._waiting

    def add_lane(self, lane: Lane) -> None:
        self._lines[lane] = Line()

    def drop_lane(self, lane: Lane) -> Sequence[Job]:
        """Forget a lane. Returns its jobs that were waiting; those under way are ended by `done` or `again` as ever."""
        line = self._lines.pop(lane, None)
        if line is None:
            return ()
        self._queued.pop(lane, None)
        self._failing.discard(lane)
        self._waiting -= len(line.waiting)
        return line.waiting

    def put_nowait(self, claimed: tuple[Lane, ClosedChunk], puts: int = 1) -> None:
        """A chunk of a lane is claimed, after all that were before; that of a lane that is gone is not wanted.

        `puts`: about how many it takes to store it.
        """
        lane, chunk = claimed
        if lane in self._lines:
            self._wait(Job(lane, chunk, next(self._numbers), puts))

    def _wait(self, job: Job) -> None:
        line = self._lines[job.lane]
        insort(line.waiting, job, key=_number)
        self._queued.setdefault(job.lane, line)
        self._waiting += 1
        self._wake()

    def places_for(self, lane: Lane, places: int) -> int:
        """How many more chunks the lane may claim, where `places` are free for all."""
        line = self._lines[lane]
        if line.failing:
            return 0
        if len(self._lines) == 1:
            return max(0, places)
        return max(0, (places - len(line.waiting) + 1) // 2)  # each that it takes is one more for it, one less is free

    def next(self, now: float, slots: int) -> Job | None:
        """The job to be tried now, if any: of the lane with the fewest under way, in turn where they are equal.

        `slots`: how many jobs may be under way at a time.
        """
        found: Job | None = None
        fewest = slots
        for line in self._queued.values():
            if len(line.under_way) >= fewest or not self._may_start(line, slots):
                continue
            job = line.ready(now)
            if job is not None and line.leaves_unused(slots, job):
                found, fewest = job, len(line.under_way)
                if fewest == 0:
                    break
        if found is None:
            return None
        line = self._queued.pop(found.lane)
        line.waiting.remove(found)
        if line.waiting:
            self._queued[found.lane] = line  # at the end: others are first next time
        line.under_way.add(found)
        self._under_way += 1
        self._waiting -= 1
        if found.began is None:
            found.began = now
        return found

    def _may_start(self, line: Line, slots: int) -> bool:
        free = slots - self._under_way
        if line.failing:
            others = sum(len(self._lines[lane].under_way) for lane in self._failing)
            return free > 0 and not line.under_way and others < max(1, slots // 2)
        return len(line.under_way) < free or (len(self._lines) == 1 and free > 0)

    def wake_at(self, now: float) -> float | None:
        """When a pause ends, so that `next` may have another answer though nothing has happened."""
        pauses = (job.ready_at for line in self._queued.values() for job in line.waiting if job.ready_at > now)
        return min(pauses, default=None)

    def packed(self, job: Job, bodies: Sequence[Body]) -> None:
        """A job under way is compressed: these are to be stored."""
        job.bodies = deque(bodies)
        if (line := self._lines.get(job.lane)) is not None:
            line.body_bytes += job.body_bytes

    def stored(self, job: Job, body: Body) -> int:
        """S3 has this one of its objects. Returns the bytes that memory need not hold any more."""
        assert job.bodies
        job.bodies.remove(body)  # mostly one of the first
        size = body.held
        if (line := self._lines.get(job.lane)) is not None:
            line.body_bytes -= size
        self.progressed(job)
        return size

    def progressed(self, job: Job) -> None:
        """S3 takes what it is given: an object of this job, or a part of a bundle."""
        job.failures = 0
        if (line := self._lines.get(job.lane)) is not None:
            line.failures = 0
            if job.lane in self._failing:
                self._failing.discard(job.lane)
                for other in line.waiting:
                    other.ready_at = 0.0  # what they wait for has come

    def done(self, job: Job) -> None:
        """It is under way no more: stored, or no longer wanted."""
        self._under_way -= 1
        if (line := self._lines.get(job.lane)) is not None:
            line.under_way.discard(job)
            line.body_bytes -= job.body_bytes
        if self._waiting:
            self._wake()

    def again(self, job: Job, ready_at: float) -> bool:
        """An attempt failed; the job goes back to its place in the line. False when its lane is gone, and so it is."""
        line = self._lines.get(job.lane)
        if line is None:
            return False
        self._under_way -= 1
        line.under_way.discard(job)
        line.failures += 1
        if line.failing:
            self._failing.add(job.lane)
        job.failures += 1
        job.ready_at = ready_at
        self._wait(job)
        return True

    @property
    def failing(self) -> frozenset[Lane]:
        """Lanes whose uploads fail, one after the other."""
        return frozenset(self._failing)

    def body_bytes(self, lane: Lane) -> int:
        """Bytes of its objects that are compressed and not stored yet."""
        line = self._lines.get(lane)
        return 0 if line is None else line.body_bytes
