"""Deliberate mistakes, each put into the real code for the length of a `with`: the harness must find every one.

DESIGN.md, section 3, names fifteen; the last three were really there once.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import consumer.standing
import consumer.takeover
import consumer.taking
import consumer.uploader
from consumer.chunk import OpenChunk
from consumer.claims import ChunkState, Claims, Committed
from consumer.dispatcher import Dispatcher
from consumer.offsets import GroupOffsets, GroupUnavailable, Membership, Unanswered
from consumer.source import Source
from consumer.taking import Taking
from consumer.uploader import Uploader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Mutant:
    """`profile`: the kind of schedules that is to find it. `seeds`: within so many."""

    name: str
    apply: Callable[[], AbstractContextManager[Any]]
    profile: str = "any"
    seeds: int = 2000


MUTANTS: dict[str, Mutant] = {}


def mutant(name: str, profile: str = "any", seeds: int = 2000) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(body: Callable[[], Iterator[None]]) -> Callable[[], Any]:
        MUTANTS[name] = Mutant(name, contextlib.contextmanager(body), profile, seeds)
        return body

    return register


def _wrapped(owner: Any, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    original = getattr(owner, name)
    return patch.object(owner, name, wraps(original)(make(original)))


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

    with _wrapped(Dispatcher, "plans", make):
        yield


@mutant("ignore-claims", "takeovers")
def ignore_claims() -> Iterator[None]:
    """A new owner starts at the committed offset, and cuts as it likes."""

    def make(original: Any) -> Any:
        def decode(offset: int, metadata: str | None) -> Committed | None:
            found = original(offset, metadata)
            return None if found is None else replace(found, ends=())

        return decode

    with _wrapped(consumer.takeover, "decode", make):
        yield


@mutant("late-generation", "takeovers")
def late_generation() -> Iterator[None]:
    """Generation and member id are read when a commit is sent. The rebalance does not wait for the session either,
    which would hide it: two barriers stand there, and both are taken away."""

    def make(original: Any) -> Any:
        async def commit(self: GroupOffsets, membership: Membership, commits: Any) -> Any:
            return await original(self, Membership(self._coordinator.generation, self._coordinator.member_id), commits)

        return commit

    async def give_back(self: Source) -> None:
        assignment, self._current = self._current, None
        if assignment is not None:
            assignment.revoked.set()

    with _wrapped(GroupOffsets, "commit", make), patch.object(Source, "give_back", give_back):
        yield


@mutant("commit-minus-one", "zombies")
def commit_minus_one() -> Iterator[None]:
    """Generation -1 is not refused: Kafka takes it from anybody while the group is empty."""

    def make(original: Any) -> Any:
        async def commit(self: GroupOffsets, membership: Membership, commits: Any) -> Any:
            now = SimpleNamespace(generation=self._coordinator.generation, member_id=self._coordinator.member_id)
            return await original(self, now, commits)

        return commit

    with _wrapped(GroupOffsets, "commit", make):
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

    with _wrapped(Claims, "plan", make):
        yield


@mutant("end-from-last-record", "erosion")
def end_from_last_record() -> Iterator[None]:
    """A chunk ends behind its last record, wherever the fetch has got to."""

    def take(original: Any) -> Any:
        def make(self: OpenChunk, records: Any, **rest: Any) -> int:
            count: int = original(self, records, **rest)
            if count:
                self.last = records[count - 1].offset  # type: ignore[attr-defined]
            return count

        return make

    def close(original: Any) -> Any:
        def make(self: OpenChunk) -> Any:
            if self.records:
                self.position = self.last + 1  # type: ignore[attr-defined]
            return original(self)

        return make

    with _wrapped(OpenChunk, "take", take), _wrapped(OpenChunk, "close", close):
        yield


@mutant("cancelled-upload-counted")
def cancelled_upload_counted() -> Iterator[None]:
    """An attempt that was cancelled at its deadline counts as an upload."""

    def make(original: Any) -> Any:
        async def upload(self: Uploader, *args: Any, **kwargs: Any) -> bool:
            try:
                async with asyncio.timeout(self._timeout * 0.95):
                    return bool(await original(self, *args, **kwargs))
            except TimeoutError:
                return True

        return upload

    with _wrapped(Uploader, "upload", make):
        yield


@mutant("lost-answer-as-ack", "answers lost")
def lost_answer_as_ack() -> Iterator[None]:
    """A commit without an answer counts as stored."""

    with _wrapped(GroupOffsets, "commit", _unanswered_as(0)):
        yield


@mutant("resend-after-timeout", "answers lost")
def resend_after_timeout() -> Iterator[None]:
    """A commit without an answer is sent again by the same member."""

    with _wrapped(GroupOffsets, "commit", _unanswered_as(7)):
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


@mutant("coverage-ignored", "resets")
def coverage_ignored() -> Iterator[None]:
    """What stands in S3 is not asked for."""

    async def standing(_store: Any, *, above: Any, **_: Any) -> Any:
        return {partition: [] for partition in above}

    with patch.object(consumer.taking, "standing", standing):
        yield


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

    with _wrapped(GroupOffsets, "fetch", make):
        yield


@mutant("no-quiet-period", "resets")
def no_quiet_period() -> Iterator[None]:
    """Where only S3 can tell, it is asked at once."""

    async def at_once(_self: Taking, _reasons: Any) -> None:
        pass

    with patch.object(Taking, "_be_quiet", at_once):
        yield


@mutant("forget-fill-until", "repairs")
def forget_fill_until() -> Iterator[None]:
    """A repair's next owner does not know that it is one."""

    def make(original: Any) -> Any:
        def encode(self: Committed) -> Any:
            return original(replace(self, fill_until=0))

        return encode

    with _wrapped(Committed, "encode", make):
        yield


