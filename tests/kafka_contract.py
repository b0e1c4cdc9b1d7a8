"""What the simulation takes for granted of Kafka. Every case runs on its fake and on the real thing, driven alike.

Requests are aiokafka's own, sent over a connection a member; records come through the archiver's own `Source`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from consumer.source import OutOfRange
from headrace.kafka import EARLIEST, LATEST, TopicMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from consumer.source import Source
    from headrace.kafka import KafkaCluster
    from headrace.record import Record

NOBODY = "nobody-1"
ALL = ConsumerProtocolMemberAssignment(0, [("t", [0])], b"").encode()
NOTHING = ConsumerProtocolMemberAssignment(0, [], b"").encode()
METADATA_TOO_LARGE, UNKNOWN_TOPIC = 12, 3
ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING, MEMBER_ID_REQUIRED = 22, 25, 27, 79


class Connection(Protocol):
    """One connection to the group's coordinator. Requests on it are answered in their order."""

    async def ask(self, request: Any) -> Any: ...


class Transaction(Protocol):
    async def append(self, *values: bytes) -> None: ...

    async def end(self, *, commit: bool) -> None: ...


class Side(Protocol):
    """The fake or the real Kafka: a topic of one partition and a group, both of the case's own."""

    topic: str
    group: str
    cluster: KafkaCluster

    async def connect(self) -> Connection: ...

    def source(self, *, session_seconds: float) -> Source: ...

    async def append(self, *values: bytes) -> None: ...

    async def begin(self) -> Transaction: ...

    async def compact(self, *values: bytes) -> int:
        """Produce these under one key each time until some record below the last is gone; returns the log's end."""
        ...

    async def delete_before(self, offset: int) -> None: ...

    async def delete_topic(self) -> None: ...

    async def make_topic(self) -> None: ...

    async def delete_offset(self) -> None:
        """kafka-consumer-groups.sh --delete-offsets."""
        ...

    async def delete_group(self) -> None: ...


Case = "Callable[[Side], Awaitable[None]]"
CASES: dict[str, Callable[[Any], Awaitable[None]]] = {}


