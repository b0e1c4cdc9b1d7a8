"""Which offsets an archive holds, from its objects' names alone. Pure.

The range in a name is the chunk's; all objects of a chunk (one for each time bucket) share it. Chunks of a partition
join: one's end is the next one's start. Where they don't, there is a hole or an overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from headrace.objects import GAP_SUFFIX, LINES, Range, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CHUNK_OBJECTS = "headrace-chunk-objects"
"""Name of the user metadata in which each object tells how many objects its chunk has."""
RECORDS = "headrace-records"
"""Name of the user metadata that tells of how many records an object is."""
LOST = "headrace-lost"
"""Name of the user metadata that tells which offsets Kafka had dropped when the object was stored: start-end."""

FIRST_TIMESTAMP = "headrace-first-timestamp"
LAST_TIMESTAMP = "headrace-last-timestamp"
"""Names of the user metadata that tell the lowest and the highest timestamp of an object's records."""


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """The objects that share a range and a suffix. `size`: their bytes in S3, together."""

    offsets: Range
    suffix: str
    keys: tuple[str, ...]
    size: int = 0

    @property
    def is_gap(self) -> bool:
        """It holds no records: it says that these offsets were gone from Kafka before they could be archived."""
        return self.suffix == GAP_SUFFIX

    @property
    def is_lines(self) -> bool:
        """Bare payloads, a line each; what they can't tell lies beside its objects."""
        return self.suffix.partition(".")[0] == LINES


@dataclass(frozen=True)
class Coverage:
    """One partition's chunks, sorted by range, and how they join."""

    topic: str
    partition: int
    chunks: tuple[Chunk, ...] = ()

    @property
    def start(self) -> int | None:
        """The first offset that is covered; None when there is no chunk."""
        return self.chunks[0].offsets.start if self.chunks else None

    @property
    def end(self) -> int | None:
        """The offset behind the last one that is covered; None when there is no chunk."""
        return self.joined[-1].end if self.chunks else None

    @cached_property
    def joined(self) -> tuple[Range, ...]:
        """What is covered, with as few ranges as can be."""
        joined: list[Range] = []
        for chunk in self.chunks:
            start, end = chunk.offsets.start, chunk.offsets.end
            if joined and start <= joined[-1].end:
                joined[-1] = Range(joined[-1].start, max(joined[-1].end, end))
            else:
                joined.append(Range(start, end))
        return tuple(joined)

    @property
    def holes(self) -> tuple[Range, ...]:
        """What lies uncovered between the first and the last covered offset."""
        return tuple(Range(left.end, right.start) for left, right in zip(self.joined, self.joined[1:], strict=False))

    @cached_property
    def overlaps(self) -> tuple[tuple[Chunk, Chunk], ...]:
        """Pairs of chunks that hold the same offsets: each later one, with the one before it that reaches farthest."""
        pairs = []
        farthest: Chunk | None = None
        for chunk in self.chunks:
            if farthest is not None and chunk.offsets.start < farthest.offsets.end:
                pairs.append((farthest, chunk))
            if farthest is None or chunk.offsets.end > farthest.offsets.end:
                farthest = chunk
        return tuple(pairs)

    @property
    def lost(self) -> tuple[Range, ...]:
        """What gap objects say was gone from Kafka before it could be archived."""
        return tuple(chunk.offsets for chunk in self.chunks if chunk.is_gap)

    @property
    def objects(self) -> int:
        return sum(len(chunk.keys) for chunk in self.chunks)

    @property
    def size(self) -> int:
        """Bytes of all objects, as they are stored."""
        return sum(chunk.size for chunk in self.chunks)

    def missing(self, within: Range) -> tuple[Range, ...]:
        """The parts of a range that no chunk covers, in order."""
        missing = []
        position = within.start
        first = max(0, bisect_right(self.joined, within.start, key=lambda joined: joined.start) - 1)
        for covered in self.joined[first:]:
            if covered.start >= within.end:
                break
            if covered.start > position:
                missing.append(Range(position, covered.start))
            position = max(position, covered.end)
        if position < within.end:
            missing.append(Range(position, within.end))
        return tuple(missing)


@dataclass
class Survey:
    """Collects a listing into coverage. One topic's keys go in, whatever their order; other keys are counted apart."""

    topic: str
    strangers: int = 0
    _found: dict[int, dict[tuple[Range, str], tuple[list[str], int]]] = field(default_factory=dict)

    def add(self, key: str, size: int = 0) -> bool:
        """Take one key of the listing; False when it isn't an object of this topic."""
        name = parse_key(key)
        if name is None or name.topic != self.topic:
            self.strangers += 1
            return False
        chunks = self._found.setdefault(name.partition, {})
        keys, total = chunks.get((name.range, name.suffix), ([], 0))
        keys.append(key)
        chunks[name.range, name.suffix] = keys, total + size
        return True

    def coverage(self, partition: int) -> Coverage:
        """What has been found of a partition, be it nothing."""
        chunks = [
            Chunk(offsets, suffix, tuple(sorted(keys)), size)
            for (offsets, suffix), (keys, size) in self._found.get(partition, {}).items()
        ]
        return Coverage(self.topic, partition, tuple(sorted(chunks)))

    def partitions(self) -> Mapping[int, Coverage]:
        """The coverage of each partition that has objects, in order."""
        return {partition: self.coverage(partition) for partition in sorted(self._found)}


def is_complete(present: int, told: Iterable[int | None]) -> bool | None:
    """Whether a chunk has all its objects. `told`: the number in each object's metadata, None where there is none.

    The smallest counts: a chunk that was stored again after Kafka had dropped a part of it may have fewer objects.
    None when no object tells, so that nobody can know.
    """
    numbers = [number for number in told if number is not None]
    return present >= min(numbers) if numbers else None


def told_objects(metadata: Mapping[str, str]) -> int | None:
    """How many objects an object's metadata says its chunk has; None when it does not say."""
    number = metadata.get(CHUNK_OBJECTS, "")
    return int(number) if number.isdecimal() else None


def told_records(metadata: Mapping[str, str]) -> int | None:
    """Of how many records an object's metadata says that it is; None when it does not say."""
    number = metadata.get(RECORDS, "")
    return int(number) if number.isdecimal() else None


def told_lost(metadata: Mapping[str, str]) -> Range | None:
    """Which offsets an object's metadata says Kafka had dropped before they could be stored; None: none, as a rule."""
    start, _, end = metadata.get(LOST, "").partition("-")
    if not (start.isdecimal() and end.isdecimal() and int(start) < int(end)):
        return None
    return Range(int(start), int(end))


def told_times(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """The lowest and the highest timestamp of an object's records (ms since 1970); None where it does not say."""
    try:
        return int(metadata[FIRST_TIMESTAMP]), int(metadata[LAST_TIMESTAMP])
    except (KeyError, ValueError):
        return None
