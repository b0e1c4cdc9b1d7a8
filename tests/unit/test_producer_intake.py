"""What comes in is bounded, answered truly and in time, whatever the outlet does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.structs import RecordMetadata

from producer.errors import Kind, Problem
from producer.intake import Intake, open_intakes
from producer.link import offset_of
from producer.partitioner import partition_of
from producer.records import Place, Records
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from producer.batches import Batch
    from producer.publication import Bundle


class FakeOutlet:
    """Keeps what it is given until the test says what became of it."""

    def __init__(self, partitions: int = 2) -> None:
        self.sent: list[Batch] = []
        self._partitions = range(partitions)

    def partitions(self) -> range:
        return self._partitions

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        self.sent.append(batch)


def settings(**values: object) -> ProducerSettings:
    return ProducerSettings.model_validate({"kafka_topic": "t", "linger_ms": 0, **values})


@pytest.fixture
async def ticking() -> AsyncIterator[set[asyncio.Task[None]]]:
    tasks: set[asyncio.Task[None]] = set()
    yield tasks
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def submit(intake: Intake, *payloads: bytes) -> asyncio.Future[None]:
    size = sum(map(len, payloads))
    intake.budget.take(size)
    return intake.submit(list(payloads), [], size)


async def test_an_outcome_comes_when_its_batch_has_landed() -> None:
    intake, outlet = Intake(settings()), FakeOutlet()
    intake.open(outlet)
    outcome = submit(intake, b"1", b"2")
    assert [request.payloads for request in outlet.sent[0].requests] == [[b"1", b"2"]]
    assert not outcome.done()
    intake.landed(outlet.sent[0], 1.0, None)
    await outcome
    assert (intake.budget.bytes, intake.budget.payloads) == (0, 0)


async def test_a_failed_batch_fails_all_its_requests_and_no_other() -> None:
    intake, outlet = Intake(settings()), FakeOutlet()
    intake.open(outlet)
    first = submit(intake, b"1")
    second, third = submit(intake, b"2"), submit(intake, b"3")
    problem = Problem(Kind.OUTCOME_UNKNOWN, "x")
    intake.landed(outlet.sent[0], 1.0, None)
    intake.landed(outlet.sent[1], 1.0, problem)
    assert (first.exception(), second.exception(), third.exception()) == (None, problem, problem)


async def test_closed_means_refused_at_once_with_the_reason() -> None:
    intake = Intake(settings())
    intake.close("Topic t does not exist.")
    with pytest.raises(Problem, match="does not exist") as caught:
        intake.check_open(1)
    assert caught.value.kind is Kind.KAFKA_AWAY


async def test_those_in_line_go_through_the_next_outlet() -> None:
    intake, broken, good = Intake(settings()), FakeOutlet(), FakeOutlet()
    intake.open(broken)
    submit(intake, b"1")
    waiting = submit(intake, b"2")
    intake.close("replaced")
    intake.open(good)
    assert [request.outcome for request in good.sent[0].requests] == [waiting]


async def test_no_more_payloads_wait_than_max_queue() -> None:
    intake = Intake(settings(max_queue=3))
    intake.open(FakeOutlet())
    submit(intake, b"1", b"2")
    with pytest.raises(Problem) as caught:
        submit(intake, b"3", b"4")
    assert caught.value.kind is Kind.QUEUE_FULL
    submit(intake, b"3")
    with pytest.raises(Problem) as caught:
        intake.check_open(1)
    assert caught.value.kind is Kind.QUEUE_FULL


async def test_no_more_bytes_are_held_than_the_budget_and_answered_is_not_gone(
    ticking: set[asyncio.Task[None]],
) -> None:
    """Kafka dead: requests are answered when their time is up, but what the client still holds keeps its bytes."""
    intake = Intake(settings(max_length=10, memory_budget_bytes=10, request_timeout_seconds=0.01))
    outlet = FakeOutlet()
    intake.open(outlet)
    outcome = submit(intake, b"x" * 8)
    ticking.add(asyncio.create_task(intake.tick()))
    with pytest.raises(Problem) as caught:
        await outcome
    assert caught.value.kind is Kind.OUTCOME_UNKNOWN
    with pytest.raises(Problem) as caught:
        intake.check_open(3)
    assert caught.value.kind is Kind.QUEUE_FULL
    intake.landed(outlet.sent[0], 1.0, None)
    intake.check_open(3)


async def test_what_was_never_handed_over_is_surely_not_published(ticking: set[asyncio.Task[None]]) -> None:
    intake = Intake(settings(request_timeout_seconds=0.01))
    intake.open(FakeOutlet(partitions=0))
    outcome = submit(intake, b"1")
    ticking.add(asyncio.create_task(intake.tick()))
    with pytest.raises(Problem) as caught:
        await outcome
    assert caught.value.kind is Kind.KAFKA_AWAY
    assert (intake.budget.bytes, intake.budget.payloads) == (0, 0)


async def test_draining_shortens_every_deadline(ticking: set[asyncio.Task[None]]) -> None:
    intake = Intake(settings(request_timeout_seconds=1000))
    intake.open(FakeOutlet(partitions=1))
    under_way, in_line = submit(intake, b"1"), submit(intake, b"2")
    intake.drain(asyncio.get_running_loop().time())
    afterwards = submit(intake, b"3")
    ticking.add(asyncio.create_task(intake.tick()))
    kinds = []
    for outcome in (under_way, in_line, afterwards):
        with pytest.raises(Problem) as caught:
            await outcome
        kinds.append(caught.value.kind)
    assert kinds == [Kind.OUTCOME_UNKNOWN, Kind.KAFKA_AWAY, Kind.KAFKA_AWAY]


@pytest.mark.parametrize(
    ("payloads", "limit"),
    [([b"x" * 900], 1000), ([b"x"] * 60, 1000), ([b""] * 11, 10)],
    ids=["bytes", "records", "payloads"],
)
async def test_what_can_never_fit_is_413_with_the_limit(payloads: list[bytes], limit: int) -> None:
    intake = Intake(settings(max_queue=10 if limit == 10 else 1000))
    intake.open(FakeOutlet())
    intake.batch_limit = 1000 if limit == 1000 else 10_000
    if limit == 1000 and len(payloads) == 1:
        submit(intake, *payloads)  # 900 bytes and what a record adds do fit
        payloads = [b"x" * 920]
    with pytest.raises(Problem) as caught:
        submit(intake, *payloads)
    assert caught.value.kind is Kind.TOO_LONG
    assert caught.value.members == {"limit": limit}
    assert str(limit) in caught.value.detail


async def test_a_caller_that_is_cancelled_takes_nobody_with_it() -> None:
    intake, outlet = Intake(settings(linger_ms=1000)), FakeOutlet()
    intake.open(outlet)
    gone, stays = submit(intake, b"1"), submit(intake, b"2")
    gone.cancel()
    intake.drain(asyncio.get_running_loop().time() + 100)
    intake.landed(outlet.sent[0], 1.0, None)
    await stays
    assert (intake.budget.bytes, intake.budget.payloads) == (0, 0)


# Long bodies, before they come


async def test_long_bodies_are_let_in_up_to_half_of_the_budget_and_short_ones_go_on() -> None:
    intake = Intake(settings(max_length=40, memory_budget_bytes=100))
    intake.open(FakeOutlet())
    await intake.promise(40)
    waiting = asyncio.create_task(intake.promise(40))
    await asyncio.sleep(0)
    assert not waiting.done()
    intake.reserve(60)
    with pytest.raises(Problem):
        intake.reserve(1)
    intake.release(60)
    intake.keep_promise(40)
    await waiting
    assert (intake.budget.bytes, intake.budget.promised) == (80, 40)


async def test_who_waits_for_room_comes_in_the_order_of_asking() -> None:
    intake = Intake(settings(max_length=60, memory_budget_bytes=100))
    intake.open(FakeOutlet())
    await intake.promise(50)
    large, small = asyncio.create_task(intake.promise(60)), asyncio.create_task(intake.promise(10))
    await asyncio.sleep(0)
    assert not small.done(), "it does not overtake"
    intake.keep_promise(50)
    intake.release(50)
    await large
    intake.keep_promise(60)
    await small


async def test_one_long_body_is_let_in_whatever_its_share() -> None:
    intake = Intake(settings(max_length=100, memory_budget_bytes=100))
    intake.open(FakeOutlet())
    await intake.promise(100)
    assert intake.budget.promised == 100


async def test_who_waits_for_room_in_vain_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.intake.ROOM_SECONDS", 0.01)
    intake = Intake(settings(max_length=100, memory_budget_bytes=100))
    intake.open(FakeOutlet())
    await intake.promise(100)
    with pytest.raises(Problem) as caught:
        await intake.promise(1)
    assert caught.value.kind is Kind.QUEUE_FULL
    intake.keep_promise(100)
    intake.release(100)
    assert (intake.budget.bytes, intake.budget.promised) == (0, 0)


@pytest.mark.parametrize("let_in_first", [False, True])
async def test_a_cancelled_wait_for_room_takes_nothing_along(*, let_in_first: bool) -> None:
    intake = Intake(settings(max_length=100, memory_budget_bytes=100))
    intake.open(FakeOutlet())
    await intake.promise(100)
    gone, next_one = asyncio.create_task(intake.promise(100)), asyncio.create_task(intake.promise(100))
    await asyncio.sleep(0)
    if not let_in_first:
        gone.cancel()
    intake.keep_promise(100)
    intake.release(100)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await next_one
    assert (intake.budget.bytes, intake.budget.promised) == (100, 100)


# Records with keys


class Carrier:
    def __init__(self) -> None:
        self.bundles: list[Bundle] = []

    def add(self, bundle: Bundle) -> None:
        self.bundles.append(bundle)


def keyed(mode: str = "transaction", **values: object) -> tuple[Intake, FakeOutlet, Carrier]:
    intake, outlet, carrier = Intake(settings(keyed_requests=mode, **values)), FakeOutlet(4), Carrier()
    intake.partition_count = 4
    intake.transactions = carrier
    intake.open(outlet)
    return intake, outlet, carrier


APART = Records([b"1", b"2", b"3"], partitions=[1, None, 2])


async def test_what_belongs_together_is_one_batch_and_its_places_are_told() -> None:
    intake, outlet, _ = keyed()
    intake.submit_records(Records([b"1"], partitions=[2]), 0)
    publication = intake.submit_records(Records([b"1", None], keys=[b"21", None]), 0)
    partition = partition_of(b"21", 4)
    intake.landed(outlet.sent[0], 1.0, None, 7)
    batch = outlet.sent[1]
    assert (batch.partition, batch.requests[0].payloads) == (partition, [b"1", None])
    intake.landed(batch, 1.0, None, 40)
    await publication.outcome
    assert publication.places() == [Place(partition, 40), Place(partition, 41)]
    assert intake.budget.payloads == 0


async def test_a_duplicates_acknowledgement_tells_no_offset() -> None:
    intake, outlet, _ = keyed()
    publication = intake.submit_records(Records([b"1"], partitions=[2]), 0)
    assert offset_of(RecordMetadata("t", 2, None, -1, None, None, None)) is None
    intake.landed(outlet.sent[0], 1.0, None, None)
    await publication.outcome
    assert publication.places() == [Place(2, None)]


async def test_parts_go_as_one_bundle_and_are_given_back_once() -> None:
    intake, outlet, carrier = keyed()
    intake.budget.take(30)
    publication = intake.submit_records(APART, 30)
    (bundle,) = carrier.bundles
    parts = {part.part.partition: (part.payloads, part.part.indexes) for part in bundle.parts if part.part is not None}
    assert parts == {1: ([b"1", b"2"], [0, 1]), 2: ([b"3"], [2])}
    assert (outlet.sent, intake.budget.payloads) == ([], 3)
    problem = Problem(Kind.KAFKA_AWAY, "x")
    intake.bundle_landed(bundle.whole, problem)
    assert publication.outcome.exception() is problem
    assert (intake.budget.bytes, intake.budget.payloads) == (0, 0)


async def test_separate_parts_are_one_outcome() -> None:
    unknown, away = Problem(Kind.OUTCOME_UNKNOWN, "x"), Problem(Kind.KAFKA_AWAY, "y")
    for problems, kind in (
        ((None, None), None),
        ((None, away), Kind.OUTCOME_UNKNOWN),
        ((away, away), Kind.KAFKA_AWAY),
        ((unknown, away), Kind.OUTCOME_UNKNOWN),
    ):
        intake, outlet, _ = keyed("separate")
        intake.budget.take(30)
        publication = intake.submit_records(APART, 30)
        assert [batch.partition for batch in outlet.sent] == [1, 2]
        for batch, problem in zip(outlet.sent, problems, strict=True):
            assert not publication.outcome.done()
            intake.landed(batch, 1.0, problem, 5)
            await asyncio.sleep(0)
        error = publication.outcome.exception()
        assert (error.kind if isinstance(error, Problem) else None) is kind
        assert (intake.budget.bytes, intake.budget.payloads) == (0, 0)


async def test_refused_means_nothing_is_taken() -> None:
    intake, outlet, _ = keyed("refuse")
    with pytest.raises(Problem) as caught:
        intake.submit_records(APART, 0)
    assert caught.value.kind is Kind.KEYS_APART
    assert (outlet.sent, intake.budget.payloads) == ([], 0)


async def test_a_partition_that_is_not_there_is_told_with_the_record() -> None:
    intake, _, _ = keyed()
    for partition in (-1, 4):
        with pytest.raises(Problem) as caught:
            intake.submit_records(Records([b"1", b"2"], partitions=[None, partition]), 0)
        assert (caught.value.kind, caught.value.members) == (Kind.NO_PARTITION, {"index": 1})
    intake.partition_count = 0
    with pytest.raises(Problem, match="not known yet"):
        intake.submit_records(APART, 0)


async def test_keys_count_as_much_as_they_take() -> None:
    intake, _, _ = keyed()
    intake.batch_limit = 1000
    with pytest.raises(Problem) as caught:
        intake.submit_records(Records([b"1"], keys=[b"k" * 950]), 0)
    assert caught.value.kind is Kind.TOO_LONG
    with pytest.raises(Problem) as caught:
        intake.submit_records(Records([b"1", b"2"], partitions=[1, 2], own_headers=[[("h", b"x" * 950)], []]), 0)
    assert caught.value.kind is Kind.TOO_LONG


@pytest.mark.parametrize("mode", ["transaction", "separate"])
async def test_a_partition_without_a_leader_leaves_room_for_others(mode: str) -> None:
    intake, _, _ = keyed(mode, max_length=100, memory_budget_bytes=1000)
    intake.partition_count = 10
    lost = Records([b"x" * 80], partitions=[9])
    for _ in range(4):
        intake.reserve(100)
        intake.submit_records(lost, 100)
    intake.reserve(300)
    with pytest.raises(Problem) as caught:
        intake.submit_records(lost, 100)
    intake.release(300)
    assert caught.value.kind is Kind.QUEUE_FULL
    assert "partition 9" in caught.value.detail
    assert (intake.budget.bytes, intake.budget.payloads) == (400, 4)
    intake.submit_records(Records([b"x" * 80], partitions=[1]), 0)
    intake.reserve(300)
    if mode == "separate":
        with pytest.raises(Problem, match="partition 9"):
            intake.submit_records(Records([b"1", b"2"], partitions=[1, 9]), 0)


async def test_a_topic_that_kafka_lacks_leaves_room_for_others() -> None:
    told = settings(kafka_topics_allowed=("u",), max_queue=100)
    intakes = open_intakes(told)
    assert list(intakes) == ["t", "u"]
    for intake in intakes.values():
        intake.open(FakeOutlet(0))
    for _ in range(50):
        submit(intakes["u"], b"1")
    with pytest.raises(Problem) as caught:
        submit(intakes["u"], b"1")
    assert caught.value.kind is Kind.QUEUE_FULL
    assert "topic u" in caught.value.detail
    assert intakes["t"].budget.payloads == 50
    submit(intakes["t"], *[b"1"] * 30)
