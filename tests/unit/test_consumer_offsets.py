"""The group's commits over a forged coordinator: every error is seen, and what went unanswered is never followed up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    CorrelationIdError,
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from aiokafka.protocol.commit import (
    OffsetCommitRequest,
    OffsetCommitRequest_v3,
    OffsetFetchRequest,
    OffsetFetchRequest_v3,
)

from consumer.offsets import (
    MAX_COMMIT_BYTES,
    GroupOffsets,
    GroupRefused,
    GroupUnavailable,
    Membership,
    PartitionsRefused,
    Unanswered,
    split,
)
from tests.fakes import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

A, B = TopicPartition("t", 0), TopicPartition("t", 1)
US = Membership(7, "me")


class Kafka:
    """Both the client and the coordinator: answers what it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.coordinator_id: int | None = 5
        self.answer: Any = None
        self.asked: list[Any] = []
        self.forgotten = 0
        self.lookup: Exception | None = None
        self.hang: asyncio.Event | None = None

    async def ensure_coordinator_known(self) -> None:
        if self.lookup is not None:
            raise self.lookup

    def coordinator_dead(self) -> None:
        self.forgotten += 1

    async def send(self, node: int, request: Any, *, group: Any) -> Any:
        assert (node, group) == (5, ConnectionGroup.COORDINATION)
        self.asked.append(request)
        if self.hang is not None:
            self.hang.set()
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


@pytest.fixture
def offsets(kafka: Kafka) -> GroupOffsets:
    return GroupOffsets(kafka, kafka, "g", 10)


def fetched(*rows: tuple[int, int, str | None, int], error: int | None = 0) -> SimpleNamespace:
    answer = SimpleNamespace(topics=[("t", list(rows))])
    if error is not None:
        answer.error_code = error
    return answer


def committed(*rows: tuple[int, int]) -> SimpleNamespace:
    return SimpleNamespace(topics=[("t", list(rows))])


# Membership


@pytest.mark.parametrize(("generation", "member"), [(-1, "me"), (-1, ""), (3, ""), (-2, "me")])
def test_nobody_commits_without_a_generation(generation: int, member: str) -> None:
    """Kafka takes generation -1 from anybody while the group is empty."""
    with pytest.raises(Unanswered, match="membership ended"):
        Membership(generation, member)


def test_a_first_generation_is_one() -> None:
    assert Membership(0, "me").generation == 0


# Fetching


