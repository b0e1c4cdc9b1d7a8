"""The group's claims in Kafka: our own OffsetFetch and OffsetCommit.

aiokafka's own calls read generation and member id late, retry by themselves across rebalances, and take some errors for
"nothing committed". Here every error is looked at, and a commit that got no answer is never followed by another under
the same member id: what the broker still has of it could come after.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, NodeNotReadyError, for_code
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_COMMIT_BYTES: Final = 256 * 1024
"""A commit becomes one record batch of the offsets topic, whose max.message.bytes is 1 MiB by default."""

RETRIABLE: Final = frozenset({7, 14, 15, 16})  # timed out, loading, not available, not coordinator
MOVED: Final = frozenset({15, 16})
FENCED: Final = frozenset({22, 25, 27, 82})  # generation, member, rebalance in progress, fenced instance
METADATA_TOO_LARGE: Final = 12
TOPIC_FORBIDDEN: Final = 29


class GroupUnavailable(HeadraceError):
    """The coordinator can't answer now. Nothing was changed by this call; ask again."""


class GroupRefused(HeadraceError):
    """The coordinator refuses: somebody has to change something (an ACL, most likely)."""


class PartitionsRefused(GroupRefused):
    """The group may not see these partitions' offsets, by their reasons. It concerns them and no others."""

    def __init__(self, reasons: Mapping[TopicPartition, str]) -> None:
        super().__init__(" ".join(reasons.values()))
        self.reasons = reasons


class Unanswered(HeadraceError):
    """A commit may or may not have been stored, now or later. The membership must be given up."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who commits. Captured before the first await of an assignment; a stale one is fenced by Kafka."""

    generation: int
    member_id: str

    def __post_init__(self) -> None:
        # Kafka takes a commit of generation -1 from anybody while the group is empty.
        if self.generation < 0 or not self.member_id:
            raise Unanswered("The group's membership ended before its assignment arrived.")


class GroupOffsets:
    """Reads and writes a group's commits over an aiokafka consumer's client and coordinator. One per consumer."""

    def __init__(self, client: Any, coordinator: Any, group: str, timeout_seconds: float) -> None:
        self._client = client
        self._coordinator = coordinator
        self._group = group
        self._timeout = timeout_seconds
        self._lost = False

    async def fetch(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        """(offset, metadata) of each partition; (-1, "") only where Kafka says that nothing is committed.

        Raises GroupUnavailable, PartitionsRefused (ask for the others), or GroupRefused.
        """
        wanted = list(partitions)
        if not wanted:
            return {}
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._send(OffsetFetchRequest(self._group, list(_by_topic(wanted).items())))
        except (KafkaError, TimeoutError) as error:
            raise GroupUnavailable(f"Group {self._group}: no answer to OffsetFetch ({error!r})") from error
        self._check(getattr(answer, "error_code", 0), "OffsetFetch")
        found, refused = {}, {}
        for topic, rows in answer.topics:
            for partition, offset, metadata, error_code in rows:
                if error_code == TOPIC_FORBIDDEN:
                    refused[TopicPartition(topic, partition)] = (
                        f"Kafka does not let group {self._group} see its offsets of topic {topic} "
                        f"(TopicAuthorizationFailedError, error {error_code}). Grant READ on the topic, then restart."
                    )
                    continue
                self._check(error_code, f"OffsetFetch of {topic}/{partition}")
                found[TopicPartition(topic, partition)] = (offset, metadata or "")
        if refused:
            raise PartitionsRefused(refused)
        missing = [tp for tp in wanted if tp not in found]
        if missing:
            raise GroupUnavailable(f"Group {self._group}: OffsetFetch did not answer for {missing[0]}")
        return found

    async def commit(
        self, membership: Membership, commits: Mapping[TopicPartition, tuple[int, str]]
    ) -> dict[TopicPartition, int]:
        """Commit in one request; returns each partition's error code, 0 where it is stored.

        Raises GroupUnavailable when it was never sent, Unanswered when nobody knows; then no further call is taken.
        """
        if self._lost:
            raise Unanswered(f"Group {self._group}: an earlier commit got no answer")
        topics = _by_topic(commits)
        body = [(topic, [(p, *commits[TopicPartition(topic, p)]) for p in rows]) for topic, rows in topics.items()]
        request = OffsetCommitRequest(self._group, membership.generation, membership.member_id, -1, body)
        self._lost = True
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._send(request)
        except (NodeNotReadyError, GroupCoordinatorNotAvailableError) as error:
            self._lost = False  # no connection: the request never left
            raise GroupUnavailable(f"Group {self._group}: its coordinator can't be reached ({error})") from error
        except (KafkaError, TimeoutError) as error:
            raise Unanswered(f"Group {self._group}: a commit got no answer ({error!r})") from error
        self._lost = False
        codes = {TopicPartition(topic, p): code for topic, rows in answer.topics for p, code in rows}
        if any(code in MOVED for code in codes.values()):
            self._coordinator.coordinator_dead()
        return {tp: codes.get(tp, 7) for tp in commits}

    async def _send(self, request: Any) -> Any:
        await self._coordinator.ensure_coordinator_known()
        node = self._coordinator.coordinator_id
        if node is None:
            raise GroupCoordinatorNotAvailableError
        try:
            return await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        except KafkaError:
            self._coordinator.coordinator_dead()
            raise

    def _check(self, code: int, what: str) -> None:
        if code == 0:
            return
        text = f"Group {self._group}: {what}: {for_code(code).__name__} (error {code})"
        if code in MOVED:
            self._coordinator.coordinator_dead()
        if code in RETRIABLE or for_code(code).retriable:
            raise GroupUnavailable(text)
        raise GroupRefused(text)


def split(commits: Mapping[TopicPartition, tuple[int, str]]) -> Iterator[dict[TopicPartition, tuple[int, str]]]:
    """Parts of at most MAX_COMMIT_BYTES, to be sent one after the other."""
    part: dict[TopicPartition, tuple[int, str]] = {}
    size = 0
    for tp, (offset, metadata) in commits.items():
        more = len(metadata) + len(tp.topic) + 64
        if part and size + more > MAX_COMMIT_BYTES:
            yield part
            part, size = {}, 0
        part[tp] = (offset, metadata)
        size += more
    if part:
        yield part


def _by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for tp in partitions:
        topics.setdefault(tp.topic, []).append(tp.partition)
    return topics