def case(body: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    CASES[body.__name__] = body
    return body


@dataclass
class Member:
    """A member of the group, as far as the wire shows it."""

    side: Side
    connection: Connection
    session_seconds: float = 30
    patience_seconds: float = 30
    id: str = ""
    generation: int = -1
    leader: str = ""

    async def ask_to_join(self) -> Any:
        subscription = ConsumerProtocolMemberMetadata(0, [self.side.topic], b"").encode()
        return await self.connection.ask(
            JoinGroupRequest(
                self.side.group,
                int(self.session_seconds * 1000),
                int(self.patience_seconds * 1000),
                self.id,
                None,  # no static membership
                "consumer",
                [("roundrobin", subscription)],
            )
        )

    async def get_id(self) -> None:
        answer = await self.ask_to_join()
        assert answer.error_code == MEMBER_ID_REQUIRED
        self.id = answer.member_id

    async def join(self) -> Any:
        """Until the rebalance is over. Returns the answer."""
        if not self.id:
            await self.get_id()
        answer = await self.ask_to_join()
        assert answer.error_code == 0, answer
        assert answer.member_id == self.id
        self.generation, self.leader = answer.generation_id, answer.leader_id
        return answer

    async def sync(self, assignments: dict[str, bytes] | None = None, **other: Any) -> tuple[int, bytes]:
        generation, member_id = other.get("generation", self.generation), other.get("member_id", self.id)
        answer = await self.connection.ask(
            SyncGroupRequest(
                self.side.group,
                generation,
                member_id,
                None,  # no static membership
                list((assignments or {}).items()),
            )
        )
        return answer.error_code, answer.member_assignment

    async def beat(self, **other: Any) -> int:
        generation, member_id = other.get("generation", self.generation), other.get("member_id", self.id)
        code: int = (await self.connection.ask(HeartbeatRequest(self.side.group, generation, member_id))).error_code
        return code

    async def commit(self, offset: int, metadata: str = "", **other: Any) -> int:
        generation, member_id = other.get("generation", self.generation), other.get("member_id", self.id)
        codes = await commit(self, {0: (offset, metadata)}, generation, member_id)
        return codes[0]

    async def leave(self, member_id: str | None = None) -> int:
        request = LeaveGroupRequest(self.side.group, self.id if member_id is None else member_id)
        code: int = (await self.connection.ask(request)).error_code
        return code


async def commit(
    member: Member, offsets: dict[int, tuple[int, str]], generation: int, member_id: str, topic: str | None = None
) -> dict[int, int]:
    rows = [(partition, *entry) for partition, entry in offsets.items()]
    asked = [(topic or member.side.topic, rows)]
    request = OffsetCommitRequest(member.side.group, generation, member_id, -1, asked)
    answer = await member.connection.ask(request)
    return {partition: code for _, parts in answer.topics for partition, code in parts}


async def committed(side: Side, partition: int = 0) -> tuple[int, str]:
    connection = await side.connect()
    answer = await connection.ask(OffsetFetchRequest(side.group, [(side.topic, [partition])]))
    assert answer.error_code == 0
    ((_, ((number, offset, metadata, code),)),) = answer.topics
    assert (number, code) == (partition, 0)
    return offset, metadata


async def newcomer(side: Side, *, session_seconds: float = 30, patience_seconds: float = 30) -> Member:
    return Member(side, await side.connect(), session_seconds, patience_seconds)


async def stable(side: Side, *, session_seconds: float = 30, patience_seconds: float = 30) -> Member:
    """A group of one."""
    member = await newcomer(side, session_seconds=session_seconds, patience_seconds=patience_seconds)
    await member.join()
    assert await member.sync({member.id: ALL}) == (0, ALL)
    return member


async def two(side: Side) -> tuple[Member, Member]:
    """A stable group of two: the leader, and a follower."""
    leader, follower = await stable(side), await newcomer(side)
    await follower.get_id()
    joining = asyncio.ensure_future(follower.join())
    await until_told(leader, REBALANCING)
    await leader.join()
    await joining
    syncing = asyncio.ensure_future(follower.sync())
    assert await leader.sync({leader.id: ALL, follower.id: NOTHING}) == (0, ALL)
    assert await syncing == (0, NOTHING)
    return leader, follower


async def until_told(member: Member, code: int) -> None:
    """Heartbeats until the answer is this one."""
    async with asyncio.timeout(20):
        while await member.beat() != code:
            await asyncio.sleep(0.05)


# Joining


@case
async def a_newcomer_is_given_an_id_and_then_joins(side: Side) -> None:
    member = await newcomer(side)
    answer = await member.ask_to_join()
    assert (answer.error_code, bool(answer.member_id)) == (MEMBER_ID_REQUIRED, True)
    member.id = answer.member_id
    answer = await member.join()
    assert (answer.generation_id, answer.leader_id) == (1, member.id)
    assert [(told[0], bool(told[2])) for told in answer.members] == [(member.id, True)]


@case
async def a_member_that_nobody_knows_can_neither_join_nor_do_anything(side: Side) -> None:
    stranger = await newcomer(side)
    stranger.id = NOBODY
    assert (await stranger.ask_to_join()).error_code == UNKNOWN_MEMBER  # no group yet
    member = await stable(side)
    assert (await stranger.ask_to_join()).error_code == UNKNOWN_MEMBER
    assert await member.beat(member_id=NOBODY) == UNKNOWN_MEMBER
    assert (await member.sync(member_id=NOBODY))[0] == UNKNOWN_MEMBER
    assert await member.leave(NOBODY) == UNKNOWN_MEMBER
    assert await member.commit(1, member_id=NOBODY) == UNKNOWN_MEMBER


@case
async def a_generation_that_is_over_counts_for_nothing(side: Side) -> None:
    member = await stable(side)
    for generation in (member.generation - 1, member.generation + 1):
        assert await member.beat(generation=generation) == ILLEGAL_GENERATION
        assert (await member.sync(generation=generation))[0] == ILLEGAL_GENERATION
        assert await member.commit(1, generation=generation) == ILLEGAL_GENERATION
    assert await member.beat() == 0
    assert await committed(side) == (-1, "")


@case
async def a_second_member_makes_the_first_join_again(side: Side) -> None:
    first, second = await stable(side), await newcomer(side)
    await second.get_id()
    joining = asyncio.ensure_future(second.join())
    await until_told(first, REBALANCING)
    assert not joining.done()
    answer = await first.join()
    await joining
    assert {told[0] for told in answer.members} == {first.id, second.id}
    assert (first.generation, second.generation, second.leader) == (2, 2, first.id)
    assert (await second.ask_to_join()).members in ([], ())  # asked again, a follower is told the same


@case
async def the_leader_tells_what_each_gets(side: Side) -> None:
    leader, follower = await two(side)
    assert await follower.sync() == (0, NOTHING)  # asked again
    assert await leader.sync({leader.id: NOTHING}) == (0, ALL)  # too late
    assert (leader.generation, follower.generation) == (2, 2)


@case
async def while_the_leader_has_not_told_nothing_is_committed(side: Side) -> None:
    member = await newcomer(side)
    await member.join()
    assert await member.beat() == 0
    assert await member.commit(1) == REBALANCING
    assert await member.commit(1, generation=member.generation + 1) == ILLEGAL_GENERATION
    assert await member.sync({member.id: ALL}) == (0, ALL)
    assert await member.commit(1) == 0


@case
async def while_members_are_awaited_the_old_generation_commits(side: Side) -> None:
    first, second = await stable(side), await newcomer(side)
    await second.get_id()
    joining = asyncio.ensure_future(second.join())
    await until_told(first, REBALANCING)
    assert await first.commit(3, "claims") == 0
    assert (await first.sync())[0] == REBALANCING
    assert await committed(side) == (3, "claims")
    old = first.generation
    await first.join()
    await joining
    assert await first.commit(4, generation=old) == ILLEGAL_GENERATION
    assert await committed(side) == (3, "claims")


@case
async def a_follower_that_joins_once_more_keeps_its_generation(side: Side) -> None:
    leader, follower = await two(side)
    answer = await follower.join()
    assert (answer.generation_id, list(answer.members)) == (2, [])
    assert await leader.beat() == 0


@case
async def a_leader_that_joins_once_more_makes_a_new_generation(side: Side) -> None:
    leader, follower = await two(side)
    joining = asyncio.ensure_future(leader.join())
    await until_told(follower, REBALANCING)
    await follower.join()
    await joining
    assert (leader.generation, follower.generation) == (3, 3)


@case
async def somebody_who_was_given_an_id_is_waited_for(side: Side) -> None:
    """A rebalance does not end before who has an id has joined, or its session has ended."""
    leader, follower = await two(side)
    late = await newcomer(side, session_seconds=1)
    await late.get_id()
    joining = asyncio.ensure_future(leader.join())
    await until_told(follower, REBALANCING)
    both = asyncio.ensure_future(follower.join())
    await asyncio.sleep(0.4)
    assert not both.done()
    await both
    await joining
    assert leader.generation == 3
    assert (await late.ask_to_join()).error_code == UNKNOWN_MEMBER


@case
async def the_first_of_a_group_waits_for_nobody(side: Side) -> None:
    late, first = await newcomer(side), await newcomer(side)
    await late.get_id()
    await first.join()
    assert first.generation == 1
    await first.sync({first.id: ALL})
    joining = asyncio.ensure_future(late.join())
    await until_told(first, REBALANCING)
    await first.join()
    await joining
    assert late.generation == 2


@case
async def who_was_given_an_id_may_leave(side: Side) -> None:
    """As if it had joined: the others join again."""
    leader, late = await stable(side), await newcomer(side)
    await late.get_id()
    assert await late.leave() == 0
    assert (await late.ask_to_join()).error_code == UNKNOWN_MEMBER
    assert await leader.beat() == REBALANCING
    assert (await leader.join()).generation_id == 2


@case
async def who_does_not_join_again_in_time_is_expelled(side: Side) -> None:
    first = await stable(side, patience_seconds=1)
    second = await newcomer(side, patience_seconds=1)
    await second.get_id()
    answer = await second.join()
    assert (answer.generation_id, answer.leader_id) == (2, second.id)
    assert await first.beat() == UNKNOWN_MEMBER
    assert await first.commit(1) == UNKNOWN_MEMBER


# Leaving


@case
async def who_leaves_makes_the_others_join_again(side: Side) -> None:
    leader, follower = await two(side)
    assert await leader.leave() == 0
    await until_told(follower, REBALANCING)
    answer = await follower.join()
    assert (answer.generation_id, answer.leader_id) == (3, follower.id)
    assert await leader.commit(1) == UNKNOWN_MEMBER
    assert await leader.leave() == UNKNOWN_MEMBER


@case
async def an_empty_group_counts_its_generations_on(side: Side) -> None:
    member = await stable(side)
    assert await member.commit(7, "claims") == 0
    assert await member.leave() == 0
    assert (await side.cluster.group(side.group)).state == "Empty"
    again = await stable(side)
    assert again.generation == 3  # the group's being empty was the second
    assert await committed(side) == (7, "claims")


@case
async def a_silent_member_is_gone_after_its_session(side: Side) -> None:
    silent = await stable(side, session_seconds=1)
    async with asyncio.timeout(20):
        while (await side.cluster.group(side.group)).members:
            await asyncio.sleep(0.1)
    assert await silent.beat() == UNKNOWN_MEMBER
    assert await silent.commit(1) == UNKNOWN_MEMBER


@case
async def heartbeats_and_commits_keep_a_session(side: Side) -> None:
    member = await stable(side, session_seconds=1)
    for _ in range(5):
        await asyncio.sleep(0.4)
        assert await member.beat() == 0
    for offset in range(5):
        await asyncio.sleep(0.4)
        assert await member.commit(offset) == 0


@case
async def a_group_tells_its_state_and_members(side: Side) -> None:
    assert (await side.cluster.group(side.group)).state == "Dead"
    member = await newcomer(side)
    await member.join()
    assert (await side.cluster.group(side.group)).state == "CompletingRebalance"
    await member.sync({member.id: b""})
    told = await side.cluster.group(side.group)
    assert (told.state, [each.id for each in told.members]) == ("Stable", [member.id])
    await member.leave()
    told = await side.cluster.group(side.group)
    assert (told.state, told.members) == ("Empty", ())


# Commits


@case
async def anybody_commits_while_the_group_is_empty(side: Side) -> None:
    """Generation -1, with whatever member id."""
    member = await newcomer(side)
    assert await member.commit(1, "first", generation=-1, member_id="") == 0  # this makes the group
    assert await member.commit(2, "second", generation=-1, member_id=NOBODY) == 0
    assert await committed(side) == (2, "second")
    assert await member.commit(3, generation=1, member_id=NOBODY) == UNKNOWN_MEMBER
    assert await committed(side) == (2, "second")


@case
async def a_group_that_nobody_knows_has_no_generation(side: Side) -> None:
    member = await newcomer(side)
    assert await member.commit(1, generation=1, member_id=NOBODY) == ILLEGAL_GENERATION
    assert await member.beat(generation=1, member_id=NOBODY) == UNKNOWN_MEMBER
    assert await committed(side) == (-1, "")


@case
async def nobody_but_members_commits_while_there_are_any(side: Side) -> None:
    member = await stable(side)
    assert await member.commit(1, generation=-1, member_id="") == UNKNOWN_MEMBER
    assert await member.commit(1, generation=-1) == ILLEGAL_GENERATION
    assert await member.commit(1, member_id="") == UNKNOWN_MEMBER
    assert await committed(side) == (-1, "")


@case
async def metadata_has_a_limit_for_each_partition(side: Side) -> None:
    member = await stable(side)
    assert await member.commit(1, "x" * 4096) == 0
    assert await member.commit(2, "x" * 4097) == METADATA_TOO_LARGE
    assert await committed(side) == (1, "x" * 4096)


@case
async def offsets_of_what_does_not_exist_are_refused(side: Side) -> None:
    member = await stable(side)
    assert await commit(member, {0: (1, ""), 9: (1, "")}, member.generation, member.id) == {0: 0, 9: UNKNOWN_TOPIC}
    assert await commit(member, {0: (1, "")}, member.generation, member.id, topic="none") == {0: UNKNOWN_TOPIC}
    assert await committed(side) == (1, "")
    assert await committed(side, 9) == (-1, "")


@case
async def nothing_committed_is_told_from_no_metadata(side: Side) -> None:
    assert await committed(side) == (-1, "")
    member = await stable(side)
    assert await committed(side) == (-1, "")
    assert await member.commit(5, "claims") == 0
    assert await committed(side) == (5, "claims")
    assert await member.commit(0) == 0
    assert await committed(side) == (0, "")


@case
async def an_offset_that_was_deleted_is_none(side: Side) -> None:
    member = await stable(side)
    await member.commit(5, "claims")
    await member.leave()
    await side.delete_offset()
    assert await committed(side) == (-1, "")


@case
async def a_group_that_was_deleted_begins_anew(side: Side) -> None:
    member = await stable(side)
    await member.commit(5, "claims")
    await member.leave()
    await side.delete_group()
    assert (await side.cluster.group(side.group)).state == "Dead"
    assert await committed(side) == (-1, "")
    assert (await stable(side)).generation == 1


# Records


@contextlib.asynccontextmanager
async def reading(side: Side) -> AsyncIterator[Source]:
    """A source that owns the partition, paused at 0."""
    source = side.source(session_seconds=6)
    await source.start()
    try:
        async with asyncio.timeout(20):
            assignment = await source.next_assignment()
        assert assignment.partitions == {TopicPartition(side.topic, 0)}
        yield source
    finally:
        await source.close()


async def read(side: Side, source: Source, start: int, until: int) -> list[Record]:
    """Records from `start` on, until the position is `until`."""
    tp = TopicPartition(side.topic, 0)
    source.seek(tp, start)
    source.resume([tp])
    found: list[Record] = []
    async with asyncio.timeout(20):
        while (position := source.position(tp)) is not None and position < until:
            for fetched in await source.fetch(0.2):
                found += fetched.records
    assert position == until
    source.pause([tp])
    return found


async def log_ends(side: Side) -> tuple[int, int]:
    tp = TopicPartition(side.topic, 0)
    start, end = [await side.cluster.log_offsets([tp], edge) for edge in (EARLIEST, LATEST)]
    return start[tp], end[tp]


def values(records: list[Record]) -> list[tuple[int, bytes | None]]:
    return [(record.offset, record.value) for record in records]


@case
async def a_log_is_read_from_any_of_its_offsets(side: Side) -> None:
    await side.append(b"a", b"b", b"c")
    assert await log_ends(side) == (0, 3)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 3)) == [(0, b"a"), (1, b"b"), (2, b"c")]
        assert values(await read(side, source, 2, 3)) == [(2, b"c")]
        tp = TopicPartition(side.topic, 0)
        source.resume([tp])
        assert await source.fetch(0.1) == []  # at the end it waits
        await side.append(b"d")
        assert values(await read(side, source, 3, 4)) == [(3, b"d")]