@mutant("covered-by-one-object", "resets")
def covered_by_one_object() -> Iterator[None]:
    """One object of a chunk is taken for the whole."""
    with patch.object(consumer.standing, "is_complete", lambda _present, _told: True):
        yield


@mutant("shrinking-overwrite", "erosion")
def shrinking_overwrite() -> Iterator[None]:
    """What is left of a chunk replaces what was stored of it."""

    def make(original: Any) -> Any:
        def missing_objects(layout: Any, partition: Any, offsets: Any, cargo: Any) -> Any:
            return original(layout, partition, offsets, replace(cargo, standing={}))

        return missing_objects

    with _wrapped(consumer.uploader, "missing_objects", make):
        yield


@mutant("takeover-drops-inherited-claims")
def takeover_drops_inherited_claims() -> Iterator[None]:
    """A takeover's commits repeat only the claims that it has cut again."""

    def make(original: Any) -> Any:
        def _wish(self: Claims, ends: tuple[int, ...], start: int) -> Committed:
            wish: Committed = original(self, ends, start)
            return replace(wish, ends=wish.ends[: len(ends)])

        return _wish

    with _wrapped(Claims, "_wish", make):
        yield


@mutant("below-the-log-is-whole", "claims forgotten")
def below_the_log_is_whole() -> Iterator[None]:
    """What lies below the log's start is taken for whole (as it was until the simulation found it)."""
    with (
        patch.object(consumer.taking, "_unsure_from", lambda log, need: getattr(need.committed, "start", log.start)),
        patch.object(consumer.taking, "LAST_CHUNKS", 0),
    ):
        yield


@mutant("quiet-for-two-deadlines", "cut off", seeds=3000)
def quiet_for_two_deadlines() -> Iterator[None]:
    """The wait does not count the time for which a PUT may land after it was given up (as it was, too)."""
    with patch.object(consumer.taking, "QUIET_DEADLINES", 2):
        yield


def mutated(name: str | None) -> AbstractContextManager[Any]:
    """The mutant of that name; None leaves the code as it is."""
    return ExitStack() if name is None else MUTANTS[name].apply()
