"""Mistakes about what may be claimed, committed and believed of a commit."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import consumer.takeover
from consumer.chunk import Cargo
from consumer.claims import ChunkState, Claims, Committed
from consumer.committer import Committer
from consumer.dispatcher import Dispatcher
from consumer.lane import Lane
from consumer.offsets import GroupOffsets, GroupUnavailable, Membership, Unanswered
from consumer.session import Session
from consumer.source import Source
from headrace.objects import Range
from tests.simulation.mutant import mutant, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@mutant("put-before-ack", "answers lost")
def put_before_ack() -> Iterator[None]:
    """A chunk goes to S3 as soon as its claim is sent."""

    def make(original: Any) -> Any:
        def plans(self: Dispatcher) -> Any:
            found = original(self)
            for lane, plan in found:
                for chunk in plan.chunks:
                    if chunk.state is ChunkState.CLOSED:
                        chunk.state = ChunkState.CLAIMED
                        self._jobs.put_nowait((lane, chunk))
            return found

        return plans

    with wrapped(Dispatcher, "plans", make):
        yield


@mutant("ignore-claims", "takeovers")
def ignore_claims() -> Iterator[None]:
    """A new owner starts at the committed offset, and cuts as it likes."""

    def make(original: Any) -> Any:
        def decode(offset: int, metadata: str | None) -> Committed | None:
            found = original(offset, metadata)
            return None if found is None else replace(found, ends=())

        return decode

    with wrapped(consumer.takeover, "decode", make):
        yield


@contextlib.contextmanager
def generation_read_late() -> Iterator[None]:
    """Generation and member id are read when a commit is sent, not before the first await of the assignment."""

    def make(original: Any) -> Any:
        async def commit(self: GroupOffsets, membership: Membership, commits: Any) -> Any:
            return await original(self, Membership(self._coordinator.generation, self._coordinator.member_id), commits)

        return commit

    with wrapped(GroupOffsets, "commit", make):
        yield


@contextlib.contextmanager
def rebalance_without_waiting() -> Iterator[None]:
    """The group goes on before the session has given its partitions back."""

    async def give_back(self: Source) -> None:
        assignment, self._current = self._current, None
        if assignment is not None:
            assignment.revoked.set()

    with patch.object(Source, "give_back", give_back):
        yield


BARRIERS = {"generation read late": generation_read_late, "rebalance without waiting": rebalance_without_waiting}
"""Each stands behind the other: either alone may be missing, and nothing happens. Both is `late-generation`."""


@mutant("late-generation", "takeovers")
def late_generation() -> Iterator[None]:
    """A session that is not waited for commits under the generation that has followed its own."""
    with generation_read_late(), rebalance_without_waiting():
        yield


@mutant("commit-minus-one", "zombies")
def commit_minus_one() -> Iterator[None]:
    """Generation -1 is not refused: Kafka takes it from anybody while the group is empty."""

    def make(original: Any) -> Any:
        async def commit(self: GroupOffsets, membership: Membership, commits: Any) -> Any:
            now = SimpleNamespace(generation=self._coordinator.generation, member_id=self._coordinator.member_id)
            return await original(self, now, commits)

        return commit

    with wrapped(GroupOffsets, "commit", make):
        yield


@mutant("commit-before-store")
def commit_before_store() -> Iterator[None]:
    """What is claimed counts as stored."""

    def make(original: Any) -> Any:
        def plan(self: Claims, allowance: int) -> Any:
            claimed = [chunk for chunk in self._chunks if chunk.state is ChunkState.CLAIMED]
            for chunk in claimed:
                chunk.state = ChunkState.STORED
            try:
                return original(self, allowance)
            finally:
                for chunk in claimed:
                    chunk.state = ChunkState.CLAIMED

        return plan

    with wrapped(Claims, "plan", make):
        yield


@mutant("lost-answer-as-ack", "answers lost")
def lost_answer_as_ack() -> Iterator[None]:
    """A commit without an answer counts as stored."""

    with wrapped(GroupOffsets, "commit", _unanswered_as(0)):
        yield


@mutant("resend-after-timeout", "answers lost")
def resend_after_timeout() -> Iterator[None]:
    """A commit without an answer is sent again by the same member."""

    with wrapped(GroupOffsets, "commit", _unanswered_as(7)):
        yield


def _unanswered_as(code: int) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        async def commit(self: GroupOffsets, membership: Membership, commits: Any) -> Any:
            try:
                return await original(self, membership, commits)
            except Unanswered:
                self._lost = False
                return dict.fromkeys(commits, code)

        return commit

    return make


@mutant("error-as-empty", "same generation")
def error_as_empty() -> Iterator[None]:
    """An error of OffsetFetch counts as "nothing committed"."""

    def make(original: Any) -> Any:
        async def fetch(self: GroupOffsets, partitions: Any) -> Any:
            wanted = list(partitions)
            try:
                return await original(self, wanted)
            except GroupUnavailable:
                return dict.fromkeys(wanted, (-1, ""))

        return fetch

    with wrapped(GroupOffsets, "fetch", make):
        yield


@mutant("forget-fill-until", "repairs")
def forget_fill_until() -> Iterator[None]:
    """A repair's next owner does not know that it is one."""

    def make(original: Any) -> Any:
        def encode(self: Committed) -> Any:
            return original(replace(self, fill_until=0))

        return encode

    with wrapped(Committed, "encode", make):
        yield


@mutant("takeover-drops-inherited-claims")
def takeover_drops_inherited_claims() -> Iterator[None]:
    """A takeover's commits repeat only the claims that it has cut again."""

    def make(original: Any) -> Any:
        def _wish(self: Claims, ends: tuple[int, ...], start: int) -> Committed:
            wish: Committed = original(self, ends, start)
            return replace(wish, ends=wish.ends[: len(ends)])

        return _wish

    with wrapped(Claims, "_wish", make):
        yield


@mutant("chunk-without-an-offset", "replays")
def chunk_without_an_offset() -> Iterator[None]:
    """What Kafka has dropped beyond a replay's stop becomes a claimed chunk from the stop to the stop (once, too)."""

    def make(original: Any) -> Any:
        def _next_chunk(self: Lane) -> None:
            segment = self._segments[0] if self._segments else None
            stop = self._stop
            if stop is not None and segment is not None and segment.offsets.start == self.claims.last_end >= stop:
                self._segments.popleft()
                self._append(Range(stop, stop), Cargo([], gap=True), claimed=False)
            original(self)

        return _next_chunk

    with wrapped(Lane, "_next_chunk", make):
        yield


@mutant("same-name-same-topic", "another log")
def same_name_same_topic() -> Iterator[None]:
    """Whether the topic is still the one that was taken over is not asked before its records are claimed."""

    async def check_topic(_self: Committer, _topic: str, _plans: Any) -> dict[Any, int]:
        return {}

    with patch.object(Committer, "_check_topic", check_topic):
        yield


@mutant("own-part-is-the-whole", "replays")
def own_part_is_the_whole() -> Iterator[None]:
    """A replay's member does not ask what has become of the others' partitions (as it was once)."""

    def make(original: Any) -> Any:
        def finish(self: Session) -> None:
            original(self)
            if self._own_part_whole.is_set():
                self._finished.set()

        return finish

    with wrapped(Session, "_finish_replay", make):
        yield
