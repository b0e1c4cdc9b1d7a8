"""Kafka's administrative side: is this the same cluster and topic, where do its logs begin and end, make a topic."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import BrokerResponseError, GroupIdNotFound, KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from headrace.errors import HeadraceError
from headrace.wire import MetadataRequest, TopicIdRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from aiokafka.protocol.api import Request

    from headrace.settings import KafkaSettings

_COORDINATOR_MOVES: Final = frozenset({14, 15, 16})
"""The coordinator is loading, not there yet, or another one: ask again in a moment."""
_COORDINATOR_ATTEMPTS: Final = 50
_COORDINATOR_PAUSE_SECONDS: Final = 0.2
EARLIEST: Final = -2
LATEST: Final = -1


class KafkaUnavailable(HeadraceError):
    """Kafka did not answer, or not now. Try again."""


class TopicMissing(HeadraceError):
    """The topic is not there and may not be made."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is now. `id` stays for its life; a topic made anew under the same name has another (KIP-516)."""

    name: str
    id: str
    cluster_id: str
    partitions: tuple[int, ...]

    @property
    def topic_partitions(self) -> tuple[TopicPartition, ...]:
        """The partitions with the topic's name, as other calls take them."""
        return tuple(TopicPartition(self.name, partition) for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One consumer of a group, and what it was given."""

    id: str
    client: str
    host: str
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as its coordinator knows it. `state`: Stable, Empty, Dead (there is no such group), …"""

    name: str
    state: str
    members: tuple[GroupMember, ...]


class KafkaCluster:
    """Questions to a cluster. Calls raise KafkaUnavailable, TopicMissing, or HeadraceError for a refusal."""

    def __init__(self, client: AIOKafkaClient, options: Mapping[str, Any]) -> None:
        self._client = client
        self._options = dict(options)

    async def topic(self, name: str) -> Topic:
        answer = await self._ask(MetadataRequest([name]))
        topic_id, partitions = _found(name, answer.topics)
        ids = tuple(sorted(partition[1] for partition in partitions))
        return Topic(name, topic_id, answer.cluster_id, ids)

    async def topic_id(self, name: str) -> str:
        """The id alone, which costs the same however many partitions there are."""
        answer = await self._ask(TopicIdRequest(name))
        return _found(name, answer.topics)[0]

    async def ensure_topic(self, name: str, *, partitions: int, replication: int) -> Topic:
        """The topic, made first when it is missing and `partitions` is above 0."""
        try:
            return await self.topic(name)
        except TopicMissing:
            if partitions == 0:
                raise
        async with self._admin() as admin:
            with contextlib.suppress(TopicAlreadyExistsError):
                new = NewTopic(name, partitions, max(replication, 1))
                new.replication_factor = replication  # it refuses -1, which Kafka takes for "as the brokers are set"
                answer = await admin.create_topics([new])
                for topic, code, *message in answer.topic_errors:
                    if code not in {0, 36}:
                        raise _error(f"Topic {topic} could not be created ({' '.join(map(str, message))})", code)
        for _ in range(100):  # the broker that answers next may not have heard of it yet
            with contextlib.suppress(TopicMissing):
                return await self.topic(name)
            await asyncio.sleep(0.1)
        raise KafkaUnavailable(f"Topic {name} was created but the brokers do not show it yet.")

    async def topic_config(self, name: str, key: str) -> str | None:
        """One entry of a topic's configuration, `max.message.bytes` for instance; None where it may not be read."""
        entries = await self.topic_configs(name)
        return None if entries is None else entries.get(key)

    async def topic_configs(self, name: str) -> dict[str, str] | None:
        """A topic's configuration, defaults too; None where it may not be read."""
        async with self._admin() as admin:
            answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        for answer in answers:
            for error_code, _, _, _, entries in answer.resources:
                if error_code == 0:
                    return {entry[0]: entry[1] for entry in entries}
        return None

    async def log_offsets(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        """The first offset at or after a time (ms since 1970), of EARLIEST, or of LATEST (the high watermark).

        A partition whose records are all older is missing from the answer.
        """
        wanted = list(partitions)
        for topic in {tp.topic for tp in wanted}:
            await self._metadata_of(topic)
        by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for tp in wanted:
            node = self._client.cluster.leader_for_partition(tp)
            if node is None or node == -1:
                await self._client.force_metadata_update()
                raise KafkaUnavailable(f"{tp.topic}/{tp.partition} has no leader now.")
            by_node.setdefault(node, {}).setdefault(tp.topic, []).append((tp.partition, timestamp_ms))
        offsets = {}
        for node, topics in by_node.items():
            answer = await self._ask(OffsetRequest(-1, 0, list(topics.items())), node)
            for topic, parts in answer.topics:
                for partition, error_code, *_, offset in parts:
                    if error_code:
                        await self._client.force_metadata_update()
                        raise _error(f"{topic}/{partition}", error_code)
                    if offset != -1:
                        offsets[TopicPartition(topic, partition)] = offset
        return offsets

    async def committed(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, str]]:
        """A group's offset and metadata for each partition; (-1, "") only where Kafka says: nothing is committed."""
        wanted: dict[str, list[int]] = {}
        for tp in partitions:
            wanted.setdefault(tp.topic, []).append(tp.partition)
        if not wanted:
            return {}
        answer = await self._ask_coordinator(
            group, OffsetFetchRequest(group, list(wanted.items())), lambda answer: answer.error_code
        )
        found = {}
        for topic, rows in answer.topics:
            for partition, offset, metadata, error_code in rows:
                if error_code:
                    raise _error(f"Group {group}: the offset of {topic}/{partition}", error_code)
                found[TopicPartition(topic, partition)] = (offset, metadata or "")
        for topic, numbers in wanted.items():
            for number in numbers:
                if TopicPartition(topic, number) not in found:
                    raise KafkaUnavailable(f"Group {group}: Kafka told no offset of {topic}/{number}.")
        return found

    async def set_offsets(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets without metadata for a group that has no members; Kafka refuses it for any other."""
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for tp, offset in offsets.items():
            topics.setdefault(tp.topic, []).append((tp.partition, offset, ""))
        request = OffsetCommitRequest(group, -1, "", -1, list(topics.items()))
        await self._ask_coordinator(
            group, request, lambda answer: max(code for _, rows in answer.topics for _, code in rows)
        )

    async def group(self, name: str) -> Group:
        """A group's state and members; a group that nobody has heard of is Dead and has none."""
        answer = await self._ask_coordinator(name, DescribeGroupsRequest([name]), lambda answer: answer.groups[0][0])
        _, _, state, kind, _, members, *_ = answer.groups[0]
        return Group(
            name,
            state,
            tuple(
                GroupMember(member_id, client, host, _assigned(assignment) if kind == "consumer" else ())
                for member_id, client, host, _, assignment in members
            ),
        )

    async def delete_group(self, name: str) -> None:
        """Delete a group that has no members, with its offsets; one that nobody has heard of is gone already."""

        def code_of(answer: Any) -> int:
            code: int = answer.results[0][1]
            return 0 if code == GroupIdNotFound.errno else code

        await self._ask_coordinator(name, DeleteGroupsRequest([name]), code_of)

    async def _ask_coordinator(self, group: str, request: Request[Any], error_of: Callable[[Any], int]) -> Any:
        """Ask the group's coordinator, wherever it moves to; every error is looked at."""
        code = 0
        for attempt in range(_COORDINATOR_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_COORDINATOR_PAUSE_SECONDS)
            self._any_node()  # the look-up asserts that there is one
            try:
                node = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
            except BrokerResponseError as error:
                code = error.errno
                if code in _COORDINATOR_MOVES:
                    continue
                break
            except (KafkaError, OSError) as error:
                raise KafkaUnavailable(f"Kafka did not answer: {type(error).__name__} {error}".rstrip()) from error
            answer = await self._ask(request, node)
            code = error_of(answer)
            if code not in _COORDINATOR_MOVES:
                break
        if code:
            raise _error(f"Group {group}", code)
        return answer

    def _any_node(self) -> int:
        """A broker. One that has just come up may have told of none, not even of itself."""
        node: int | None = self._client.get_random_node()
        if node is None:
            raise KafkaUnavailable("No Kafka broker is known.")
        return node

    async def _metadata_of(self, topic: str) -> None:
        if self._client.cluster.partitions_for_topic(topic) is None:
            self._client.add_topic(topic)
            await self._client.force_metadata_update()

    async def _ask(self, request: Request[Any], node: int | None = None) -> Any:
        try:
            return await self._client.send(self._any_node() if node is None else node, request)
        except (KafkaError, OSError) as error:
            raise KafkaUnavailable(f"Kafka did not answer: {type(error).__name__} {error}".rstrip()) from error
        except NotImplementedError:
            raise HeadraceError(
                "This Kafka is older than 2.8 and tells no topic ids: headrace would not see a topic made anew."
            ) from None

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._options)
        try:
            await admin.start()
            yield admin
        except (KafkaError, OSError) as error:
            raise KafkaUnavailable(f"Kafka did not answer: {type(error).__name__} {error}".rstrip()) from error
        finally:
            await admin.close()


def _found(name: str, topics: Iterable[Any]) -> tuple[str, Any]:
    """A topic's id and its partitions (None where the answer has none), out of an answer to Metadata."""
    for error_code, topic, topic_id, *rest in topics:
        if topic != name:
            continue
        if error_code == 3:
            break
        if error_code:
            raise _error(f"Topic {name}", error_code)
        return str(topic_id), rest[1] if rest else None
    raise TopicMissing(
        f"Topic {name} does not exist. Create it, or set KAFKA_TOPIC_PARTITIONS to have it created with that many."
    )


def _assigned(assignment: bytes) -> tuple[TopicPartition, ...]:
    """A member's partitions; none while the group is still rebalancing."""
    if not assignment:
        return ()
    return tuple(sorted(ConsumerProtocolMemberAssignment.decode(assignment).partitions()))


def _error(what: str, code: int) -> HeadraceError:
    kind = for_code(code)
    text = f"{what}: {kind.__name__} (error {code})"
    return KafkaUnavailable(text) if kind.retriable else HeadraceError(text)


@contextlib.asynccontextmanager
async def open_cluster(settings: KafkaSettings) -> AsyncIterator[KafkaCluster]:
    """A connection for questions, for as long as the context lasts. Raises KafkaUnavailable."""
    options = settings.kafka_options()
    client = AIOKafkaClient(**options, client_id="headrace-admin")
    try:
        try:
            await client.bootstrap()
        except (KafkaError, OSError) as error:
            servers = ", ".join(settings.kafka_bootstrap_servers)
            raise KafkaUnavailable(f"Kafka at {servers} (KAFKA_BOOTSTRAP_SERVERS) does not answer.") from error
        yield KafkaCluster(client, options)
    finally:
        await client.close()
