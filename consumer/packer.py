"""What a claimed chunk becomes: bodies of objects with their names and metadata, ready to be sent."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from consumer import metrics
from consumer.chunk import Bucket
from consumer.encode import Packed, Place
from consumer.memory import trim
from headrace.coverage import CHUNK_OBJECTS, FIRST_TIMESTAMP, LAST_TIMESTAMP, LOST, RECORDS
from headrace.objects import GAP_FOLDER, gap_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aiokafka import TopicPartition

    from consumer.chunk import Cargo
    from consumer.encode import Format
    from consumer.layout import Layout
    from headrace.objects import Range

log = logging.getLogger(__name__)

TRIM_FROM_BYTES: Final = 1024 * 1024
"""Chunks of payloads that are objects of their own are small, leave no large holes, and come several a second."""
HANDFUL_BYTES: Final = 1024 * 1024
"""Lines of small buckets that are compressed in one go: a thread for each would cost more than what it does."""
BODY_BYTES: Final = 2_000
"""What memory holds for a body beside its content: its key and metadata."""


@dataclass(frozen=True, slots=True)
class Body:
    """One object, ready to be sent."""

    key: str
    content: bytes
    metadata: Mapping[str, str]
    content_type: str
    records: int
    order: int = 0
    """Where its chunk starts: in a partition, older ones are first."""
    overhead: int = 0
    """Bytes of memory beside its content, where a chunk has many bodies."""
    before: bool = False
    """It must stand before any of the chunk's own objects does."""

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return len(self.content) + self.overhead

    @property
    def progress(self) -> int:
        """Grows with what is stored of it before all of it is."""
        return 0


@dataclass(frozen=True, slots=True)
class Bundle(Body):
    """The payloads of one object's worth of records (FORMAT=object), each to be an object of its own.

    `content` is their lines, `key` what their keys begin with. `stored` and `failed` are offsets: those that S3 has,
    and those whose last attempt failed.
    """

    stored: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    @property
    def progress(self) -> int:
        return len(self.stored)


def missing_objects(
    layout: Layout, partition: TopicPartition, offsets: Range, cargo: Cargo
) -> tuple[list[tuple[str, Bucket]], int]:
    """The names and contents that are to be stored, at least one, and how many objects the chunk has then.

    None is replaced by one with fewer records: Kafka had more of it once. Where that leaves nothing to store, though
    the chunk was never whole, an empty object beside the others completes it, and tells what was lost.
    """

    def name(bucket: Bucket) -> str:
        return layout.key(partition.topic, partition.partition, offsets, bucket.path)

    named = [(name(bucket), bucket) for bucket in cargo.buckets or [Bucket(layout.undated)]]
    missing = [(key, bucket) for key, bucket in named if cargo.standing.get(key, -1) < bucket.records]
    if not missing:
        rest = Bucket(GAP_FOLDER)
        missing = [(name(rest), rest)]
    return missing, len({*(key for key, _ in named + missing), *cargo.standing})


def _handfuls(named: Sequence[tuple[str, Bucket]]) -> Iterator[list[tuple[str, Bucket]]]:
    """In order, with no more than HANDFUL_BYTES of lines each, or a single bucket."""
    some: list[tuple[str, Bucket]] = []
    size = 0
    for name, bucket in named:
        more = bucket.waiting
        if some and size + more > HANDFUL_BYTES:
            yield some
            some, size = [], 0
        some.append((name, bucket))
        size += more
    yield some


