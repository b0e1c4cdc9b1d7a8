"""Transactions whose Kafka fails at each step: what is answered is true, and nothing is committed by halves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.structs import RecordMetadata

from producer import transactions
from producer.errors import Kind, Problem
from producer.intake import Intake
from producer.records import Place, Records
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from producer.batches import Batch
    from producer.packing import RecordBatch


class Outlet:
    """A topic of four partitions, of which these have leaders."""

    def __init__(self, *led: int) -> None:
        self.led = led

    def partitions(self) -> tuple[int, ...]:
        return self.led

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        raise AssertionError("transactions have producers of their own")


class World:
    """What happened to Kafka, and where it is to fail: at a step, with an error, or `None` to hang there for ever."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.ids: list[str] = []
        self.fails: dict[str, Exception | None] = {}

    async def step(self, name: str) -> None:
        self.log.append(name)
        if name in self.fails:
            error = self.fails[name]
            if error is None:
                await asyncio.Event().wait()
            else:
                raise error


class Client:
    async def add_topic(self, topic: str) -> None:
        pass

    async def force_metadata_update(self) -> None:
        pass


class FakeProducer:
    """As much of aiokafka's as transactions need."""

    client = Client()

    def __init__(self, world: World, transactional_id: str) -> None:
        self._world = world
        world.ids.append(transactional_id)

    async def start(self) -> None:
        await self._world.step("start")

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1, 2}

    async def begin_transaction(self) -> None:
        await self._world.step("begin")

    async def send_batch(self, batch: RecordBatch, topic: str, *, partition: int) -> asyncio.Future[RecordMetadata]:
        assert batch._attributes & 0x10, "transactional"

        async def acknowledged() -> RecordMetadata:
            await self._world.step(f"send {partition}")
            return RecordMetadata(topic, partition, None, 100 * partition, None, None, None)

        return asyncio.ensure_future(acknowledged())

    async def commit_transaction(self) -> None:
        await self._world.step("commit")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def new_producer(_: ProducerSettings, *, transactional_id: str, **__: Any) -> FakeProducer:
        return FakeProducer(world, transactional_id)

    async def close_producer(_: FakeProducer) -> None:
        world.log.append("close")

    monkeypatch.setattr(transactions, "new_producer", new_producer)
    monkeypatch.setattr(transactions, "close_producer", close_producer)
    monkeypatch.setattr(transactions, "POOL", 1)
    monkeypatch.setattr(transactions, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(transactions, "FIRST_PAUSE_SECONDS", 0.01)
    return world


@contextlib.asynccontextmanager
async def running(*led: int, patience: float = 5) -> AsyncIterator[Intake]:
    told = ProducerSettings.model_validate({"kafka_topic": "t", "request_timeout_seconds": patience})
    intake = Intake(told)
    intake.partition_count = 4
    intake.transactions = carrier = transactions.Transactions(told)
    intake.open(Outlet(*(led or range(4))))
    run = asyncio.create_task(carrier.run())
    try:
        yield intake
    finally:
        run.cancel()
        await asyncio.wait([run])
        assert intake.budget.payloads == 0, "all that was taken was given back"


def submit(intake: Intake, *partitions: int) -> asyncio.Future[None]:
    return intake.submit_records(Records([b"x"] * len(partitions), partitions=partitions), 0).outcome


async def kind_of(outcome: asyncio.Future[None]) -> Kind | None:
    try:
        async with asyncio.timeout(5):
            await outcome
    except Problem as problem:
        return problem.kind
    return None


async def test_good_means_committed_and_places_are_told(world: World) -> None:
    async with running() as intake:
        publication = intake.submit_records(Records([b"a", b"b", b"c"], partitions=[3, 1, 3]), 0)
        other = intake.submit_records(Records([b"d", b"e"], partitions=[1, 2]), 0)
        await publication.outcome
        await other.outcome
        assert publication.places() == [Place(3, 300), Place(1, 100), Place(3, 301)]
        assert other.places() == [Place(1, 101), Place(2, 200)]
    assert world.log == ["start", "begin", "send 3", "send 1", "send 2", "commit", "close"], "both in one transaction"


@pytest.mark.parametrize(
    ("step", "kind", "commits"),
    [
        ("start", Kind.KAFKA_AWAY, 0),
        ("begin", Kind.KAFKA_AWAY, 0),
        ("send 1", Kind.KAFKA_AWAY, 0),
        ("send 2", Kind.KAFKA_AWAY, 0),
        ("commit", Kind.OUTCOME_UNKNOWN, 1),
    ],
)
@pytest.mark.parametrize("error", [KafkaError(), ProducerFenced(), OSError(), None], ids=repr)
async def test_a_failure_is_told_as_what_it_is_and_the_next_request_goes_through(
    world: World, step: str, kind: Kind, commits: int, error: Exception | None
) -> None:
    world.fails[step] = error
    async with running(patience=0.05 if error is None else 5) as intake:
        assert await kind_of(submit(intake, 1, 2)) is kind
        assert world.log.count("commit") == commits, "what failed before is never committed"
        world.fails.clear()
        while await kind_of(submit(intake, 1, 2)) is not None:
            assert error is None
        assert len(set(world.ids)) == 1, "the same id: that fences what failed, and ends what it left open"
        if step != "start":
            assert world.log.index("close") < len(world.log) - 1


async def test_a_leader_that_is_away_holds_up_nobody_else(world: World) -> None:
    async with running(0, 1, 2, patience=0.3) as intake:
        lost = submit(intake, 1, 3)
        assert await kind_of(submit(intake, 1, 2)) is None
        assert not lost.done()
        assert await kind_of(lost) is Kind.KAFKA_AWAY
        assert "send 3" not in world.log
        back = submit(intake, 0, 3)
        intake.open(Outlet(0, 1, 2, 3))
        assert await kind_of(back) is None


async def test_what_does_not_fit_one_transaction_goes_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "FULL_PART", 50)
    async with running() as intake:
        outcomes = [submit(intake, 1, 2) for _ in range(5)]
        assert [await kind_of(outcome) for outcome in outcomes] == [None] * 5
    assert world.log.count("commit") == 3, "two of 22 bytes a partition, two, and one"


