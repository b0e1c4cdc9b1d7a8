"""The end of an assignment: what is held or claimed is stored within the deadline, and waiting costs nothing."""

from __future__ import annotations

import asyncio
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from consumer.chunk import Limits
from consumer.claims import Committed, decode
from consumer.dispatcher import Dispatcher
from consumer.encode import open_format
from consumer.lane import Lane
from consumer.layout import Layout
from consumer.offsets import GroupUnavailable, Membership, PartitionsRefused, Unanswered
from consumer.packer import Packer
from consumer.session import Outcome, Session
from consumer.source import Assignment, Fetched
from consumer.takeover import Takeover
from consumer.uploader import AssignmentStale, Uploader
from headrace.errors import HaltError, HeadraceError
from headrace.kafka import KafkaUnavailable, Topic, TopicMissing
from headrace.management import Health
from headrace.record import StoredRecord
from tests.fakes import Fault, MemoryStore, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

P = TopicPartition("t", 0)
LAYOUT = Layout("p", "hour=%H", "jsonl")
US = Membership(3, "me")


class Source:
    """Seven records of one partition, then silence; and the group's commits, answered as the test says."""

    def __init__(self) -> None:
        self.offsets = SimpleNamespace(commit=self.commit, fetch=self.group_commits)
        self.others: dict[TopicPartition, tuple[int, str]] = {}
        """What other members have committed."""
        self.last_heartbeat = float("-inf")
        self.commits: list[dict[TopicPartition, tuple[int, str]]] = []
        self.code = 0
        self.unavailable: list[Exception] = []
        self.error: Exception | None = None
        self.records = 7
        self.at = 0

    async def group_commits(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        await asyncio.sleep(0.001)
        if self.unavailable:
            raise self.unavailable.pop()
        return {tp: (self.others | self.commits[-1])[tp] for tp in partitions}

    async def beat(self) -> bool:
        await asyncio.sleep(0.001)
        return True

    async def commit(
        self, membership: Membership, part: dict[TopicPartition, tuple[int, str]]
    ) -> dict[TopicPartition, int]:
        assert membership is US
        await asyncio.sleep(0.001)
        if self.error is not None:
            raise self.error
        if self.code == 0:
            self.commits.append(part)
        return dict.fromkeys(part, self.code)

    async def fetch(self, timeout: float, only: TopicPartition | None = None) -> list[Fetched]:
        await asyncio.sleep(timeout)
        records = [StoredRecord(offset, 1_795_219_200_000, None, b"x") for offset in range(self.at, self.records)]
        self.at = max(self.at, self.records)
        return [Fetched(P, records, self.at)] if records else []

    def position(self, partition: TopicPartition) -> int:
        return self.at

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at = offset

    def pause(self, partitions: Collection[TopicPartition]) -> None: ...

    def resume(self, partitions: Collection[TopicPartition]) -> None: ...

    @property
    def committed(self) -> Committed | None:
        return decode(*self.commits[-1][P]) if self.commits else None


class Rig:
    def __init__(
        self,
        *,
        halt: str = "",
        stop_at: int | None = None,
        others: Mapping[TopicPartition, tuple[int, int]] = MappingProxyType({}),
    ) -> None:
        """`others`: ranges of a replay that other members have."""
        self.source = Source()
        self.store = MemoryStore()
        self.health = Health()
        self.rounds = 0
        self.stop = asyncio.Event()
        self.assignment = Assignment(US, frozenset([P]), asyncio.Event(), asyncio.Event())
        form = open_format("jsonl", "none")
        clock = asyncio.get_running_loop().time
        uploader = Uploader(store=self.store, timeout_seconds=60, alive_for=lambda: 0, health=self.health)
        self.dispatcher = Dispatcher(
            packer=Packer(layout=LAYOUT, form=form),
            uploader=uploader,
            health=self.health,
            memory_budget_bytes=10_000,
            max_queue=9,
            clock=clock,
        )
        plans = self.dispatcher.plans

        def counted() -> Any:
            self.rounds += 1
            assert self.rounds < 5000, "it spins"
            return plans()

        self.dispatcher.plans = counted  # type: ignore[method-assign]

        async def take(partitions: Any, membership: Any) -> AsyncIterator[Any]:
            committed = Committed(0, 0, (), 0, LAYOUT.fingerprint, "id")
            yield P, HaltError(halt) if halt else Takeover(committed, True, (), 0)

        def new_lane(partition: TopicPartition, takeover: Takeover) -> Lane:
            return Lane(
                partition,
                takeover,
                layout=LAYOUT,
                encode=form.encode,
                limits=Limits(5, 10_000, 3600),
                most_claims=8,
                stop=stop_at,
            )

        async def topic(name: str) -> Topic:
            await asyncio.sleep(0.001)
            if isinstance(self.topic_id, Exception):
                raise self.topic_id
            return Topic(name, self.topic_id, "cluster", (0,))

        async def topic_id(name: str) -> str:
            return (await topic(name)).id

        self.topic_id: str | Exception = "id"
        bounds = {} if stop_at is None else {P: (0, stop_at), **others}
        parts: dict[str, Any] = {
            "source": self.source,
            "cluster": SimpleNamespace(topic=topic, topic_id=topic_id),
            "taking": SimpleNamespace(take=take, bounds=bounds),
        }
        self.session = Session(
            assignment=self.assignment,
            dispatcher=self.dispatcher,
            new_lane=new_lane,
            health=self.health,
            workers=2,
            drain_seconds=20,
            give_back_seconds=5,
            clock=clock,
            replay=stop_at is not None,
            **parts,
        )

    async def run(self) -> Outcome:
        return await self.session.run(self.stop)


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_the_process_ends_what_is_held_is_stored() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(10)
    assert rig.source.committed == Committed(5, 5, (), 0, LAYOUT.fingerprint, "id")
    rig.stop.set()
    assert await running is Outcome.STOPPED
    assert rig.source.committed == Committed(7, 7, (), 0, LAYOUT.fingerprint, "id")
    assert rig.dispatcher.budget.held == 0
    assert rig.assignment.ended.is_set()


@in_virtual_time
@pytest.mark.parametrize(("outcome", "seconds"), [(Outcome.STOPPED, 20), (Outcome.REVOKED, 5)])
async def test_waiting_for_an_upload_ends_by_the_deadline_and_does_not_spin(outcome: Outcome, seconds: float) -> None:
    rig = Rig()
    gate = Fault("put", gate=asyncio.Event())
    rig.store.faults.append(gate)
    running = asyncio.create_task(rig.run())
    await gate.asked.wait()
    await asyncio.sleep(1)
    began, rounds = now(), rig.rounds
    (rig.stop if outcome is Outcome.STOPPED else rig.assignment.revoked).set()
    assert await running is outcome
    assert now() - began == pytest.approx(seconds)
    assert rig.rounds - rounds < 10
    assert rig.source.committed is not None
    assert (rig.source.committed.durable, rig.source.committed.ends[0]) == (0, 5), (
        "it stays claimed, for the next owner"
    )


@in_virtual_time
async def test_a_rebalance_does_not_wait_for_the_whole_drain() -> None:
    """A member that leaves while another joins: from then on it has the time that a rebalance waits, and no more."""
    rig = Rig()
    gate = Fault("put", gate=asyncio.Event())
    rig.store.faults.append(gate)
    running = asyncio.create_task(rig.run())
    await gate.asked.wait()
    rig.stop.set()
    await asyncio.sleep(3)
    began = now()
    rig.assignment.revoked.set()
    assert await running is Outcome.STOPPED
    assert now() - began == pytest.approx(5)


@in_virtual_time
async def test_a_revoked_assignment_stores_only_what_is_claimed() -> None:
    rig = Rig()
    gate = Fault("put", gate=asyncio.Event())
    rig.store.faults.append(gate)
    running = asyncio.create_task(rig.run())
    await gate.asked.wait()
    rig.assignment.revoked.set()
    await asyncio.sleep(1)
    assert gate.gate is not None
    gate.gate.set()
    assert await running is Outcome.REVOKED
    assert rig.source.committed == Committed(5, 5, (), 0, LAYOUT.fingerprint, "id")
    assert len(rig.store.objects) == 1


@in_virtual_time
@pytest.mark.parametrize("outcome", [Outcome.STOPPED, Outcome.REVOKED])
async def test_a_failure_during_the_last_steps_is_no_cancellation(outcome: Outcome) -> None:
    """It would end the process as if somebody had asked for that."""
    rig = Rig()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise AssignmentStale("no heartbeat")

    rig.dispatcher.work = work  # type: ignore[method-assign]
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(1)
    (rig.stop if outcome is Outcome.STOPPED else rig.assignment.revoked).set()
    assert await running is Outcome.LEAVE
    assert running.cancelling() == 0


@in_virtual_time
async def test_partitions_that_the_group_may_not_see_halt_and_the_others_go_on() -> None:
    rig, other, asked = Rig(), TopicPartition("secret", 0), []
    rig.assignment.partitions = frozenset([P, other])
    take = rig.session._taking.take

    async def refuse(partitions: Any, membership: Any) -> AsyncIterator[Any]:
        asked.append(set(partitions))
        if other in partitions:
            raise PartitionsRefused({other: "may not be seen"})
        async for taken in take(partitions, membership):
            yield taken

    rig.session._taking.take = refuse  # type: ignore[method-assign]
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(10)
    assert asked == [{P, other}, {P}]
    assert rig.health.problems == {"secret/0": "may not be seen"}
    assert rig.source.committed == Committed(5, 5, (), 0, LAYOUT.fingerprint, "id")
    rig.stop.set()
    assert await running is Outcome.STOPPED


@in_virtual_time
async def test_a_commit_without_an_answer_ends_the_membership() -> None:
    rig = Rig()
    rig.source.error = Unanswered("lost")
    assert await rig.run() is Outcome.LEAVE
    assert not rig.store.calls


@in_virtual_time
@pytest.mark.parametrize("code", [22, 25, 27])
async def test_a_fenced_commit_ends_the_membership(code: int) -> None:
    rig = Rig()
    rig.source.code = code
    assert await rig.run() is Outcome.LEAVE
    assert not rig.store.calls


@in_virtual_time
async def test_a_refused_commit_is_asked_again_in_peace() -> None:
    rig = Rig()
    rig.source.code = 14
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(60)
    assert rig.rounds < 60 / 0.1
    assert not rig.store.calls
    rig.source.code = 0
    rig.stop.set()
    assert await running is Outcome.STOPPED
    assert rig.source.committed is not None
    assert rig.source.committed.durable == 7


@in_virtual_time
async def test_nothing_of_a_topic_made_anew_is_claimed() -> None:
    """Its records may have come under the old name, after the takeover had looked."""
    rig = Rig()
    rig.topic_id = "other"
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(60)
    assert (rig.source.commits, rig.store.calls) == ([], [])
    assert rig.health.problems["t/0"].startswith("Topic t was deleted and made anew (its id was id, now other)")
    assert rig.dispatcher.budget.held == 0
    rig.stop.set()
    assert await running is Outcome.STOPPED


@in_virtual_time
async def test_claims_wait_until_kafka_tells_whether_it_is_the_same_topic() -> None:
    rig = Rig()
    rig.topic_id = KafkaUnavailable("not now")
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(60)
    assert rig.rounds < 60 / 0.1
    assert not rig.source.commits
    rig.topic_id = "id"
    await asyncio.sleep(1)
    assert rig.source.committed == Committed(5, 5, (), 0, LAYOUT.fingerprint, "id")
    rig.stop.set()
    assert await running is Outcome.STOPPED


@in_virtual_time
async def test_a_topic_that_is_gone_stops_its_partitions() -> None:
    rig = Rig()
    rig.topic_id = TopicMissing("gone")
    rig.source.code = 3
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(60)
    assert "Does the topic still exist" in rig.health.problems["t/0"]
    assert not rig.store.calls
    rig.stop.set()
    assert await running is Outcome.STOPPED


@in_virtual_time
async def test_a_replay_ends_by_itself_or_says_why_not() -> None:
    rig = Rig(stop_at=7)
    assert await rig.run() is Outcome.FINISHED
    assert len(rig.store.objects) == 2
    with pytest.raises(HeadraceError, match=r"can't be made whole\. because"):
        await Rig(stop_at=7, halt="because").run()


@in_virtual_time
async def test_a_replay_that_others_have_a_part_of_is_whole_when_theirs_is() -> None:
    """Also that of a member which was given no partition at all."""
    other = TopicPartition("t", 1)
    rig = Rig(stop_at=7, others={other: (0, 9)})
    rig.source.others = {other: (8, "")}
    rig.source.unavailable = [GroupUnavailable("loading")]
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(60)
    assert len(rig.store.objects) == 2
    assert not running.done()
    rig.source.others = {other: (9, "")}
    assert await running is Outcome.FINISHED


@in_virtual_time
async def test_a_partition_that_is_out_of_range_twice_is_taken_over_again_once() -> None:
    """The second fetch meets the same while the first takeover still waits for a commit."""
    rig = Rig()
    running = asyncio.create_task(rig.run())
    await asyncio.sleep(1)
    first = rig.dispatcher.lanes[P]
    async with rig.session._committer.lock:
        again = [asyncio.create_task(rig.session._retake(P)) for _ in range(2)]
        await asyncio.sleep(0.1)
    await asyncio.gather(*again)
    assert rig.dispatcher.lanes[P] is not first
    rig.stop.set()
    assert await running is Outcome.STOPPED
