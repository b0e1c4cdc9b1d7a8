"""--since and --until of an archive: offsets or times become a range of offsets of each partition."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from headrace.archive import patiently, read_chunk
from headrace.coverage import told_times
from headrace.objects import Range
from headrace.points import milliseconds

if TYPE_CHECKING:
    from headrace.coverage import Chunk, Coverage
    from headrace.s3 import ObjectStore

Point = int | datetime | str
"""As `headrace.points.parse` gives it."""


async def span(store: ObjectStore, coverage: Coverage, since: Point, until: Point) -> Range:
    """What lies between the two, within what is archived; empty where nothing does.

    A time means the first offset whose record has it or a later one, as Kafka takes it. Raises S3Unavailable,
    S3Refused or ArchiveError.
    """
    start = await _offset(store, coverage, since)
    return Range(start, max(start, await _offset(store, coverage, until)))


async def _offset(store: ObjectStore, coverage: Coverage, point: Point) -> int:
    first, last = coverage.start, coverage.end
    assert first is not None, "a partition without objects has no coverage"
    assert last is not None
    if isinstance(point, datetime):
        return await _first_at(store, coverage, milliseconds(point))
    if isinstance(point, str):
        return first if point == "earliest" else last
    return min(max(point, first), last)


async def _first_at(store: ObjectStore, coverage: Coverage, time_ms: int) -> int:
    """Only chunks whose metadata does not rule it out are read."""
    for chunk in coverage.chunks:
        times = await chunk_times(store, chunk)
        if chunk.is_gap or (times is not None and times[1] < time_ms):
            continue
        for record in await read_chunk(store, chunk):
            if record.timestamp >= time_ms:
                return record.offset
    assert coverage.end is not None
    return coverage.end


async def chunk_times(store: ObjectStore, chunk: Chunk) -> tuple[int, int] | None:
    """The lowest and the highest timestamp of a chunk's records, by its metadata; None where not all of it tells."""
    lowest, highest = [], []
    for key in chunk.keys:
        head = await patiently(lambda key=key: store.head(key))  # type: ignore[misc]
        times = None if head is None else told_times(head.metadata)
        if times is None:
            return None
        lowest.append(times[0])
        highest.append(times[1])
    return min(lowest), max(highest)