async def test_claims_are_read(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.answer = fetched((0, 5, "claims", 0), (1, -1, "", 0))
    assert await offsets.fetch([A, B]) == {A: (5, "claims"), B: (-1, "")}
    request = kafka.asked[0].build(OffsetFetchRequest_v3)
    assert isinstance(kafka.asked[0], OffsetFetchRequest)
    assert (request.consumer_group, request.partitions if hasattr(request, "partitions") else request.topics) == (
        "g",
        [("t", [0, 1])],
    )


async def test_no_metadata_is_empty_metadata(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.answer = fetched((0, 5, None, 0), error=None)
    assert await offsets.fetch([A]) == {A: (5, "")}


async def test_nothing_is_asked_for_nothing(kafka: Kafka, offsets: GroupOffsets) -> None:
    assert await offsets.fetch([]) == {}
    assert not kafka.asked


FETCH_ERRORS = [
    (3, GroupUnavailable, 0),
    (12, GroupRefused, 0),
    (14, GroupUnavailable, 0),
    (15, GroupUnavailable, 1),
    (16, GroupUnavailable, 1),
    (22, GroupRefused, 0),
    (25, GroupRefused, 0),
    (27, GroupRefused, 0),
    (30, GroupRefused, 0),
]


@pytest.mark.parametrize(("code", "kind", "forgotten"), FETCH_ERRORS)
async def test_an_error_is_never_taken_for_no_claims(
    kafka: Kafka, offsets: GroupOffsets, code: int, kind: type[Exception], forgotten: int
) -> None:
    for answer in (
        fetched(error=code),
        fetched((0, -1, "", 0), (1, -1, "", 0), error=code),
        fetched((0, 5, "claims", 0), (1, -1, "", code)),
        fetched((0, 5, "claims", 0), (1, -1, "", code), error=None),
    ):
        kafka.answer, kafka.forgotten = answer, 0
        with pytest.raises(kind, match=rf"\(error {code}\)"):
            await offsets.fetch([A, B])
        assert kafka.forgotten == forgotten


async def test_a_topic_that_may_not_be_seen_concerns_its_partitions_alone(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.answer = fetched((0, 5, "claims", 0), (1, -1, "", 29))
    with pytest.raises(PartitionsRefused, match="Grant READ on the topic") as caught:
        await offsets.fetch([A, B])
    assert caught.value.reasons.keys() == {B}


async def test_a_partition_that_is_not_answered_for_is_asked_again(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.answer = fetched((0, 5, "claims", 0))
    with pytest.raises(GroupUnavailable, match="did not answer for"):
        await offsets.fetch([A, B])


@pytest.mark.parametrize("error", [NodeNotReadyError(), RequestTimedOutError(), KafkaConnectionError()])
async def test_a_fetch_may_be_asked_again(kafka: Kafka, offsets: GroupOffsets, error: KafkaError) -> None:
    kafka.answer = error
    with pytest.raises(GroupUnavailable, match="no answer to OffsetFetch"):
        await offsets.fetch([A])
    assert kafka.forgotten == 1
    kafka.answer = fetched((0, 5, "", 0))
    assert await offsets.fetch([A]) == {A: (5, "")}


async def test_a_fetch_without_a_coordinator(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.coordinator_id = None
    with pytest.raises(GroupUnavailable):
        await offsets.fetch([A])
    assert not kafka.asked


@in_virtual_time
async def test_a_fetch_has_a_deadline() -> None:
    kafka = Kafka()
    kafka.hang = asyncio.Event()
    with pytest.raises(GroupUnavailable, match="TimeoutError"):
        await GroupOffsets(kafka, kafka, "g", 10).fetch([A])
    assert asyncio.get_running_loop().time() == pytest.approx(10)


# Committing


async def test_a_commit_carries_what_was_captured(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.answer = committed((0, 0), (1, 0))
    assert await offsets.commit(US, {A: (5, "a"), B: (6, "b")}) == {A: 0, B: 0}
    assert isinstance(kafka.asked[0], OffsetCommitRequest)
    request = kafka.asked[0].build(OffsetCommitRequest_v3)
    assert request.consumer_group_generation_id == 7
    assert request.consumer_id == "me"
    assert request.topics == [("t", [(0, 5, "a"), (1, 6, "b")])]


@pytest.mark.parametrize("code", [3, 7, 12, 14, 15, 16, 22, 25, 27, 29, 30])
async def test_errors_are_told_by_partition(kafka: Kafka, offsets: GroupOffsets, code: int) -> None:
    kafka.answer = committed((0, 0), (1, code))
    assert await offsets.commit(US, {A: (5, ""), B: (6, "")}) == {A: 0, B: code}
    assert kafka.forgotten == (code in {15, 16})
    kafka.answer = committed((0, 0))
    assert await offsets.commit(US, {A: (5, "")}) == {A: 0}, "an answer, be it an error, may be followed by a commit"


async def test_a_partition_that_is_absent_is_not_acknowledged(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.answer = committed((0, 0))
    assert await offsets.commit(US, {A: (5, ""), B: (6, "")}) == {A: 0, B: 7}


async def expect_silence(kafka: Kafka, offsets: GroupOffsets) -> None:
    """Nothing is sent any more, whatever could be had."""
    sent, kafka.answer, kafka.hang, kafka.lookup = len(kafka.asked), committed((0, 0)), None, None
    with pytest.raises(Unanswered, match="an earlier commit got no answer"):
        await offsets.commit(US, {A: (5, "")})
    with pytest.raises(Unanswered):
        await offsets.commit(Membership(8, "me"), {A: (5, "")})
    assert len(kafka.asked) == sent


@pytest.mark.parametrize(
    "error", [RequestTimedOutError(), KafkaConnectionError("lost"), CorrelationIdError(), KafkaError("?")]
)
async def test_an_unanswered_commit_is_never_followed(kafka: Kafka, offsets: GroupOffsets, error: KafkaError) -> None:
    """What the broker still has of it could be stored after the next one, and undo its claims."""
    kafka.answer = error
    with pytest.raises(Unanswered, match="a commit got no answer"):
        await offsets.commit(US, {A: (5, "")})
    await expect_silence(kafka, offsets)


@in_virtual_time
async def test_a_commit_that_takes_too_long_is_never_followed() -> None:
    kafka = Kafka()
    kafka.hang = asyncio.Event()
    offsets = GroupOffsets(kafka, kafka, "g", 10)
    with pytest.raises(Unanswered):
        await offsets.commit(US, {A: (5, "")})
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    await expect_silence(kafka, offsets)


async def test_a_commit_that_is_cancelled_in_flight_is_never_followed(kafka: Kafka, offsets: GroupOffsets) -> None:
    kafka.hang = asyncio.Event()
    commit = asyncio.create_task(offsets.commit(US, {A: (5, "")}))
    await kafka.hang.wait()
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    await expect_silence(kafka, offsets)


def nobody_there(kafka: Kafka) -> None:
    kafka.coordinator_id = None


def no_connection(kafka: Kafka) -> None:
    kafka.answer = NodeNotReadyError()


def not_found(kafka: Kafka) -> None:
    kafka.lookup = GroupCoordinatorNotAvailableError()


@pytest.mark.parametrize("trouble", [nobody_there, no_connection, not_found])
async def test_a_commit_that_was_never_sent_may_be_asked_again(
    kafka: Kafka, offsets: GroupOffsets, trouble: Callable[[Kafka], None]
) -> None:
    trouble(kafka)
    with pytest.raises(GroupUnavailable, match="can't be reached"):
        await offsets.commit(US, {A: (5, "")})
    kafka.coordinator_id, kafka.lookup, kafka.answer = 5, None, committed((0, 0))
    assert await offsets.commit(US, {A: (5, "")}) == {A: 0}


# Splitting


def test_large_commits_are_split() -> None:
    commits = {TopicPartition("t", number): (number, "x" * 4000) for number in range(1000)}
    parts = list(split(commits))
    assert len(parts) > 1
    assert {tp: entry for part in parts for tp, entry in part.items()} == commits
    assert sum(map(len, parts)) == 1000
    for part in parts:
        assert sum(len(metadata) + len(tp.topic) + 64 for tp, (_, metadata) in part.items()) <= MAX_COMMIT_BYTES


def test_even_a_huge_one_goes_alone() -> None:
    huge = "x" * (MAX_COMMIT_BYTES + 1)
    assert list(split({A: (1, huge), B: (2, "")})) == [{A: (1, huge)}, {B: (2, "")}]
    assert list(split({})) == []