class Packer:
    """Makes bodies of one assignment's chunks; compresses in threads. Stateless between chunks."""

    def __init__(self, *, layout: Layout, form: Format) -> None:
        self._layout = layout
        self._form = form

    def puts(self, cargo: Cargo) -> int:
        """About how many PUTs a chunk takes."""
        return cargo.records if self._form.one_by_one else len(cargo.buckets)

    async def press(self, bucket: Bucket) -> int:
        """Compress an open chunk's lines that wait, in a thread. Returns how many bytes fewer memory holds then.

        For one bucket after the other, and not while `bodies` is under way.
        """
        size = bucket.waiting
        before = 0 if bucket.coder is None else bucket.coder.held
        coder = bucket.coder or self._form.coder()
        await asyncio.to_thread(coder.write, bucket.take_waiting())
        bucket.coder = coder
        return size - (coder.held - before)

    async def bodies(self, partition: TopicPartition, offsets: Range, cargo: Cargo) -> list[Body]:
        """The chunk's objects that are to be stored. Compression runs in a thread; the cargo's lines are let go."""
        if cargo.gap:
            return [self._gap(partition, offsets, cargo)]
        missing, count = missing_objects(self._layout, partition, offsets, cargo)
        told = {"headrace-layout": self._layout.fingerprint}
        common = told | {
            "headrace-chunk-records": str(cargo.records),
            CHUNK_OBJECTS: str(count),
        }
        if cargo.lost is not None:
            common[LOST] = f"{cargo.lost.start}-{cargo.lost.end}"
        overhead = BODY_BYTES if len(missing) > 1 else 0
        odd = 0
        before: list[Body] = []
        found: list[Body] = []
        for some in _handfuls(missing):
            packed = await asyncio.to_thread(self._pack_some, partition, offsets, [bucket for _, bucket in some])
            for (name, bucket), (it, digest) in zip(some, packed, strict=True):
                if it.lines:
                    stem = self._layout.payload_stem(
                        self._layout.prefix, partition.topic, partition.partition, bucket.path
                    )
                    before.append(Bundle(stem, it.lines, {}, "", bucket.records, offsets.start, overhead))
                before += [
                    Body(other.key, other.content, told, other.content_type, 0, offsets.start, overhead, before=True)
                    for other in it.beside
                ]
                own = {
                    RECORDS: str(bucket.records),
                    "headrace-sha256": digest,
                    FIRST_TIMESTAMP: str(bucket.first_timestamp),
                    LAST_TIMESTAMP: str(bucket.last_timestamp),
                }
                kind = self._form.content_type
                found.append(Body(name, it.content, common | own, kind, bucket.records, offsets.start, overhead))
                odd += it.odd
        if odd:
            metrics.ODD_RECORDS.labels(partition.topic).inc(odd)
            log.warning(
                "%s/%d: %d of the %d records of %s can't stand on a line (empty, a tombstone, a line end): they are "
                "below %s",
                partition.topic,
                partition.partition,
                odd,
                cargo.records,
                offsets,
                before[0].key.rpartition("/")[0],
            )
        # The chunk's own objects come last: where one stands, all that belongs to it stands, too.
        return before + found

    def _pack_some(self, partition: TopicPartition, offsets: Range, buckets: list[Bucket]) -> list[tuple[Packed, str]]:
        """Each bucket packed, and the digest of its object."""
        return [self._pack(partition, offsets, bucket) for bucket in buckets]

    def _pack(self, partition: TopicPartition, offsets: Range, bucket: Bucket) -> tuple[Packed, str]:
        folder = self._layout.folder(bucket.path, partition.topic, partition.partition)
        place = Place(self._layout.prefix, partition.topic, partition.partition, offsets, folder, bucket.records)
        size = bucket.waiting
        rest = bucket.take_waiting()  # which both let go
        packed = self._form.pack(rest, place) if bucket.coder is None else Packed(bucket.coder.end(rest))
        bucket.coder = None
        if not self._form.one_by_one or size >= TRIM_FROM_BYTES:
            trim()
        return packed, hashlib.sha256(packed.content).hexdigest()

    def _gap(self, partition: TopicPartition, offsets: Range, cargo: Cargo) -> Body:
        lost = cargo.lost or offsets
        key = gap_key(prefix=self._layout.prefix, topic=partition.topic, partition=partition.partition, offsets=offsets)
        told = {
            "topic": partition.topic,
            "partition": partition.partition,
            "start": offsets.start,
            "end": offsets.end,
            "lost": [lost.start, lost.end],
            "reason": "Kafka no longer had these offsets (retention or DeleteRecords) before they were archived",
        }
        metadata = {
            RECORDS: "0",
            "headrace-chunk-records": "0",
            CHUNK_OBJECTS: "1",
            "headrace-layout": self._layout.fingerprint,
            LOST: f"{lost.start}-{lost.end}",
        }
        return Body(key, orjson.dumps(told), metadata, "application/json", 0)
