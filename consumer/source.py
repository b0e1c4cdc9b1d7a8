"""Records in: the one place that holds an aiokafka consumer, its group membership and its inner parts.

Inner parts used (tests/unit/test_aiokafka_parts.py fails when a new version moves them): the coordinator's generation,
member id and heartbeat, the fetch position of a partition, the client, and what the fetcher asks for next.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from consumer.batches import BatchConsumer, break_cycle
from consumer.offsets import GroupOffsets, Membership, Unanswered
from headrace.errors import HeadraceError
from headrace.kafka import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from headrace.record import Record

log = logging.getLogger(__name__)

FETCH_MAX_BYTES: Final = 2 * 1024 * 1024
"""Of all brokers together. A fetch is copied five times on its way to records: buffers of this size are had again from
the heap, where larger ones are made of fresh pages each time, and cost more than the rest of reading."""
PARTITION_MAX_BYTES: Final = 1024 * 1024
MOST_PREFETCHED: Final = 4  # partitions whose records wait to be taken, when the next fetch may be sent
MAX_RECORDS: Final = 4_000  # taken at once: few enough to stay in the processor's cache from decoding to their lines


class OutOfRange(HeadraceError):
    """Kafka no longer has, or never had, the offset that a partition stands at."""

    def __init__(self, partitions: Collection[TopicPartition]) -> None:
        super().__init__(f"offset out of range: {sorted(partitions)}")
        self.partitions = frozenset(partitions)


class FetchFailed(HeadraceError):
    """A fetch failed after positions may have moved: seek all partitions to where their lanes stand."""


class Fetched(NamedTuple):
    """Records of one partition, in order. No further record lies below `position`."""

    partition: TopicPartition
    records: Sequence[Record]
    position: int


@dataclass(eq=False)
class Assignment:
    """Partitions of one generation. `revoked` is set when they are to be given back; `ended` when they have been."""

    membership: Membership
    partitions: frozenset[TopicPartition]
    revoked: asyncio.Event
    ended: asyncio.Event


class _Listener(ConsumerRebalanceListener):
    """aiokafka swallows what a listener raises, so nothing here may fail: it only notes and hands over."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._source.assigned(frozenset(assigned))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        del revoked  # every rebalance revokes all
        await self._source.give_back()


