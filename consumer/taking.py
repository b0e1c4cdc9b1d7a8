"""Gathers what a takeover is decided from: the group's commits, the log's ends, the marker, and S3 where it must."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from consumer.marker import Marker, claim_prefix
from consumer.offsets import GroupUnavailable
from consumer.standing import standing
from consumer.takeover import Log, NeedsList, Takeover, assess, fill
from headrace.errors import HaltError
from headrace.kafka import EARLIEST, LATEST, KafkaUnavailable, TopicMissing
from headrace.s3 import S3Refused, S3Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable

    from aiokafka import TopicPartition

    from consumer.layout import Layout
    from consumer.offsets import GroupOffsets, Membership
    from headrace.kafka import KafkaCluster, Topic
    from headrace.management import Health
    from headrace.s3 import ObjectStore

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Bounds = dict["TopicPartition", tuple[int, int]]

QUIET_DEADLINES: Final = 3
"""A quiet period in upload deadlines: an attempt starts within one of its member's last heartbeat, lasts another
at most, and lands within a third after it was given up. The member may be gone for no longer than a session's timeout.
"""
QUIET_MARGIN_SECONDS: Final = 1.0
PAUSES_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LAST_CHUNKS: Final = 128
"""As many as may be under way at once (MAX_CLAIMS at its highest): when claims are lost, these may be incomplete."""
HEALTH_PART: Final = "takeover"


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a topic before its partitions are looked at."""

    topic: Topic
    marker: Marker
    compacted: bool


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
        self.bounds: Bounds = {} if bounds is None else bounds
        self._store = store
        self._cluster = cluster
        self._offsets = offsets
        self._layout = layout
        self._group = group
        self._quiet_seconds = QUIET_DEADLINES * upload_timeout_seconds + QUIET_MARGIN_SECONDS
        self._health = health

    async def take(
        self, partitions: Collection[TopicPartition], membership: Membership
    ) -> AsyncIterator[tuple[TopicPartition, Takeover | HaltError]]:
        """Each partition as soon as it is decided: those first that need nothing of S3.

        Tries again as long as Kafka or S3 do not answer. Raises HeadraceError where the prefix is another's.
        """
        known: dict[str, _Known] = {}
        for name in sorted({partition.topic for partition in partitions}):
            try:
                known[name] = await self._know(name, membership)
            except (HaltError, TopicMissing) as error:
                for partition in partitions:
                    if partition.topic == name:
                        yield partition, HaltError(str(error))
        rest = sorted(partition for partition in partitions if partition.topic in known)
        commits = await self._patiently(partial(self._offsets.fetch, rest))
        logs = await self._logs(rest, known)
        needs: dict[TopicPartition, NeedsList] = {}
        for partition in rest:
            decided = self._assess(logs[partition], *commits[partition], self.bounds.get(partition))
            if isinstance(decided, NeedsList):
                needs[partition] = decided
            else:
                yield partition, decided
        async for decision in self._ask_s3(needs, known, membership):
            yield decision

    def _assess(
        self, log_now: Log, offset: int, metadata: str, bounds: tuple[int, int] | None
    ) -> Takeover | NeedsList | HaltError:
        origin = None if bounds is None else bounds[0]
        try:
            return assess(log=log_now, offset=offset, metadata=metadata, layout=self._layout.fingerprint, origin=origin)
        except HaltError as error:
            return error

    async def _ask_s3(
        self, needs: dict[TopicPartition, NeedsList], known: dict[str, _Known], membership: Membership
    ) -> AsyncIterator[tuple[TopicPartition, Takeover | HaltError]]:
        """Partitions of which only S3 can tell; last those that must wait before they may ask."""
        new = {name: await self._patiently(partial(self._is_new, it.marker, membership)) for name, it in known.items()}
        later = {tp for tp, need in needs.items() if need.quiet and not (need.committed is None and new[tp.topic])}
        for wait, some in ((False, needs.keys() - later), (True, later)):
            if some and wait:
                await self._be_quiet(needs[partition].why for partition in some)
            logs = await self._logs(some, known)
            for name in sorted({partition.topic for partition in some}):
                mine = {partition: needs[partition] for partition in sorted(some) if partition.topic == name}
                for decision in await self._fill(name, mine, logs):
                    yield decision

    async def _be_quiet(self, reasons: Iterable[str]) -> None:
        seconds = self._quiet_seconds
        why = "; ".join(sorted(set(reasons)))
        log.warning("%s: waiting %.0f s until no former owner's upload can land, then asking S3", why, seconds)
        await asyncio.sleep(seconds)

    async def _fill(
        self, topic: str, needs: dict[TopicPartition, NeedsList], logs: dict[TopicPartition, Log]
    ) -> list[tuple[TopicPartition, Takeover | HaltError]]:
        """Partitions of one topic of which only S3 can tell: one LIST for all."""
        above = {tp.partition: _unsure_from(logs[tp], need) for tp, need in needs.items()}
        ask = partial(standing, self._store, prefix=self._layout.prefix, topic=topic, above=above, last=LAST_CHUNKS)
        found = await self._patiently(ask)
        decisions: list[tuple[TopicPartition, Takeover | HaltError]] = []
        for tp, need in needs.items():
            covered = found[tp.partition]
            try:
                decided = fill(log=logs[tp], need=need, covered=covered, layout=self._layout.fingerprint)
            except HaltError as error:
                decisions.append((tp, error))
            else:
                decisions.append((tp, decided))
        return decisions

    async def _know(self, name: str, membership: Membership) -> _Known:
        topic = await self._patiently(partial(self._cluster.topic, name))
        marker = await self._patiently(partial(self._mark, topic, membership))
        return _Known(topic, marker, await self._patiently(partial(self._compacted, name)))

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
        """Is who put the marker still a member? Then nobody can have uploaded what the group has no commit of.

        The group was never without members since, so that no tool can have moved or deleted its offsets: a claim, had
        there been one, would be there. Kafka gives no member id twice.
        """
        if marker.member_id == membership.member_id:
            return True
        group = await self._cluster.group(self._group)
        return any(member.id == marker.member_id for member in group.members)

    async def _compacted(self, topic: str) -> bool:
        policy = await self._cluster.topic_config(topic, "cleanup.policy")
        if policy is None:
            log.warning("topic %s: its cleanup.policy may not be read, so that it is taken for compacted", topic)
            return True
        return "compact" in policy

    async def _logs(
        self, partitions: Collection[TopicPartition], known: dict[str, _Known]
    ) -> dict[TopicPartition, Log]:
        starts = await self._patiently(partial(self._cluster.log_offsets, partitions, EARLIEST))
        ends = await self._patiently(partial(self._cluster.log_offsets, partitions, LATEST))
        return {
            tp: Log(tp.topic, tp.partition, it.topic.id, starts[tp], ends[tp], it.compacted)
            for tp in partitions
            for it in (known[tp.topic],)
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


def _unsure_from(log_now: Log, need: NeedsList) -> int:
    """From which offset on it must be asked whether chunks are whole. Below it, only Kafka's loss could be told.

    What lies below a commit of ours is whole. Where an operator has set the group back, it is asked from there on:
    a chunk that lost its claims half-way may lie below the log's start by now.
    """
    if need.committed is not None:
        return need.committed.start
    return log_now.start if need.origin < 0 else min(log_now.start, need.origin)
