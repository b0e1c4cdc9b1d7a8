"""A partition's lane: takes its records in order, cuts them into chunks, keeps its claims. Pure; time is passed in."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from consumer.chunk import Bucket, Cargo, Limits, OpenChunk
from consumer.claims import ChunkState, Claims, ClosedChunk
from consumer.takeover import Segment, SegmentKind, Takeover
from headrace.objects import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiokafka import TopicPartition

    from consumer.layout import Layout
    from headrace.record import Record


class LaneState(enum.Enum):
    """FETCHING <-> PAUSED (budget, or enough chunks on their way); either -> FINISHED (a replay's end) or FAILED.

    A new assignment is a new lane; a lane never changes hands.
    """

    FETCHING = "fetching"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"


class Lane:
    """One partition of one assignment. Owned by the dispatcher, which acts on `seek_to`, `ready` and `state`."""

    def __init__(
        self,
        partition: TopicPartition,
        takeover: Takeover,
        *,
        layout: Layout,
        encode: Callable[[Sequence[Record]], list[bytes]],
        limits: Limits,
        most_claims: int,
        stop: int | None = None,
    ) -> None:
        """`stop`: the offset before which a replay ends; None for an archive, which never does."""
        self.partition = partition
        self.state = LaneState.FETCHING
        self.problem = ""
        self.claims = Claims(takeover.committed, known=takeover.known, most=most_claims)
        self.position = -1
        self.seek_to: int | None = None
        self.ready: deque[ClosedChunk] = deque()
        """Claimed chunks that wait for an uploader."""
        self._layout = layout
        self._encode = encode
        self._limits = limits
        self._stop = stop
        self._floor = takeover.floor
        self._waited = takeover.known and takeover.committed.durable > 0
        """What has waited for a new owner shall not wait a whole age again: its first free chunk closes at half."""
        self._segments: deque[Segment] = deque(takeover.segments)
        self._open: OpenChunk | None = None
        self._closed: list[Cargo] = []
        self._next_chunk()

    @property
    def held_bytes(self) -> int:
        """Bytes of memory of the open chunk and of closed ones that aren't compressed yet."""
        return self.open_bytes + sum(cargo.held for cargo in self._closed)

    @property
    def open_bytes(self) -> int:
        return 0 if self._open is None else self._open.held

    @property
    def ripe_bytes(self) -> int:
        """Bytes of the open chunk's lines that are worth being compressed now."""
        return 0 if self._open is None else self._open.ripe_bytes

    def next_ripe(self) -> tuple[Cargo, Bucket] | None:
        """The open chunk's cargo, and a bucket in it whose waiting lines are worth being compressed now."""
        bucket = None if self._open is None else self._open.next_ripe()
        return None if bucket is None or self._open is None else (self._open.cargo, bucket)

    @property
    def live(self) -> bool:
        return self.state in {LaneState.FETCHING, LaneState.PAUSED}

    def pause(self) -> None:
        assert self.state is LaneState.FETCHING, self.state
        self.state = LaneState.PAUSED

    def resume(self) -> None:
        assert self.state is LaneState.PAUSED, self.state
        self.state = LaneState.FETCHING

    def fail(self, problem: str) -> None:
        """Stop here, loudly: the watermark stays where it is, nothing is skipped."""
        self.state = LaneState.FAILED
        self.problem = problem
        self._open = None
        self._closed.clear()
        self.ready.clear()

    def take(self, records: Sequence[Record], position: int, now: float) -> None:
        """Records as fetched, from `self.position` on. `position`: no further record lies below it."""
        while self._open is not None and self.seek_to is None:
            chunk = self._open
            count = chunk.take(records, layout=self._layout, encode=self._encode, limits=self._limits, now=now)
            records = records[count:]
            if self._waited and count and not chunk.exact:
                self._waited = False
                chunk.since = now - self._limits.max_seconds / 2
            chunk.reach(records[0].offset if records else position)
            self.position = chunk.position
            if not chunk.due(self._limits, now):
                assert not records, "a chunk that does not take all is due"
                return
            self._close()
        # What is left over lies behind a jump, or a replay's end, and is fetched again where it is wanted.

    def tick(self, now: float) -> bool:
        """Close the open chunk if its age is up, and let the commit move past an empty range. Whether it did either."""
        if self._open is None:
            return False
        if self._open.due(self._limits, now):
            self._close()
            return True
        return self._open.records == 0 and not self._open.exact and self.claims.skip_empty(self._open.position)

    def next_due(self) -> float | None:
        """When age closes the open chunk; None while it is empty or its ends are given."""
        if self._open is None or self._open.since is None or self._open.exact:
            return None
        return self._open.since + self._limits.max_seconds

    def cut(self) -> bool:
        """Close the open chunk now, however small (memory is short, or the process ends). False where that can't be."""
        if self._open is None or self._open.exact or self._open.records == 0:
            return False
        self._close()
        return True

    def drop_open(self) -> None:
        """Forget the open chunk: another owner will cut it in its own way."""
        self._open = None

    def log_starts_at(self, start: int) -> bool:
        """Kafka has dropped what lies between our position and `start`. False: the takeover must be made again."""
        if self._open is None or self._open.exact or self._segments or start <= self.position:
            return False
        self.cut()
        at = self.claims.last_end
        self._segments.append(
            Segment(SegmentKind.GAP, Range(at, start), claimed=False, lost=Range(self.position, start))
        )
        self._floor = start
        self._next_chunk()
        return True

    def _within_replay(self, gap: Segment) -> Segment:
        """A replay ends at its stop, also where Kafka has dropped what lies beyond; a claimed end stays as it is."""
        if self._stop is None or gap.claimed or gap.offsets.end <= self._stop:
            return gap
        lost = Range(min(gap.offsets.start if gap.lost is None else gap.lost.start, self._stop - 1), self._stop)
        return replace(gap, offsets=Range(gap.offsets.start, self._stop), lost=lost)

    def compressed(self, cargo: Cargo) -> None:
        """A closed chunk's lines have become bodies, which the dispatcher accounts for."""
        self._closed = [other for other in self._closed if other is not cargo]

    def _close(self) -> None:
        assert self._open is not None
        offsets, cargo = self._open.close()
        self._append(offsets, cargo, claimed=self._open.claimed)
        self._closed.append(cargo)
        self._open = None
        self._next_chunk()

    def _append(self, offsets: Range, cargo: Cargo, *, claimed: bool) -> None:
        chunk = ClosedChunk(offsets, cargo, ChunkState.CLAIMED if claimed else ChunkState.CLOSED)
        self.claims.close(chunk)
        if claimed:
            self.ready.append(chunk)

    def _next_chunk(self) -> None:
        """Open the next chunk; pass over what is stored, and close gaps on the way."""
        while self._segments and self._segments[0].offsets.start == self.claims.last_end:
            segment = self._segments.popleft()
            if self._stop is not None and segment.offsets.start >= self._stop and not segment.claimed:
                continue  # beyond a replay's end
            if segment.kind is SegmentKind.RECUT:
                self._open = OpenChunk(
                    segment.offsets.start,
                    limit=segment.offsets.end,
                    exact=True,
                    claimed=segment.claimed,
                    lost=segment.lost,
                    standing=segment.standing,
                )
                break
            if segment.kind is SegmentKind.GAP:
                segment = self._within_replay(segment)
                cargo = Cargo([], lost=segment.lost, gap=True, standing=segment.standing)
                self._append(segment.offsets, cargo, claimed=segment.claimed)
            elif self.claims.unsettled:
                self.claims.close(ClosedChunk(segment.offsets, None, ChunkState.STORED))
            else:
                self.claims.skip_stored(segment.offsets.end)
        else:
            start = self.claims.last_end
            limit = self._segments[0].offsets.start if self._segments else self._stop
            assert not self._segments or self._segments[0].offsets.start > start, (
                f"{self._segments[0]} starts too early"
            )
            if limit is not None and start >= limit:
                self.state = LaneState.FINISHED
                return
            self._open = OpenChunk(start, limit=limit)
        self._open.reach(self._floor)
        wanted = max(self._open.start, self._floor)
        if self._open.due(self._limits, 0.0):  # a range that is known to be empty up to its end
            self._close()
        elif wanted != self.position:
            self.position = wanted
            self.seek_to = wanted