def bound_prefetching(fetcher: Any, brokers: Callable[[], int]) -> None:
    """Keep a fetcher of aiokafka's from asking for more while it holds much that nobody has taken yet.

    By itself it asks a broker again 0.1 s after the last answer, whatever is still there of that. With many partitions
    on a busy machine that would be MiB after MiB. Several brokers share what one fetch may bring.
    """
    fetcher._prefetch_backoff = 0.0
    actions = fetcher._get_actions_per_node

    def bounded(assignment: Any) -> Any:
        fetcher._fetch_max_bytes = max(PARTITION_MAX_BYTES, FETCH_MAX_BYTES // max(1, brokers()))
        for result in fetcher._records.values():
            break_cycle(result)  # many are dropped before anybody takes them: by a pause, a seek
        fetches, *rest = actions(assignment)
        return ([] if len(fetcher._records) > MOST_PREFETCHED else fetches, *rest)

    fetcher._get_actions_per_node = bounded


class _Consumer(BatchConsumer):
    async def start(self) -> None:
        await super().start()
        bound_prefetching(self._fetcher, lambda: len(self._client.cluster.brokers()))


def new_consumer(**options: Any) -> Any:
    """The real client; the simulation has another."""
    return _Consumer(**options)


class Source:
    """One membership of the group: from joining to leaving. A new membership is a new Source.

    Raises KafkaUnavailable when Kafka can't be reached at start; `close` leaves the group.
    """

    def __init__(
        self,
        *,
        options: dict[str, Any],
        group: str,
        topics: Collection[str],
        isolation_level: str,
        session_timeout_seconds: float,
        give_back_seconds: float,
        clock: Callable[[], float],
        new_consumer: Callable[..., Any],
    ) -> None:
        """`give_back_seconds`: how long a rebalance may wait for the session that holds the partitions."""
        self._group = group
        self._topics = sorted(topics)
        self._session_timeout = session_timeout_seconds
        self._give_back_seconds = give_back_seconds
        self._clock = clock
        self._assignments: asyncio.Queue[Assignment | Unanswered] = asyncio.Queue()
        self._current: Assignment | None = None
        self.last_heartbeat = float("-inf")
        """When the last request was sent to which the coordinator answered that we are a member; by the clock given."""
        self._consumer = new_consumer(
            **options,
            client_id="headrace-consumer",
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation_level,
            session_timeout_ms=int(session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(min(1.0, session_timeout_seconds / 4) * 1000),
            rebalance_timeout_ms=int((give_back_seconds + session_timeout_seconds) * 1000),
            max_poll_interval_ms=600_000,
            fetch_max_bytes=FETCH_MAX_BYTES,
            max_partition_fetch_bytes=PARTITION_MAX_BYTES,
            metadata_max_age_ms=int(session_timeout_seconds * 3 * 1000),  # until new partitions are noticed
        )

    async def start(self) -> None:
        try:
            await self._consumer.start()
            self._consumer.subscribe(topics=self._topics, listener=_Listener(self))
        except (KafkaError, OSError) as error:
            await self.close()
            raise KafkaUnavailable(f"Kafka does not answer: {error}") from error
        coordinator = self._consumer._coordinator
        heartbeat = coordinator._do_heartbeat

        async def noted_heartbeat() -> bool:
            sent = self._clock()
            good: bool = await heartbeat()
            if good:
                self.last_heartbeat = max(self.last_heartbeat, sent)
            return good

        coordinator._do_heartbeat = noted_heartbeat
        self.offsets = GroupOffsets(self._consumer._client, coordinator, self._group, self._session_timeout)

    async def close(self) -> None:
        """Leave the group and close all connections. Never takes longer than twice the session timeout.

        aiokafka awaits tasks that it has cancelled, and so ends by a CancelledError that nobody asked for: its
        ending runs in a task of its own, and its connections are closed once more.
        """
        for part in (self._consumer.stop, self._consumer._client.close):
            ending = asyncio.create_task(part())
            try:
                await asyncio.wait((ending,), timeout=self._session_timeout)
            finally:
                ending.cancel()
            if not ending.done() or ending.cancelled() or ending.exception() is not None:
                log.warning("group %s: could not leave cleanly; Kafka will notice by itself", self._group)

    # What the listener calls

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        coordinator = self._consumer._coordinator
        try:
            membership = Membership(coordinator.generation, coordinator.member_id)
        except Unanswered as error:
            self._assignments.put_nowait(error)
            return
        for partition in partitions:
            self._consumer.seek(partition, 0)  # a valid position, so that aiokafka does not look for one itself
        if partitions:
            self._consumer.pause(*partitions)
        self._current = Assignment(membership, partitions, asyncio.Event(), asyncio.Event())
        self._assignments.put_nowait(self._current)

    async def give_back(self) -> None:
        assignment, self._current = self._current, None
        if assignment is None:
            return
        assignment.revoked.set()
        try:
            async with asyncio.timeout(self._give_back_seconds):
                await assignment.ended.wait()
        except TimeoutError:
            log.warning("group %s: partitions are revoked before their uploads have ended", self._group)

    # What the runner and the session call

    async def next_assignment(self) -> Assignment:
        """The next generation's partitions. Raises HeadraceError when the group can't be joined."""
        while True:
            try:
                async with asyncio.timeout(1.0):
                    assignment = await self._assignments.get()
            except TimeoutError:
                self._check_coordinator()
                continue
            if isinstance(assignment, Unanswered):
                raise assignment
            if not assignment.revoked.is_set():
                return assignment
            assignment.ended.set()

    def _check_coordinator(self) -> None:
        try:
            self._consumer._coordinator.check_errors()
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as error:
            raise HeadraceError(
                f"Kafka refuses group {self._group} or its topics: {error!r}. Grant it READ on both."
            ) from error
        except KafkaError as error:
            raise Unanswered(f"Group {self._group}: coordination failed ({error!r})") from error

    async def beat(self) -> bool:
        """One heartbeat now, so that `last_heartbeat` is fresh."""
        try:
            good: bool = await self._consumer._coordinator._do_heartbeat()
        except KafkaError as error:
            raise Unanswered(f"Group {self._group}: {error!r}") from error
        return good

    async def fetch(self, timeout_seconds: float, only: TopicPartition | None = None) -> list[Fetched]:
        """What has come in of the partitions that aren't paused, or of one alone. Waits at most `timeout_seconds`.

        Raises OutOfRange; FetchFailed where a partition's records can't be read; Unanswered when the membership is
        of no use any more; or HeadraceError for what will not mend itself.
        """
        asked = () if only is None else (only,)
        try:
            batches = await self._consumer.getmany(
                *asked, timeout_ms=int(timeout_seconds * 1000), max_records=MAX_RECORDS
            )
        except OffsetOutOfRangeError as error:
            raise OutOfRange(error.args[0].keys()) from error
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as error:
            raise HeadraceError(
                f"Kafka refuses group {self._group} or its topics: {error!r}. Grant it READ on both."
            ) from error
        except IllegalStateError:
            return []  # a partition that was given back in this very moment
        except KafkaError as error:
            if isinstance(error, CorruptRecordException | RecordTooLargeError | UnsupportedCodecError):
                raise FetchFailed(f"a fetch failed: {error!r}") from error
            # The coordination or the fetching behind the consumer has ended: there is nothing to be had from it.
            raise Unanswered(f"Group {self._group}: the consumer broke ({error!r})") from error
        except Exception as error:
            # What can't be decoded raises what it likes; a header name that isn't UTF-8 a ValueError, for instance.
            raise FetchFailed(f"a record can't be decoded: {error!r}") from error
        found = []
        for partition, records in batches.items():
            position = self.position(partition)
            if position is not None:
                found.append(Fetched(partition, records, position))
        return found

    def position(self, partition: TopicPartition) -> int | None:
        """The next offset to be fetched; None for a partition that isn't ours any more."""
        subscription = self._consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        state = None if assignment is None else assignment.state_value(partition)
        if state is None or not state.has_valid_position:
            return None
        position: int = state.position
        return position

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if self.position(partition) is not None:
            self._consumer.seek(partition, offset)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch these no more for now; what was prefetched of them is dropped and fetched again later."""
        self._consumer.pause(*[tp for tp in partitions if self.position(tp) is not None])

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._consumer.resume(*[tp for tp in partitions if self.position(tp) is not None])