@case
async def beyond_a_logs_end_is_out_of_range(side: Side) -> None:
    await side.append(b"a")
    async with reading(side) as source:
        assert await out_of_range(side, source, 2)
        assert values(await read(side, source, 0, 1)) == [(0, b"a")]


@case
async def what_was_deleted_is_out_of_range(side: Side) -> None:
    await side.append(b"a", b"b", b"c")
    await side.delete_before(2)
    assert await log_ends(side) == (2, 3)
    async with reading(side) as source:
        assert await out_of_range(side, source, 1)
        assert values(await read(side, source, 2, 3)) == [(2, b"c")]
    await side.delete_before(3)
    assert await log_ends(side) == (3, 3)


async def out_of_range(side: Side, source: Source, offset: int) -> bool:
    tp = TopicPartition(side.topic, 0)
    source.seek(tp, offset)
    source.resume([tp])
    async with asyncio.timeout(20):
        while True:
            try:
                assert await source.fetch(0.2) == []
            except OutOfRange as told:
                source.pause([tp])
                return told.partitions == {tp}


@case
async def a_transaction_ends_with_a_position_that_holds_no_record(side: Side) -> None:
    transaction = await side.begin()
    await transaction.append(b"a", b"b")
    await transaction.end(commit=True)
    async with asyncio.timeout(20):
        while await log_ends(side) != (0, 3):  # the marker may come a moment later
            await asyncio.sleep(0.05)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 3)) == [(0, b"a"), (1, b"b")]


