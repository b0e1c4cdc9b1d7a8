"""The group's coordinator, as Kafka's classic protocol has it: joins, generations, sessions, and who may commit."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.simulation.world import World

UNKNOWN_MEMBER, ILLEGAL_GENERATION, REBALANCING, MEMBER_ID_REQUIRED = 25, 22, 27, 79
UNKNOWN_TOPIC, METADATA_TOO_LARGE = 3, 12

Reply = "Callable[[Any], None]"


class GroupState(enum.Enum):
    """In Kafka's words. DEAD: nobody has heard of the group, or it was deleted."""

    DEAD = "Dead"
    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


@dataclass(eq=False)
class Member:
    id: str
    session: float
    patience: float
    metadata: bytes = b""
    assignment: bytes = b""
    deadline: float = 0.0
    joining: Callable[[Any], None] | None = None
    syncing: Callable[[Any], None] | None = None


@dataclass(eq=False)
class Committed:
    offset: int
    metadata: str


@dataclass
class GroupCoordinator:
    """Handles one request after the other; `reply` may be called later, or be thrown away by whoever gave it."""

    world: World
    on_commit: Callable[[TopicPartition, int, str, str], None]
    exists: Callable[[TopicPartition], bool] = lambda _tp: True
    state: GroupState = GroupState.DEAD
    generation: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    """Who was given an id, and has not joined yet: a rebalance waits for them, too."""
    leader: str = ""
    offsets: dict[TopicPartition, Committed] = field(default_factory=dict)
    most_metadata: int = 4096
    _made: int = 0
    _first: bool = False
    """The rebalance is that of a group which was empty: it waits for nobody."""
    _rebalance: asyncio.TimerHandle | None = None

    # Joining

    def join(self, request: Any, reply: Callable[[Any], None], hint: str) -> None:
        member_id = request._member_id
        if not member_id:
            self._made += 1
            member_id = f"{hint}-{self._made}"
            self.pending.add(member_id)
            self.world.later(request._session_timeout / 1000, self._lose_pending, member_id)
            reply(_joined(MEMBER_ID_REQUIRED, member_id=member_id))
            return
        if member_id not in self.members and member_id not in self.pending:
            reply(_joined(UNKNOWN_MEMBER))
            return
        metadata = request._group_protocols[0][1]
        member = self.members.get(member_id)
        if member is None:
            self.pending.discard(member_id)
            member = Member(member_id, request._session_timeout / 1000, request._rebalance_timeout / 1000)
            self.members[member_id] = member
            self.leader = self.leader or member_id
        elif self.state is GroupState.STABLE and member_id != self.leader and member.metadata == metadata:
            self._seen(member)
            reply(self._join_answer(member))  # a follower that merely asks again keeps its generation
            return
        elif self.state is GroupState.COMPLETING and member.metadata == metadata:
            self._seen(member)
            reply(self._join_answer(member))
            return
        member.metadata = metadata
        member.joining = reply
        if self.state is not GroupState.PREPARING:
            self._prepare("joined")
        self._maybe_complete()

    def _lose_pending(self, member_id: str) -> None:
        if member_id in self.pending:
            self.pending.discard(member_id)
            self._maybe_complete()

    def _prepare(self, why: str) -> None:
        self._first = self.state in {GroupState.EMPTY, GroupState.DEAD}
        self.state = GroupState.PREPARING
        self.world.say("group", f"rebalances ({why})")
        for member in self.members.values():
            if member.syncing is not None:
                syncing, member.syncing = member.syncing, None
                syncing(SimpleNamespace(error_code=REBALANCING, member_assignment=b""))
        if self._rebalance is not None:
            self._rebalance.cancel()
        patience = max((member.patience for member in self.members.values()), default=0.0)
        self._rebalance = self.world.later(patience, self._patience_ends)

    def _patience_ends(self) -> None:
        if self.state is GroupState.PREPARING:
            for member in [member for member in self.members.values() if member.joining is None]:
                self.world.say("group", f"expels {member.id}, which does not join")
                self._forget(member)
            self._complete()

    def _maybe_complete(self) -> None:
        if self.state is not GroupState.PREPARING or any(m.joining is None for m in self.members.values()):
            return
        if not self.pending or self._first or not self.members:
            self._complete()

    def _complete(self) -> None:
        if self._rebalance is not None:
            self._rebalance.cancel()
            self._rebalance = None
        self.generation += 1
        if not self.members:
            self.state = GroupState.EMPTY
            self.leader = ""
            self.world.say("group", f"empty generation={self.generation}")
            return
        self.state = GroupState.COMPLETING
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        self.world.say("group", f"generation={self.generation} {' '.join(self.members)}")
        for member in list(self.members.values()):
            member.assignment = b""
            joining, member.joining = member.joining, None
            assert joining is not None
            self._seen(member)
            joining(self._join_answer(member))

    def _join_answer(self, member: Member) -> SimpleNamespace:
        told = [(m.id, None, m.metadata) for m in self.members.values()] if member.id == self.leader else []
        return _joined(0, member_id=member.id, generation=self.generation, leader=self.leader, members=told)

    def sync(self, request: Any, reply: Callable[[Any], None]) -> None:
        member = self.members.get(request._member_id)
        code = self._check(request._member_id, request._generation_id)
        if code or member is None:
            reply(SimpleNamespace(error_code=code, member_assignment=b""))
            return
        self._seen(member)
        if self.state is GroupState.PREPARING:
            reply(SimpleNamespace(error_code=REBALANCING, member_assignment=b""))
        elif self.state is GroupState.STABLE:
            reply(SimpleNamespace(error_code=0, member_assignment=member.assignment))
        else:
            member.syncing = reply
            if member.id == self.leader:
                for member_id, assignment in request._group_assignment:
                    self.members[member_id].assignment = assignment
                self.state = GroupState.STABLE
                for each in self.members.values():
                    if each.syncing is not None:
                        syncing, each.syncing = each.syncing, None
                        self._seen(each)
                        syncing(SimpleNamespace(error_code=0, member_assignment=each.assignment))

    # Staying

    def heartbeat(self, request: Any) -> int:
        code = self._check(request._member_id, request._generation_id)
        if code:
            return code
        self._seen(self.members[request._member_id])
        return REBALANCING if self.state is GroupState.PREPARING else 0

    def leave(self, member_id: str) -> int:
        if member_id in self.pending:
            self.pending.discard(member_id)
            if self.state in {GroupState.STABLE, GroupState.COMPLETING}:
                self._prepare("left")
            self._maybe_complete()
            return 0
        member = self.members.get(member_id)
        if member is None:
            return UNKNOWN_MEMBER
        self.world.say("group", f"left {member_id}")
        self._remove(member)
        return 0

    def _check(self, member_id: str, generation: int) -> int:
        if member_id not in self.members:
            return UNKNOWN_MEMBER
        return 0 if generation == self.generation else ILLEGAL_GENERATION

    def _seen(self, member: Member) -> None:
        first = member.deadline == 0.0
        member.deadline = self.world.now + member.session
        if first:
            self.world.later(member.session, self._look_after, member)

    def _look_after(self, member: Member) -> None:
        if self.members.get(member.id) is not member:
            return
        left = member.deadline - self.world.now
        if member.joining is not None:  # who waits for a rebalance is alive
            left = max(left, member.session)
        if left > 0:
            self.world.later(left, self._look_after, member)
        else:
            self.world.say("group", f"session of {member.id} has ended")
            self._remove(member)

    def _forget(self, member: Member) -> None:
        del self.members[member.id]
        for waiting in (member.joining, member.syncing):
            if waiting is not None:
                waiting(_joined(UNKNOWN_MEMBER) if waiting is member.joining else SimpleNamespace(error_code=25))

    def _remove(self, member: Member) -> None:
        self._forget(member)
        if self.state in {GroupState.STABLE, GroupState.COMPLETING}:
            self._prepare("left")
        self._maybe_complete()

    def delete(self) -> None:
        """kafka-consumer-groups.sh --delete: the offsets are gone, and generations count from 1 again."""
        assert not self.members
        self.offsets.clear()
        self.state, self.generation, self.leader = GroupState.DEAD, 0, ""

    # Commits

    def commit(self, request: Any, hint: str) -> int:
        """Kafka's own rules: a generation below 0 is taken from anybody while the group is empty."""
        generation, member_id = request._consumer_group_generation_id, request._consumer_id
        if self.state is GroupState.DEAD:
            if generation >= 0:
                return ILLEGAL_GENERATION
            self.state = GroupState.EMPTY
        if not (generation < 0 and self.state is GroupState.EMPTY):
            code = self._check(member_id, generation) if generation >= 0 or member_id else UNKNOWN_MEMBER
            if code:
                return code
            if self.state is GroupState.COMPLETING:
                return REBALANCING
            self._seen(self.members[member_id])
        return 0

    def store(self, request: Any, hint: str) -> dict[int, int]:
        codes = {}
        for topic, rows in request._topics:
            for partition, offset, metadata in rows:
                if not self.exists(TopicPartition(topic, partition)):
                    codes[partition] = UNKNOWN_TOPIC
                    continue
                if len(metadata) > self.most_metadata:
                    codes[partition] = METADATA_TOO_LARGE
                    continue
                codes[partition] = 0
                self.put_offset(TopicPartition(topic, partition), offset, metadata, hint)
        return codes

    def put_offset(self, tp: TopicPartition, offset: int, metadata: str, hint: str) -> None:
        self.offsets[tp] = Committed(offset, metadata)
        self.on_commit(tp, offset, metadata, hint)


def _joined(
    code: int, *, member_id: str = "", generation: int = -1, leader: str = "", members: list[Any] | None = None
) -> SimpleNamespace:
    return SimpleNamespace(
        API_VERSION=5,
        error_code=code,
        member_id=member_id,
        generation_id=generation,
        group_protocol="roundrobin",
        leader_id=leader,
        members=members or [],
    )
