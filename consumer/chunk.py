"""Cutting a partition's records into chunks: by records, bytes and age, or exactly at given offsets. Pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from headrace.objects import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consumer.layout import Group, Layout
    from headrace.record import Record

_offset = attrgetter("offset")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a chunk closes, whichever is first. Bytes are those of encoded, uncompressed lines."""

    max_records: int
    max_bytes: int
    max_seconds: float


@dataclass(slots=True)
class Bucket:
    """One object's worth of a chunk: the records of one time bucket."""

    path: str
    parts: list[bytes] = field(default_factory=list)
    records: int = 0
    first_timestamp: int = -1
    last_timestamp: int = -1

    def add(self, group: Group, parts: list[bytes]) -> None:
        low = group.first_timestamp
        self.first_timestamp = low if self.records == 0 else min(self.first_timestamp, low)
        self.last_timestamp = max(self.last_timestamp, group.last_timestamp)
        self.parts += parts
        self.records += len(group.records)


@dataclass(slots=True)
class Cargo:
    """What a closed chunk has to upload. `lost`: offsets that Kafka no longer had when it was cut; `gap`: all of them.

    `standing`: objects of the range that were stored before, by key, with their numbers of records.
    """

    buckets: list[Bucket]
    records: int = 0
    size: int = 0
    lost: Range | None = None
    gap: bool = False
    standing: Mapping[str, int] = field(default_factory=dict)


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
        self.lost = lost
        self._standing = standing or {}
        self.position = start
        self.records = 0
        self.size = 0
        self.since: float | None = None
        self._buckets: dict[str, Bucket] = {}

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
        for group in layout.by_bucket(taken):
            parts = encode(group.records)
            bucket = self._buckets.get(group.path)
            if bucket is None:
                bucket = self._buckets[group.path] = Bucket(group.path)
            bucket.add(group, parts)
            self.size += sum(map(len, parts))
        self.records += count
        self.position = taken[-1].offset + 1
        if self.since is None:
            self.since = now
        return count

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
        if self.records >= limits.max_records or self.size >= limits.max_bytes:
            return True
        return self.since is not None and now - self.since >= limits.max_seconds

    def close(self) -> tuple[Range, Cargo]:
        """Its range and what there is to upload. The end comes from the position, not from the last record."""
        assert self.position > self.start, "a chunk holds at least one offset"
        offsets = Range(self.start, self.position)
        cargo = Cargo(list(self._buckets.values()), self.records, self.size, lost=self.lost, standing=self._standing)
        return offsets, cargo
