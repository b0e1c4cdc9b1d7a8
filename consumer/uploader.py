"""What an upload is: a claimed chunk becomes objects, and an attempt to PUT one of them has its conditions."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from consumer import metrics
from consumer.chunk import Bucket
from consumer.encode import Packed, Place
from consumer.encode.objects import payloads
from consumer.memory import trim
from consumer.passes import Pass
from consumer.slots import Slots
from headrace.coverage import FIRST_TIMESTAMP, LAST_TIMESTAMP, RECORDS
from headrace.objects import GAP_FOLDER, gap_key
from headrace.s3 import S3Refused, S3Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aiokafka import TopicPartition

    from consumer.chunk import Cargo
    from consumer.encode import Format
    from consumer.encode.objects import Payload
    from consumer.layout import Layout
    from headrace.management import Health
    from headrace.objects import Range
    from headrace.s3 import ObjectStore

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 20.0
TRIM_FROM_BYTES: Final = 1024 * 1024
"""Chunks of payloads that are objects of their own are small, leave no large holes, and come several a second."""
HANDFUL_BYTES: Final = 1024 * 1024
"""Lines of small buckets that are compressed in one go: a thread for each would cost more than what it does."""
BODY_BYTES: Final = 2_000
"""What memory holds for a body beside its content: its key and metadata."""
HEALTH_PART: Final = "s3"
"""Reported by failed attempts; taken back by the dispatcher, which knows whether any partition still fails."""


class AssignmentStale(Exception):
    """No heartbeat for an upload deadline: somebody else may own the partition, and may be waiting for our silence."""


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


class Uploader:
    """Stores chunks of one assignment. Stateless between chunks; `upload` may run side by side."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        layout: Layout,
        form: Format,
        timeout_seconds: float,
        alive_for: Callable[[], float],
        health: Health,
        most_attempts: int = 16,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`alive_for`: seconds since the last good heartbeat of the assignment, asked right before each attempt.

        `most_attempts`: how many may be under way at a time.
        """
        self._store = store
        self._layout = layout
        self._form = form
        self._timeout = timeout_seconds
        self._alive_for = alive_for
        self._health = health
        self._slots = Slots(most_attempts)
        self._jitter = jitter

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
            "headrace-chunk-objects": str(count),
        }
        if cargo.lost is not None:
            common["headrace-lost"] = f"{cargo.lost.start}-{cargo.lost.end}"
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
            "headrace-records": "0",
            "headrace-chunk-records": "0",
            "headrace-chunk-objects": "1",
            "headrace-layout": self._layout.fingerprint,
            "headrace-lost": f"{lost.start}-{lost.end}",
        }
        return Body(key, orjson.dumps(told), metadata, "application/json", 0)

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failed attempts, at least one."""
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_SECONDS)
        return pause * (0.5 + self._jitter() / 2)

    async def upload(
        self,
        partition: TopicPartition,
        body: Body,
        wanted: Callable[[], bool] = lambda: True,
        progressed: Callable[[], None] = lambda: None,
    ) -> bool:
        """One attempt; of a bundle, one for each of its payloads that isn't stored yet, unless they fail in a row.

        True when all of it is stored; False when it is to be tried again, which the log and /readyz tell. No attempt
        starts when it isn't `wanted` any more. `progressed` is told of each payload that S3 has, as it comes: a bundle
        may take minutes. Raises AssignmentStale, before anything is sent.
        """
        if isinstance(body, Bundle):
            before = body.progress
            stored = await self._upload_bundle(partition, body, wanted, progressed)
            metrics.STORED_OBJECTS.labels(partition.topic).inc(body.progress - before)
            return stored
        await self._slots.take(partition, body.order)
        try:
            return wanted() and await self._upload_one(partition, body, None)
        finally:
            self._slots.give(partition)

    async def upload_all(
        self,
        partition: TopicPartition,
        bodies: Sequence[Body],
        wanted: Callable[[], bool],
        *,
        stored: Callable[[Body], None],
        after_failure: bool,
    ) -> bool:
        """An attempt for each of a chunk's objects, none of them a bundle, side by side; as `upload` otherwise.

        `stored` is told each one that S3 has. `after_failure`: it is not the first time.
        """
        return await Pass(
            bodies,
            len(bodies),
            partition=partition,
            order=bodies[0].order,
            slots=self._slots,
            attempt=lambda body: self._upload_one(partition, body, stored),
            wanted=wanted,
            after_failure=after_failure,
        ).run()

    async def _upload_bundle(
        self, partition: TopicPartition, bundle: Bundle, wanted: Callable[[], bool], progressed: Callable[[], None]
    ) -> bool:
        async def attempt(payload: Payload) -> bool:
            if await self._attempt(partition, payload):
                bundle.stored.add(payload.offset)
                progressed()
                return True
            bundle.failed.add(payload.offset)
            return False

        after_failure = bool(bundle.failed)
        bundle.failed.clear()
        return await Pass(
            (it for it in payloads(bundle.content, bundle.key) if it.offset not in bundle.stored),
            bundle.records - bundle.progress,
            partition=partition,
            order=bundle.order,
            slots=self._slots,
            attempt=attempt,
            wanted=wanted,
            after_failure=after_failure,
        ).run()

    async def _upload_one(self, partition: TopicPartition, body: Body, stored: Callable[[Body], None] | None) -> bool:
        if not await self._attempt(partition, body):
            return False
        metrics.STORED_OBJECTS.labels(partition.topic).inc()
        metrics.STORED_BYTES.labels(partition.topic).inc(len(body.content))
        metrics.STORED_RECORDS.labels(partition.topic).inc(body.records)
        if stored is not None:
            stored(body)
        return True

    async def _attempt(self, partition: TopicPartition, it: Body | Payload) -> bool:
        quiet_for = self._alive_for()
        if quiet_for > self._timeout:
            raise AssignmentStale(
                f"{partition.topic}/{partition.partition}: no heartbeat for {quiet_for:.0f} s, no upload may start"
            )
        try:
            async with asyncio.timeout(self._timeout):
                await self._store.put(it.key, it.content, metadata=it.metadata, content_type=it.content_type)
        except (S3Refused, S3Unavailable, TimeoutError) as error:
            kind = "refused" if isinstance(error, S3Refused) else "unavailable"
            what = str(error) or f"no answer within {self._timeout:g} s for {it.key}"
            metrics.UPLOAD_FAILURES.labels(kind).inc()
            level = logging.ERROR if kind == "refused" else logging.WARNING
            log.log(level, "upload failed, it will be tried again: %s", what)
            self._health.report(HEALTH_PART, what)
            return False
        return True
