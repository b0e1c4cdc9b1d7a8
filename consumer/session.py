"""One assignment, from its first await to its last: take over, fetch, dispatch, commit, and give back.

A new assignment is a new session with new lanes. It ends by revocation, by SIGTERM, by a replay's end, or because its
membership can't be trusted any more; `Outcome` tells the runner what to do next.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Final

from consumer.committer import Committer, Fenced
from consumer.dispatcher import Dispatcher, clear_halts, report_halt
from consumer.lane import Lane, LaneState
from consumer.offsets import GroupUnavailable, PartitionsRefused, Unanswered
from consumer.reader import Reader
from consumer.uploader import AssignmentStale
from headrace.errors import HaltError, HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aiokafka import TopicPartition

    from consumer.source import Assignment, Source
    from consumer.takeover import Takeover
    from consumer.taking import Taking
    from headrace.kafka import KafkaCluster
    from headrace.management import Health

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 1.0


class Outcome(enum.Enum):
    """REVOKED: wait for the next assignment. LEAVE: give the membership up, join anew. STOPPED, FINISHED: done."""

    REVOKED = "revoked"
    LEAVE = "leave"
    STOPPED = "stopped"
    FINISHED = "finished"


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
        self._taking = taking
        self._dispatcher = dispatcher
        self._new_lane = new_lane
        self._health = health
        self._workers = workers
        self._drain_seconds = drain_seconds
        self._give_back_seconds = give_back_seconds
        self._replay = replay
        self._finished = asyncio.Event()
        self._own_part_whole = asyncio.Event()
        self._reader = Reader(source=source, cluster=cluster, dispatcher=dispatcher, clock=clock)
        self._committer = Committer(
            membership=assignment.membership,
            source=source,
            dispatcher=dispatcher,
            clock=clock,
            settled=self._finish_replay,
            cluster=cluster,
        )
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
                workers.append(tasks.create_task(self._dispatcher.press.run()))
                committer = tasks.create_task(self._committer.run())
                front = [
                    tasks.create_task(self._take_over(assignment.partitions)),
                    tasks.create_task(self._reader.run(self._retake, self._finish_replay)),
                ]
                if self._replay:
                    front.append(tasks.create_task(self._finish_shared_replay()))
                outcome = await self._until_end(stop)
                for task in front:
                    task.cancel()
                await self._drain(outcome)
                for task in (*workers, committer):
                    task.cancel()
                # Waited for in here: were one to fail while the group already leaves, Python 3.11 would leave its
                # cancellation of us behind, and the check below would take it for one from outside.
                await asyncio.wait((*front, *workers, committer))
        except* (AssignmentStale, Fenced, Unanswered) as gone:
            log.warning("giving the membership up: %s", _first(gone))
            outcome = Outcome.LEAVE
        except* HeadraceError as failed:
            error = _first(failed)
        finally:
            clear_halts(self._health, assignment.partitions)
            assignment.ended.set()
        if (running := asyncio.current_task()) is not None and running.cancelling():
            raise asyncio.CancelledError  # a TaskGroup forgets it where an error came at the same time
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
        """Within one deadline, store and commit what is held (STOPPED) or what is claimed (REVOKED).

        A rebalance that comes meanwhile waits for us: from then on, the time to give partitions back holds.
        """
        if outcome is Outcome.STOPPED:
            self._dispatcher.cut_all()
            seconds = self._drain_seconds
        else:
            self._dispatcher.withhold_claims()
            seconds = self._give_back_seconds
        self._dispatcher.news.set()
        try:
            async with asyncio.timeout(seconds) as deadline, asyncio.TaskGroup() as tasks:
                hastening = tasks.create_task(self._hasten(deadline))
                await self._committer.idle()
                hastening.cancel()
        except TimeoutError:
            log.warning("not all uploads have ended in time; the next owner of the partitions completes them")

    async def _hasten(self, deadline: asyncio.Timeout) -> None:
        await self._assignment.revoked.wait()
        if not deadline.expired():
            until = asyncio.get_running_loop().time() + self._give_back_seconds
            deadline.reschedule(min(until, deadline.when() or until))

    # Taking over

    async def _take_over(self, partitions: Collection[TopicPartition]) -> None:
        await self._source.beat()
        left = set(partitions)
        while left:
            try:
                async for partition, takeover in self._taking.take(frozenset(left), self._assignment.membership):
                    self._took(partition, takeover)
                    left.discard(partition)
            except PartitionsRefused as refused:
                for partition, reason in refused.reasons.items():
                    self._took(partition, HaltError(reason))
                left -= refused.reasons.keys()
            else:
                return

    def _took(self, partition: TopicPartition, takeover: Takeover | HaltError) -> None:
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
        self._reader.begin(lane)

    async def _retake(self, partition: TopicPartition) -> None:
        """The lane does not fit the log any more: begin it anew from what is committed."""
        self._reader.cease(partition)
        async with self._committer.lock:
            if partition not in self._dispatcher.lanes:
                return  # a second fetch met the same while a commit was under way
            self._dispatcher.remove(partition)
        await self._take_over([partition])

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
        self._own_part_whole.set()
        if self._assignment.partitions >= self._taking.bounds.keys():
            self._finished.set()

    async def _finish_shared_replay(self) -> None:
        """Where other members have a part of the range, only the group's commits tell when theirs is whole, too."""
        await self._own_part_whole.wait()
        while not self._finished.is_set():
            bounds = self._taking.bounds
            try:
                commits = await self._source.offsets.fetch(bounds)
            except GroupUnavailable as error:
                log.warning("%s", error)
            else:
                if all(commits[tp][0] >= stop for tp, (_, stop) in bounds.items()):
                    self._finished.set()
            await asyncio.sleep(ASK_SECONDS)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