async def test_too_large_for_the_topic_is_413_the_next_time(world: World) -> None:
    world.fails["send 1"] = MessageSizeTooLargeError()
    async with running() as intake:
        big = Records([b"x" * 5000, b"y"], partitions=[1, 2])
        assert await kind_of(intake.submit_records(big, 0).outcome) is Kind.KAFKA_AWAY
        with pytest.raises(Problem) as caught:
            intake.submit_records(big, 0)
        assert caught.value.kind is Kind.TOO_LONG


async def test_who_may_not_is_told_what_to_do(world: World) -> None:
    world.fails["start"] = TransactionalIdAuthorizationFailed()
    async with running() as intake:
        with pytest.raises(Problem, match="ACL, or KEYED_REQUESTS"):
            await submit(intake, 1, 2)


@pytest.mark.parametrize(
    ("step", "kind"),
    [("start", Kind.KAFKA_AWAY), ("send 1", Kind.KAFKA_AWAY), ("commit", Kind.OUTCOME_UNKNOWN)],
)
async def test_ended_at_any_step_each_request_gets_its_true_answer(world: World, step: str, kind: Kind) -> None:
    world.fails[step] = None
    async with running() as intake:
        under_way = submit(intake, 1, 2)
        while step not in world.log:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        in_line = submit(intake, 1, 2)
    assert await kind_of(under_way) is kind
    assert await kind_of(in_line) is Kind.KAFKA_AWAY
    assert world.log[-1] == "close"


@pytest.mark.parametrize("again", [False, True], ids=["first", "replacement"])
async def test_a_cancellation_that_the_client_swallows_ends_it_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """Python 3.11's wait_for does that, when the answer comes at the same moment."""
    swallowing = asyncio.Event()

    async def start(_: FakeProducer) -> None:
        if again and len(world.ids) == 1:
            return
        swallowing.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(FakeProducer, "start", start)
    world.fails["send 1"] = KafkaError()
    async with running() as intake:
        outcome = submit(intake, 1, 2)
        async with asyncio.timeout(5):
            await swallowing.wait()
    assert await kind_of(outcome) is Kind.KAFKA_AWAY


async def test_draining_shortens_the_wait_for_a_commit(world: World) -> None:
    world.fails["commit"] = None
    async with running(patience=1000) as intake:
        outcome = submit(intake, 1, 2)
        while "commit" not in world.log:
            await asyncio.sleep(0)
        carrier = intake.transactions
        assert isinstance(carrier, transactions.Transactions)
        carrier.hurry(asyncio.get_running_loop().time())
        assert await kind_of(outcome) is Kind.OUTCOME_UNKNOWN
