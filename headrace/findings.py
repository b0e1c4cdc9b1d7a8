"""What `verify` has found, for people and for machines. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.comparison import Comparison
    from headrace.coverage import Chunk, Coverage
    from headrace.inventory import Inventory
    from headrace.objects import Range


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A chunk that lacks objects. `told`: how many it should have; None when no object's metadata says so."""

    chunk: Chunk
    told: int | None


@dataclass(slots=True)
class PartitionReport:
    """`eaten`: what Kafka had dropped of chunks that were stored in part; their objects' metadata tells.

    `alone`: keys of what belongs beside lines (FORMAT=raw) and isn't there. `payloads`: those that are objects of their
    own; None where there is no index, or nobody asked. `comparison` with Kafka: None where nobody asked.
    """

    coverage: Coverage
    incomplete: list[Incomplete] = field(default_factory=list)
    eaten: list[Range] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    payloads: Inventory | None = None
    comparison: Comparison | None = None

    @property
    def whole(self) -> bool:
        if not all(part.whole for part in (self.payloads, self.comparison) if part is not None):
            return False
        return not (self.coverage.holes or self.coverage.overlaps or self.incomplete or self.alone)

    @property
    def lost(self) -> list[Range]:
        """What was gone from Kafka before it could be archived, in order."""
        return sorted({*self.coverage.lost, *self.eaten})

    def problems(self) -> Iterator[str]:
        """A sentence each."""
        place = f"{self.coverage.topic}/{self.coverage.partition}"
        for hole in self.coverage.holes:
            yield f"{place}: {hole} is missing, {_count(hole)}"
        for left, right in self.coverage.overlaps:
            yield f"{place}: {right.keys[0]} overlaps {left.keys[0]}"
        for item in self.incomplete:
            have = f"{place}: {item.chunk.offsets} has {len(item.chunk.keys)} of"
            if item.told is None:
                yield f"{have} nobody knows how many objects: no metadata tells (--names-only does not ask)"
            else:
                yield f"{have} {item.told} objects"
        for key in self.alone:
            yield f"{place}: what belongs beside lines is gone, and so are their keys, times and offsets: {key}"
        for part in (self.payloads, self.comparison):
            if part is not None:
                yield from part.problems(place)

    def as_json(self) -> dict[str, Any]:
        coverage = self.coverage
        return {
            "partition": coverage.partition,
            "whole": self.whole,
            "start": coverage.start,
            "end": coverage.end,
            "chunks": len(coverage.chunks),
            "objects": coverage.objects,
            "bytes": coverage.size,
            "holes": [_pair(hole) for hole in coverage.holes],
            "overlaps": [
                {"offsets": [_pair(left.offsets), _pair(right.offsets)], "keys": [left.keys, right.keys]}
                for left, right in coverage.overlaps
            ],
            "incomplete": [
                {"offsets": _pair(item.chunk.offsets), "present": len(item.chunk.keys), "told": item.told}
                for item in self.incomplete
            ],
            "lost": [_pair(lost) for lost in self.lost],
            "beside_gone": self.alone,
            "payloads": None if self.payloads is None else self.payloads.as_json(),
            "kafka": None if self.comparison is None else self.comparison.as_json(),
        }


@dataclass(frozen=True, slots=True)
class TopicReport:
    topic: str
    strangers: int
    partitions: tuple[PartitionReport, ...]

    @property
    def whole(self) -> bool:
        """No hole, no overlap, nothing incomplete, no payload gone, and there is something at all."""
        return bool(self.partitions) and all(partition.whole for partition in self.partitions)

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "whole": self.whole,
            "partitions": [partition.as_json() for partition in self.partitions],
            "other_objects": self.strangers,
        }


def _count(offsets: Range) -> str:
    count = offsets.end - offsets.start
    return f"{count:,} offset{'' if count == 1 else 's'}"


def _pair(offsets: Range) -> tuple[int, int]:
    return offsets.start, offsets.end