@case
async def what_was_aborted_is_passed_over(side: Side) -> None:
    await side.append(b"a")
    transaction = await side.begin()
    await transaction.append(b"never")
    await transaction.end(commit=False)
    await side.append(b"b")
    assert await log_ends(side) == (0, 4)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 4)) == [(0, b"a"), (3, b"b")]


@case
async def an_open_transaction_holds_readers_back(side: Side) -> None:
    """The log's end is told beyond it all the same."""
    await side.append(b"a")
    transaction = await side.begin()
    await transaction.append(b"b")
    await side.append(b"c")
    assert await log_ends(side) == (0, 3)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 1)) == [(0, b"a")]
        source.resume([TopicPartition(side.topic, 0)])
        assert await source.fetch(0.3) == []
        assert source.position(TopicPartition(side.topic, 0)) == 1
        await transaction.end(commit=True)
        assert values(await read(side, source, 1, 4)) == [(1, b"b"), (2, b"c")]


@case
async def what_was_compacted_away_leaves_gaps(side: Side) -> None:
    end = await side.compact(*(b"%d" % number for number in range(20)))
    start, told = await log_ends(side)
    assert (start, told) == (0, end)
    async with reading(side) as source:
        found = values(await read(side, source, 0, end))
        assert len(found) < end
        offsets = [offset for offset, _ in found]
        assert offsets == sorted(set(offsets))
        assert offsets[-1] == end - 1  # the last one of a key stays
        gap = next(offset for offset in range(end) if offset not in offsets)
        following = next(offset for offset in offsets if offset > gap)
        assert values(await read(side, source, gap, end))[0][0] == following


# The topic


@case
async def a_topic_made_anew_is_another_one(side: Side) -> None:
    before = await side.cluster.topic(side.topic)
    await side.append(b"a", b"b")
    member = await stable(side)
    await member.commit(2, "claims")
    await member.leave()
    await side.delete_topic()
    with pytest.raises(TopicMissing):
        await side.cluster.topic(side.topic)
    assert await committed(side) == (-1, "")
    await side.make_topic()
    after = await side.cluster.topic(side.topic)
    assert (after.name, after.cluster_id, after.partitions) == (before.name, before.cluster_id, before.partitions)
    assert after.id != before.id
    assert await committed(side) == (-1, "")
    await side.append(b"c")
    assert await log_ends(side) == (0, 1)
    async with reading(side) as source:
        assert values(await read(side, source, 0, 1)) == [(0, b"c")]
        assert await out_of_range(side, source, 2)


@case
async def while_a_topic_is_gone_its_offsets_are_refused(side: Side) -> None:
    member = await stable(side)
    await side.delete_topic()
    assert await member.commit(1) == UNKNOWN_TOPIC
