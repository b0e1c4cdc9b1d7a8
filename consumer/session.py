"""One assignment, from its first await to its last: take over, fetch, dispatch, commit, and give back.

A new assignment is a new session with new lanes. It ends by revocation, by SIGTERM, by a replay's end, or because its
membership can't be trusted any more; `Outcome` tells the runner what to do next.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Final

from consumer import metrics
from consumer.dispatcher import Dispatcher, clear_halts, report_halt
from consumer.lane import Lane, LaneState
from consumer.offsets import FENCED, GroupUnavailable, Unanswered, split
from consumer.source import FetchFailed, OutOfRange
from consumer.uploader import AssignmentStale
from headrace.errors import HaltError, HeadraceError
from headrace.kafka import EARLIEST, KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aiokafka import TopicPartition

    from consumer.claims import Plan
    from consumer.source import Assignment, Source
    from consumer.takeover import Takeover
    from consumer.taking import Taking
    from headrace.kafka import KafkaCluster
    from headrace.management import Health

log = logging.getLogger(__name__)

LONGEST_FETCH_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 0.2
PAUSE_SECONDS: Final = 0.2


class Outcome(enum.Enum):
    """REVOKED: wait for the next assignment. LEAVE: give the membership up, join anew. STOPPED, FINISHED: done."""

    REVOKED = "revoked"
    LEAVE = "leave"
    STOPPED = "stopped"
    FINISHED = "finished"


class Fenced(HeadraceError):
    """Kafka says that this membership is over."""


class Session:
    """The life of one assignment. `run` is called once."""

    def __init__(
        self,
        *,
        assignment: Assignment,
        source: Source,
        cluster: KafkaCluster,
        taking: Taking,
        dispatcher: Dispatcher,
        new_lane: Callable[[TopicPartition, Takeover], Lane],
        health: Health,
        workers: int,
        drain_seconds: float,
        give_back_seconds: float,
        clock: Callable[[], float],
        replay: bool = False,
    ) -> None:
        self._assignment = assignment
        self._source = source
        self._cluster = cluster
        self._taking = taking
        self._dispatcher = dispatcher
        self._new_lane = new_lane
        self._health = health
        self._workers = workers
        self._drain_seconds = drain_seconds
        self._give_back_seconds = give_back_seconds
        self._clock = clock
        self._replay = replay
        self._calm = asyncio.Event()
        self._finished = asyncio.Event()
        self._commit_lock = asyncio.Lock()
        self._taken: set[TopicPartition] = set()
        self._halted: dict[TopicPartition, str] = {}

    async def run(self, stop: asyncio.Event) -> Outcome:
        """Until the assignment ends. Raises HeadraceError for what no new membership would mend."""
        assignment = self._assignment
        clear_halts(self._health, assignment.partitions)
        error: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(self._dispatcher.work()) for _ in range(self._workers)]
                committer = tasks.create_task(self._commit())
                front = [
                    tasks.create_task(self._take_over(assignment.partitions)),
                    tasks.create_task(self._poll()),
                ]
                outcome = await self._until_end(stop)
                for task in front:
                    task.cancel()
                await self._drain(outcome)
                for task in (*workers, committer):
                    task.cancel()
        except* (AssignmentStale, Fenced, Unanswered) as gone:
            log.warning("giving the membership up: %s", _first(gone))
            outcome = Outcome.LEAVE
        except* HeadraceError as failed:
            error = _first(failed)
        finally:
            assignment.ended.set()
        if error is not None:
            raise error
        return outcome

    async def _until_end(self, stop: asyncio.Event) -> Outcome:
        ends = {stop: Outcome.STOPPED, self._finished: Outcome.FINISHED, self._assignment.revoked: Outcome.REVOKED}
        waits = {asyncio.create_task(event.wait()): outcome for event, outcome in ends.items()}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return next(outcome for event, outcome in ends.items() if event.is_set())

    async def _drain(self, outcome: Outcome) -> None:
        """Within one deadline, store and commit what is held (STOPPED) or what is claimed (REVOKED)."""
        if outcome is Outcome.STOPPED:
            self._dispatcher.cut_all()
            seconds = self._drain_seconds
        else:
            self._dispatcher.withhold_claims()
            seconds = self._give_back_seconds
        self._dispatcher.news.set()
        try:
            async with asyncio.timeout(seconds):
                while not self._dispatcher.idle or self._commit_lock.locked():
                    self._calm.clear()
                    await self._calm.wait()
        except TimeoutError:
            log.warning("not all uploads ended within %g s; the next owner of the partitions completes them", seconds)

    # Taking over

    async def _take_over(self, partitions: Collection[TopicPartition]) -> None:
        await self._source.beat()
        async for partition, takeover in self._taking.take(partitions, self._assignment.membership):
            if isinstance(takeover, HaltError):
                self._halted[partition] = str(takeover)
                report_halt(self._health, partition, str(takeover))
            else:
                self._begin(partition, takeover)
            self._taken.add(partition)
            self._finish_replay()

    def _begin(self, partition: TopicPartition, takeover: Takeover) -> None:
        if takeover.remark:
            log.warning("%s/%d: %s", partition.topic, partition.partition, takeover.remark)
        lane = self._new_lane(partition, takeover)
        self._dispatcher.add(lane)
        self._dispatcher.news.set()
        if lane.live:
            self._seek(lane)
            self._source.resume([partition])

    async def _retake(self, partition: TopicPartition) -> None:
        """The lane does not fit the log any more: begin it anew from what is committed."""
        self._source.pause([partition])
        async with self._commit_lock:
            if partition not in self._dispatcher.lanes:
                return  # a second fetch met the same while a commit was under way
            self._dispatcher.remove(partition)
        await self._take_over([partition])

    # Records in

    async def _poll(self) -> None:
        swept = self._clock()
        async with asyncio.TaskGroup() as retakes:
            while True:
                for partition in await self._fetch():
                    retakes.create_task(self._retake(partition))
                if self._clock() - swept >= SWEEP_SECONDS:
                    swept = self._clock()
                    self._sweep()
                self._apply_pressure()
                self._finish_replay()

    async def _fetch(self) -> Collection[TopicPartition]:
        """One fetch into the lanes. Returns partitions whose takeover must be made again."""
        due = self._dispatcher.next_due()
        timeout = LONGEST_FETCH_SECONDS if due is None else min(LONGEST_FETCH_SECONDS, max(0.0, due - self._clock()))
        try:
            for partition, records, position in await self._source.fetch(max(timeout, 0.01)):
                self._dispatcher.take(partition, records, position)
                lane = self._dispatcher.lanes.get(partition)
                if lane is not None:
                    self._seek(lane)
        except OutOfRange as error:
            self._seek_all()
            return await self._out_of_range(sorted(error.partitions))
        except FetchFailed as error:
            log.warning("%s", error)
            self._seek_all()
            await self._isolate()
        return ()

    def _seek(self, lane: Lane) -> None:
        """Fetch on from where the lane stands, if it has jumped."""
        if lane.seek_to is not None:
            self._source.seek(lane.partition, lane.seek_to)
            lane.seek_to = None

    def _seek_all(self) -> None:
        """After a failed fetch positions may have moved without their records reaching anybody."""
        for lane in self._dispatcher.lanes.values():
            if lane.live:
                lane.seek_to = None
                self._source.seek(lane.partition, lane.position)

    async def _isolate(self) -> None:
        """Fetch partition by partition: one that can't be read must not hold up the others, it halts."""
        for lane in list(self._dispatcher.lanes.values()):
            if lane.state is not LaneState.FETCHING:
                continue
            failures = 0
            while failures < 3:
                try:
                    for partition, records, position in await self._source.fetch(0.05, only=lane.partition):
                        self._dispatcher.take(partition, records, position)
                        self._seek(lane)
                    break
                except OutOfRange:
                    break  # the next fetch of all meets it again
                except FetchFailed as error:
                    failures += 1
                    self._source.seek(lane.partition, lane.position)
                    if failures == 3:
                        self._dispatcher.halt(lane, f"it can't be read at offset {lane.position}: {error}")
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _out_of_range(self, partitions: Collection[TopicPartition]) -> Collection[TopicPartition]:
        """Kafka no longer has what comes next: a gap, told loudly; or another log, which the takeover finds out."""
        again = []
        try:
            starts = await self._cluster.log_offsets(partitions, EARLIEST)
        except KafkaUnavailable as error:
            log.warning("%s", error)
            await asyncio.sleep(PAUSE_SECONDS)
            return ()
        for partition in partitions:
            lane = self._dispatcher.lanes.get(partition)
            if lane is None or not lane.live:
                continue
            if not self._dispatcher.log_starts_at(lane, starts[partition]):
                again.append(partition)
            self._seek(lane)
        return again

    def _sweep(self) -> None:
        """Positions that moved without a record (transaction markers, compaction), and chunks whose age is up."""
        for partition, lane in self._dispatcher.lanes.items():
            if lane.state is LaneState.FETCHING:
                position = self._source.position(partition)
                if position is not None and position > lane.position:
                    self._dispatcher.take(partition, (), position)
        self._dispatcher.tick()
        for lane in self._dispatcher.lanes.values():
            self._seek(lane)

    def _apply_pressure(self) -> None:
        pause, resume = self._dispatcher.pressure()
        if pause:
            self._source.pause(pause)
        if resume:
            for partition in resume:
                self._source.seek(partition, self._dispatcher.lanes[partition].position)
            self._source.resume(resume)

    def _finish_replay(self) -> None:
        """A replay ends when its range is whole. Raises HeadraceError when a partition that halted prevents that."""
        if not self._replay or not self._taken >= self._assignment.partitions:
            return
        if not self._dispatcher.ended:
            return
        lanes = self._dispatcher.lanes.items()
        halted = self._halted | {tp: lane.problem for tp, lane in lanes if lane.state is LaneState.FAILED}
        if halted:
            raise HeadraceError("The replay can't be made whole. " + " ".join(halted.values()))
        self._finished.set()

    # Commits

    async def _commit(self) -> None:
        """One commit in flight, for all lanes together. Raises Fenced or Unanswered."""
        news = self._dispatcher.news
        while True:
            await news.wait()
            news.clear()
            async with self._commit_lock:
                again = await self._commit_once()
            if again:
                await asyncio.sleep(PAUSE_SECONDS)
                news.set()
            elif self._dispatcher.idle:
                self._finish_replay()
            self._calm.set()

    async def _commit_once(self) -> bool:
        """Commit all plans. True when something is to be asked again."""
        plans = {lane.partition: (lane, plan) for lane, plan in self._dispatcher.plans()}
        again = False
        entries = {tp: _entry(plan) for tp, (_, plan) in plans.items()}
        for part in split(entries):
            sent = self._clock()
            try:
                codes = await self._source.offsets.commit(self._assignment.membership, part)
            except GroupUnavailable as error:
                log.warning("%s", error)
                codes = dict.fromkeys(part, 7)
            fenced = [code for code in codes.values() if code in FENCED]
            if fenced:
                metrics.COMMITS.labels("fenced").inc()
                raise Fenced(f"Kafka answered a commit with error {fenced[0]}: the group has rebalanced")
            for tp, code in codes.items():
                lane, plan = plans[tp]
                again |= self._dispatcher.answered(lane, plan, code)
                metrics.COMMITS.labels("stored" if code == 0 else "refused").inc()
            if all(code == 0 for code in codes.values()):
                self._source.last_heartbeat = max(self._source.last_heartbeat, sent)
        return again


def _entry(plan: Plan) -> tuple[int, str]:
    return plan.committed.durable, plan.committed.encode()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
