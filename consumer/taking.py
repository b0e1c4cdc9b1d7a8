"""Gathers what a takeover is decided from: the group's commits, the log's ends, the marker, and S3 where it must."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from consumer.marker import Marker, claim_prefix
from consumer.offsets import GroupUnavailable
from consumer.standing import standing
from consumer.takeover import Log, NeedsList, Takeover, assess, fill
from headrace.errors import HaltError
from headrace.kafka import EARLIEST, LATEST, KafkaUnavailable
from headrace.s3 import S3Refused, S3Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from aiokafka import TopicPartition

    from consumer.layout import Layout
    from consumer.offsets import GroupOffsets, Membership
    from headrace.kafka import KafkaCluster, Topic
    from headrace.management import Health
    from headrace.s3 import ObjectStore

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Bounds = dict["TopicPartition", tuple[int, int]]

QUIET_MARGIN_SECONDS: Final = 1.0
PAUSES_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
HEALTH_PART: Final = "takeover"


class Taking:
    """Takes partitions over for one membership after the other. `bounds`: a replay's [start, stop) by partition."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        cluster: KafkaCluster,
        offsets: GroupOffsets,
        layout: Layout,
        group: str,
        upload_timeout_seconds: float,
        health: Health,
        bounds: Bounds | None = None,
    ) -> None:
        self.bounds: Bounds = dict(bounds or {})
        self._store = store
        self._cluster = cluster
        self._offsets = offsets
        self._layout = layout
        self._group = group
        self._quiet_seconds = 2 * upload_timeout_seconds + QUIET_MARGIN_SECONDS
        self._health = health

    async def take(
        self, partitions: Collection[TopicPartition], membership: Membership
    ) -> AsyncIterator[tuple[TopicPartition, Takeover | HaltError]]:
        """Each partition as soon as it is decided: those first that need nothing of S3.

        Tries again as long as Kafka or S3 do not answer. Raises HeadraceError where the prefix is another's.
        """
        topics: dict[str, Topic] = {}
        markers: dict[str, Marker] = {}
        for name in sorted({partition.topic for partition in partitions}):
            topic = topics[name] = await self._patiently(lambda name=name: self._cluster.topic(name))  # type: ignore[misc]
            try:
                markers[name] = await self._patiently(lambda topic=topic: self._mark(topic, membership))  # type: ignore[misc]
            except HaltError as error:
                for partition in partitions:
                    if partition.topic == name:
                        yield partition, error
        rest = [partition for partition in partitions if partition.topic in markers]
        commits = await self._patiently(lambda: self._offsets.fetch(rest))
        compacted = {name: await self._patiently(lambda name=name: self._compacted(name)) for name in markers}  # type: ignore[misc]
        logs = await self._logs(rest, topics, compacted)
        needs: dict[TopicPartition, NeedsList] = {}
        for partition in rest:
            try:
                decided = assess(
                    log=logs[partition],
                    offset=commits[partition][0],
                    metadata=commits[partition][1],
                    layout=self._layout.fingerprint,
                    origin=self.bounds[partition][0] if partition in self.bounds else None,
                )
            except HaltError as error:
                yield partition, error
                continue
            if isinstance(decided, NeedsList):
                needs[partition] = decided
            else:
                yield partition, decided
        for quiet in (False, True):
            some = {tp: need for tp, need in needs.items() if need.quiet is quiet}
            async for decision in self._with_list(some, quiet, topics, markers, membership, compacted):
                yield decision

    async def _with_list(
        self,
        needs: dict[TopicPartition, NeedsList],
        quiet: bool,
        topics: dict[str, Topic],
        markers: dict[str, Marker],
        membership: Membership,
        compacted: dict[str, bool],
    ) -> AsyncIterator[tuple[TopicPartition, Takeover | HaltError]]:
        """Partitions of which only S3 can tell."""
        waiting: list[str] = []
        fresh: list[str] = []
        for name in sorted({partition.topic for partition in needs}):
            first_ever = all(need.committed is None for tp, need in needs.items() if tp.topic == name)
            is_new = (
                quiet
                and first_ever
                and await self._patiently(lambda name=name: self._is_new(markers[name], membership))
            )  # type: ignore[misc]
            (waiting if quiet and not is_new else fresh).append(name)
        for names, wait in ((fresh, False), (waiting, True)):
            some = {tp: need for tp, need in needs.items() if tp.topic in names}
            if not some:
                continue
            if wait:
                why = "; ".join(sorted({need.why for need in some.values()}))
                log.warning(
                    "%d partitions: %s. Waiting %.0f s until no former owner's upload can land, then asking S3",
                    len(some),
                    why,
                    self._quiet_seconds,
                )
                await asyncio.sleep(self._quiet_seconds)
            logs = await self._logs(list(some), topics, compacted)
            for name in names:
                above = {
                    tp.partition: 0 if need.committed is None else need.committed.start
                    for tp, need in some.items()
                    if tp.topic == name
                }
                found = await self._patiently(
                    lambda name=name, above=above: standing(  # type: ignore[misc]
                        self._store, prefix=self._layout.prefix, topic=name, above=above
                    )
                )
                for partition, need in some.items():
                    if partition.topic != name:
                        continue
                    try:
                        yield (
                            partition,
                            fill(
                                log=logs[partition],
                                need=need,
                                covered=found[partition.partition],
                                layout=self._layout.fingerprint,
                            ),
                        )
                    except HaltError as error:
                        yield partition, error

    async def _mark(self, topic: Topic, membership: Membership) -> Marker:
        wanted = {tp.partition: span for tp, span in self.bounds.items() if tp.topic == topic.name}
        marker = await claim_prefix(
            self._store, layout=self._layout, topic=topic, group=self._group, membership=membership, bounds=wanted
        )
        for tp in list(self.bounds):
            if tp.topic == topic.name and tp.partition in marker.bounds:
                self.bounds[tp] = marker.bounds[tp.partition]
        return marker

    async def _is_new(self, marker: Marker, membership: Membership) -> bool:
        """Was the marker put in this very generation? Then nobody else can have owned a partition under this prefix.

        Generation numbers count from 1 again after a group was deleted; the member that put it must still be there.
        """
        if marker.generation != membership.generation:
            return False
        if marker.member_id == membership.member_id:
            return True
        return marker.member_id in (await self._cluster.group(self._group)).member_ids

    async def _compacted(self, topic: str) -> bool:
        policy = await self._cluster.topic_config(topic, "cleanup.policy")
        if policy is None:
            log.warning("topic %s: its cleanup.policy may not be read, so that it is taken for compacted", topic)
            return True
        return "compact" in policy

    async def _logs(
        self, partitions: Collection[TopicPartition], topics: dict[str, Topic], compacted: dict[str, bool]
    ) -> dict[TopicPartition, Log]:
        starts = await self._patiently(lambda: self._cluster.log_offsets(partitions, EARLIEST))
        ends = await self._patiently(lambda: self._cluster.log_offsets(partitions, LATEST))
        return {
            tp: Log(tp.topic, tp.partition, topics[tp.topic].id, starts[tp], ends[tp], compacted[tp.topic])
            for tp in partitions
        }

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until there is an answer. A refusal is waited out too: somebody may grant what is missing."""
        attempt = 0
        while True:
            try:
                answer = await call()
            except (KafkaUnavailable, GroupUnavailable, S3Unavailable, S3Refused) as error:
                pause = PAUSES_SECONDS[min(attempt, len(PAUSES_SECONDS) - 1)]
                level = logging.WARNING if attempt else logging.INFO
                log.log(level, "taking over waits, asking again in %.1f s: %s", pause, error)
                self._health.report(HEALTH_PART, str(error))
                attempt += 1
                await asyncio.sleep(pause)
            else:
                self._health.report(HEALTH_PART, None)
                return answer
