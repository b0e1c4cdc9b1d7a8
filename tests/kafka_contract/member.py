"""Members of a group, as far as the wire shows them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

if TYPE_CHECKING:
    from tests.kafka_contract.side import Connection, Side

NOBODY = "nobody-1"
ALL = ConsumerProtocolMemberAssignment(0, [("t", [0])], b"").encode()
NOTHING = ConsumerProtocolMemberAssignment(0, [], b"").encode()
METADATA_TOO_LARGE, UNKNOWN_TOPIC = 12, 3
ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING, MEMBER_ID_REQUIRED = 22, 25, 27, 79


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
