"""Cutting a partition's records into chunks: by records, bytes, buckets and age, or exactly at given offsets. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from headrace.objects import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consumer.encode import Coder
    from consumer.layout import Group, Layout
    from headrace.record import Record

BUCKET_BYTES: Final = 700
PART_BYTES: Final = 60
"""What memory holds beside their lines for a bucket, and for a piece of them, where a chunk has several buckets."""
PRESSED_AGAIN: Final = 8
"""Once a bucket has a coder, each eighth of what made it worth one is compressed: it is still in the cache then."""

_offset = attrgetter("offset")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a chunk closes, whichever is first. Bytes are those of encoded, uncompressed lines.

    `press_bytes`: so many that wait in an open chunk's bucket are worth a coder of its own; 0: none ever are.
    """

    max_records: int
    max_bytes: int
    max_seconds: float
    max_buckets: int = 1_000
    press_bytes: int = 0


@dataclass(slots=True)
class Bucket:
    """One object's worth of a chunk: the records whose bucket's path is the same.

    What came first may be compressed already, by its `coder`; the lines that wait are behind that.
    """

    path: str
    parts: list[bytes] = field(default_factory=list)
    records: int = 0
    first_timestamp: int = -1
    last_timestamp: int = -1
    coder: Coder | None = None
    ripe: bool = False
    """Enough waits to be worth compressing, and somebody will see to it."""

    @property
    def waiting(self) -> int:
        """Bytes of the parts."""
        return sum(map(len, self.parts))

    def add(self, group: Group, parts: list[bytes]) -> None:
        low = group.first_timestamp
        self.first_timestamp = low if self.records == 0 else min(self.first_timestamp, low)
        self.last_timestamp = max(self.last_timestamp, group.last_timestamp)
        self.parts += parts
        self.records += len(group.records)

    def take_waiting(self) -> list[bytes]:
        """Its parts, which are somebody else's from now on."""
        parts, self.parts, self.ripe = self.parts, [], False
        return parts


@dataclass(slots=True)
class Cargo:
    """What a chunk has to upload. `lost`: offsets that Kafka no longer had when it was cut; `gap`: all of them.

    `standing`: objects of the range that were stored before, by key, with their numbers of records.
    """

    buckets: list[Bucket]
    records: int = 0
    size: int = 0
    lost: Range | None = None
    gap: bool = False
    standing: Mapping[str, int] = field(default_factory=dict)
    pieces: int = 0
    """In how many its lines came."""
    saved: int = 0
    """Bytes of its lines that memory holds no more, because they are compressed."""

    @property
    def overhead(self) -> int:
        """Bytes that its buckets cost beside their lines; a chunk of one is as good as its lines."""
        buckets = len(self.buckets)
        return 0 if buckets < 2 else buckets * BUCKET_BYTES + self.pieces * PART_BYTES

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return self.size - self.saved + self.overhead


class OpenChunk:
    """The chunk that is being filled. `limit` is where it must end at the latest, None when it may end anywhere.

    With `exact`, it ends at the limit and nowhere else: it has been claimed, or stands in S3 in part.
    """

    def __init__(
        self,
        start: int,
        *,
        limit: int | None = None,
        exact: bool = False,
        claimed: bool = False,
        lost: Range | None = None,
        standing: Mapping[str, int] | None = None,
    ) -> None:
        self.start = start
        self.limit = limit
        self.exact = exact
        self.claimed = claimed
        self.cargo = Cargo([], lost=lost, standing=standing or {})
        self.position = start
        self.since: float | None = None
        self._buckets: dict[str, Bucket] = {}
        self._ripe: deque[Bucket] = deque()
        self._full = False

    @property
    def records(self) -> int:
        return self.cargo.records

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return self.cargo.held

    @property
    def ripe_bytes(self) -> int:
        """Bytes of lines that are worth being compressed now."""
        return sum(bucket.waiting for bucket in self._ripe)

    def next_ripe(self) -> Bucket | None:
        """A bucket whose waiting lines are worth being compressed now; each is told once."""
        return self._ripe.popleft() if self._ripe else None

    def take(
        self,
        records: Sequence[Record],
        *,
        layout: Layout,
        encode: Callable[[Sequence[Record]], list[bytes]],
        limits: Limits,
        now: float,
    ) -> int:
        """Take as many of the records, in order, as belong in here; returns how many. `now` in monotonic seconds."""
        count = len(records)
        if self.limit is not None and count and records[-1].offset >= self.limit:
            count = bisect_left(records, self.limit, key=_offset)
        if not self.exact:
            count = min(count, limits.max_records - self.records)
        if count <= 0:
            return 0
        taken = records if count == len(records) else records[:count]
        groups = layout.by_bucket(taken)
        if not self.exact and len(self._buckets) + len(groups) > limits.max_buckets:
            taken, groups = self._within(limits.max_buckets, taken, groups, layout)
            count = len(taken)
            if count == 0:
                return 0
        for group in groups:
            self._add(group, encode(group.records), limits.press_bytes)
        self.cargo.records += count
        self.position = taken[-1].offset + 1
        if self.since is None:
            self.since = now
        return count

    def _add(self, group: Group, parts: list[bytes], press_bytes: int) -> None:
        bucket = self._buckets.get(group.path)
        if bucket is None:
            bucket = self._buckets[group.path] = Bucket(group.path)
            self.cargo.buckets.append(bucket)
        bucket.add(group, parts)
        self.cargo.size += sum(map(len, parts))
        self.cargo.pieces += len(parts)
        if press_bytes and not bucket.ripe:
            bucket.ripe = bucket.waiting >= (press_bytes if bucket.coder is None else press_bytes // PRESSED_AGAIN)
            if bucket.ripe:
                self._ripe.append(bucket)

    def _within(
        self, most: int, records: Sequence[Record], groups: Sequence[Group], layout: Layout
    ) -> tuple[Sequence[Record], Sequence[Group]]:
        """Those before the first record that would open a bucket too many; with it, the next chunk begins."""
        new = [group for group in groups if group.path not in self._buckets]
        allowed = most - len(self._buckets)
        if len(new) <= allowed:
            return records, groups
        self._full = True
        count = bisect_left(records, new[allowed].records[0].offset, key=_offset)
        taken = records[:count]
        return taken, layout.by_bucket(taken) if taken else ()

    def reach(self, position: int) -> None:
        """An error-free fetch has shown that no further record lies below `position`."""
        if self.limit is not None:
            position = min(position, self.limit)
        self.position = max(self.position, position)

    def due(self, limits: Limits, now: float) -> bool:
        """Should it close now?"""
        if self.limit is not None and self.position >= self.limit:
            return True
        if self.exact or self.records == 0:
            return False
        if self._full or self.records >= limits.max_records or self.cargo.size >= limits.max_bytes:
            return True
        return self.since is not None and now - self.since >= limits.max_seconds

    def close(self) -> tuple[Range, Cargo]:
        """Its range and what there is to upload. The end comes from the position, not from the last record."""
        assert self.position > self.start, "a chunk holds at least one offset"
        return Range(self.start, self.position), self.cargo
