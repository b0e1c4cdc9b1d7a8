"""What an upload is: an attempt to PUT a body has its conditions."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from consumer import metrics
from consumer.encode.objects import payloads
from consumer.packer import Bundle
from consumer.passes import Pass
from consumer.slots import Slots
from headrace.s3 import S3Refused, S3Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiokafka import TopicPartition

    from consumer.encode.objects import Payload
    from consumer.packer import Body
    from headrace.management import Health
    from headrace.s3 import ObjectStore

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 20.0
HEALTH_PART: Final = "s3"
"""Reported by failed attempts; taken back by the dispatcher, which knows whether any partition still fails."""


class AssignmentStale(Exception):
    """No heartbeat for an upload deadline: somebody else may own the partition, and may be waiting for our silence."""


class Uploader:
    """Stores chunks of one assignment. Stateless between chunks; `upload` may run side by side."""

    def __init__(
        self,
        *,
        store: ObjectStore,
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
        self._timeout = timeout_seconds
        self._alive_for = alive_for
        self._health = health
        self._slots = Slots(most_attempts)
        self._jitter = jitter

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
