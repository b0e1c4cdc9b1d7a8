"""The group's commits, one in flight a consumer: what the lanes have claimed and stored, told to Kafka."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from consumer import metrics
from consumer.claims import ChunkState
from consumer.offsets import FENCED, GroupUnavailable, split
from consumer.takeover import made_anew
from headrace.errors import HeadraceError
from headrace.kafka import KafkaUnavailable, TopicMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

    from consumer.claims import Plan
    from consumer.dispatcher import Dispatcher
    from consumer.lane import Lane
    from consumer.offsets import Membership
    from consumer.source import Source
    from headrace.kafka import KafkaCluster

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.2


class Fenced(HeadraceError):
    """Kafka says that this membership is over."""


class Committer:
    """Commits for all lanes of one assignment together, whenever the dispatcher has news. `run` is called once."""

    def __init__(
        self,
        *,
        membership: Membership,
        source: Source,
        cluster: KafkaCluster,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        settled: Callable[[], None],
    ) -> None:
        """`settled` is called when Kafka knows all there is to know."""
        self._membership = membership
        self._source = source
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._clock = clock
        self._settled = settled
        self._calm = asyncio.Event()
        self.lock = asyncio.Lock()
        """Held while a commit is under way: no lane may go meanwhile."""

    async def run(self) -> None:
        """Until cancelled. Raises Fenced or Unanswered."""
        news = self._dispatcher.news
        while True:
            await news.wait()
            news.clear()
            async with self.lock:
                again = await self._commit()
            if again:
                await asyncio.sleep(PAUSE_SECONDS)
                news.set()
            elif self._dispatcher.idle:
                self._settled()
            self._calm.set()

    async def idle(self) -> None:
        """Wait until all that is closed is stored and committed."""
        while not self._dispatcher.idle or self.lock.locked():
            self._calm.clear()
            await self._calm.wait()

    async def _commit(self) -> bool:
        """Commit all plans. True when something is to be asked again."""
        plans = {lane.partition: (lane, plan) for lane, plan in self._dispatcher.plans()}
        again = False
        for topic in sorted({tp.topic for tp, (_, plan) in plans.items() if _claims_anew(plan)}):
            mine = {tp: it for tp, it in plans.items() if tp.topic == topic}
            codes = await self._check_topic(topic, mine)
            for tp, code in codes.items():
                again |= self._dispatcher.answered(*plans.pop(tp), code)
        entries = {tp: _entry(plan) for tp, (_, plan) in plans.items()}
        for part in split(entries):
            sent = self._clock()
            try:
                codes = await self._source.offsets.commit(self._membership, part)
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

    async def _check_topic(
        self, topic: str, plans: dict[TopicPartition, tuple[Lane, Plan]]
    ) -> dict[TopicPartition, int]:
        """What lanes hold is of the topic that they took over if it is still there after the last fetch.

        Fetches and commits go by a topic's name alone: they would not notice one that was made anew meanwhile.
        Returns what Kafka would have to answer for those whose plans must not be committed now.
        """
        try:
            now = await self._cluster.topic_id(topic)
        except KafkaUnavailable as error:
            log.warning("%s", error)
            return dict.fromkeys(plans, 7)
        except TopicMissing:
            return {}  # the commit's answer says so
        others = {tp: it for tp, it in plans.items() if it[0].claims.topic_id != now}
        for lane, _ in others.values():
            self._dispatcher.halt(lane, str(made_anew(topic, was=lane.claims.topic_id, now=now)))
        return dict.fromkeys(others, 7)


def _claims_anew(plan: Plan) -> bool:
    return any(chunk.state is ChunkState.CLOSED for chunk in plan.chunks)


def _entry(plan: Plan) -> tuple[int, str]:
    return plan.committed.durable, plan.committed.encode()
