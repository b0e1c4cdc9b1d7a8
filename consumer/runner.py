"""The archiver's process: connections, one membership after the other, one session an assignment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from consumer import metrics
from consumer.chunk import Limits
from consumer.dispatcher import Dispatcher
from consumer.encode import open_format
from consumer.lane import Lane
from consumer.offsets import Unanswered
from consumer.packer import Packer
from consumer.session import Outcome, Session
from consumer.source import Source, new_consumer
from consumer.sweep import Sweep
from consumer.taking import Bounds, Taking
from consumer.uploader import Uploader
from headrace.kafka import KafkaCluster, KafkaUnavailable, TopicMissing, open_cluster
from headrace.lifecycle import clock, unless
from headrace.management import Health, serve_management
from headrace.objects import all_folders
from headrace.s3 import ObjectStore, S3Refused, S3Unavailable, Uploads, open_store
from headrace.s3.probe import explain, missing_rights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from aiokafka import TopicPartition

    from consumer.settings import ConsumerSettings
    from consumer.source import Assignment
    from consumer.takeover import Takeover

log = logging.getLogger(__name__)

GIVE_BACK_SECONDS: Final = 5.0
"""How long a rebalance waits for uploads that are under way; what isn't stored by then, the next owner stores."""
PAUSE_SECONDS: Final = 1.0
REJOIN_SECONDS: Final = 0.3
TOPICS_SECONDS: Final = 5.0
"""Between two looks whether all topics are there."""
HEALTH_PART: Final = "group"
S3_PART: Final = "s3 at the start"
PROBE_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Edges:
    """Where the archiver meets the world. The simulation in tests/ puts its own Kafka, S3 and clock here."""

    open_store: Callable[..., contextlib.AbstractAsyncContextManager[ObjectStore]] = open_store
    open_cluster: Callable[..., contextlib.AbstractAsyncContextManager[KafkaCluster]] = open_cluster
    new_consumer: Callable[..., Any] = new_consumer
    clock: Callable[[], float] = clock
    missing_rights: Callable[..., Awaitable[list[str]]] = missing_rights


class Archiver:
    """Archives topics until told to stop; with `bounds`, replays those ranges and ends by itself."""

    def __init__(
        self,
        settings: ConsumerSettings,
        *,
        health: Health | None = None,
        bounds: Bounds | None = None,
        edges: Edges | None = None,
    ) -> None:
        self.health = health or Health()
        self._edges = edges or Edges()
        self._settings = settings
        self._bounds = bounds
        self._form = open_format(
            settings.format,
            settings.compression,
            settings.compression_level,
            settings.parquet_columns,
            settings.parquet_schema_file,
        )
        self._layout = settings.layout()
        self._lanes: Mapping[TopicPartition, Lane] = {}
        self._limits = Limits(
            settings.chunk_max_records,
            settings.chunk_max_bytes,
            settings.chunk_max_seconds,
            settings.chunk_max_buckets,
            self._form.press_bytes,
        )

    async def run(self, stop: asyncio.Event) -> bool:
        """Until `stop` is set or the replay is whole, which is what it returns.

        Raises HeadraceError for what only a person can mend.
        """
        outcome = Outcome.STOPPED
        settings = self._settings
        self.health.report(HEALTH_PART, "joining the group")
        async with asyncio.TaskGroup() as tasks:
            management = tasks.create_task(
                serve_management(self.health, settings.management_host, settings.management_port)
            )
            async with (
                self._store(stop) as store,
                self._cluster(stop) as cluster,
            ):
                if store is not None and cluster is not None:
                    await self._ensure_topics(cluster, stop)
                    watching = tasks.create_task(self._watch_topics(cluster))
                    sweeping = tasks.create_task(self._sweep(store))
                    while not stop.is_set() and outcome is not Outcome.FINISHED:
                        outcome = await self._membership(store, cluster, stop)
                    watching.cancel()
                    sweeping.cancel()
            management.cancel()
        return outcome is Outcome.FINISHED

    @property
    def replayed(self) -> int:
        """Offsets of the bounds that are durable, in the partitions owned now."""
        bounds = self._bounds or {}
        return sum(max(0, lane.claims.durable - bounds[tp][0]) for tp, lane in self._lanes.items() if tp in bounds)

    async def _ensure_topics(self, cluster: KafkaCluster, stop: asyncio.Event) -> None:
        """Make topics where that is wanted. Raises TopicMissing when none of them is there."""
        partitions, replication = self._settings.kafka_topic_partitions, self._settings.kafka_topic_replication
        wanted = list(self._settings.kafka_topic)
        missing: TopicMissing | None = None
        there = 0
        while wanted and not stop.is_set():
            try:
                await unless(stop, cluster.ensure_topic(wanted[0], partitions=partitions, replication=replication))
                there += 1
            except KafkaUnavailable as error:
                await self._wait(stop, error)
                continue
            except TopicMissing as error:
                missing = missing or error
            del wanted[0]
        if missing is not None and there == 0:
            raise missing

    async def _watch_topics(self, cluster: KafkaCluster) -> None:
        """Tell which topics are missing, as long as they are; the others go on. Until cancelled."""
        while True:
            for name in self._settings.kafka_topic:
                part = f"topic {name}"
                try:
                    await cluster.topic(name)
                except TopicMissing as error:
                    if part not in self.health.problems:
                        log.error("%s", error)  # noqa: TRY400 - its sentence says it all
                    self.health.report(part, str(error))
                except KafkaUnavailable:
                    pass  # whoever needs Kafka says so
                else:
                    self.health.report(part, None)
            await asyncio.sleep(TOPICS_SECONDS)

    @contextlib.asynccontextmanager
    async def _store(self, stop: asyncio.Event) -> AsyncIterator[ObjectStore | None]:
        """S3, as soon as it lets us write, read and list; None when we are told to stop before.

        Not earlier: who can't must not take partitions from those who can. The client is made anew each time, so that
        keys and profiles that somebody mends are seen.
        """
        settings, failures = self._settings, 0
        while not stop.is_set():
            async with contextlib.AsyncExitStack() as stack:
                try:
                    opening = self._edges.open_store(
                        settings,
                        connections=settings.max_workers + 4,
                        timeout_seconds=settings.upload_timeout_seconds,
                    )
                    store = await stack.enter_async_context(opening)
                    missing = await unless(stop, self._edges.missing_rights(store, settings))
                except S3Refused as error:
                    missing = [explain(error, "tell who we are", "what the AWS chain asks for", settings.s3_bucket)]
                except S3Unavailable as error:
                    missing = [str(error)]
                else:
                    if missing is not None and not missing:
                        self.health.report(S3_PART, None)
                        yield store
                        return
            if missing:
                log.log(
                    logging.ERROR if failures else logging.WARNING,
                    "S3 can't be used yet, asking again: %s",
                    " ".join(missing),
                )
                self.health.report(S3_PART, " ".join(missing))
                await self._pause(stop, PROBE_PAUSES_SECONDS[min(failures, len(PROBE_PAUSES_SECONDS) - 1)])
                failures += 1
        yield None

    async def _sweep(self, store: ObjectStore) -> None:
        """Until cancelled."""
        settings = self._settings
        if settings.s3_multipart_bytes and isinstance(store, Uploads):
            folders = [folder for topic in settings.kafka_topic for folder in all_folders(settings.s3_prefix, topic)]
            await Sweep(store, folders, upload_timeout_seconds=settings.upload_timeout_seconds).run()

    @contextlib.asynccontextmanager
    async def _cluster(self, stop: asyncio.Event) -> AsyncIterator[KafkaCluster | None]:
        """Kafka, as soon as it answers; None when we are told to stop before."""
        while not stop.is_set():
            async with contextlib.AsyncExitStack() as stack:
                try:
                    cluster = await unless(stop, stack.enter_async_context(self._edges.open_cluster(self._settings)))
                except KafkaUnavailable as error:
                    await self._wait(stop, error)
                    continue
                if cluster is not None:
                    yield cluster
                    return
        yield None

    async def _wait(self, stop: asyncio.Event, error: Exception) -> None:
        log.warning("%s Trying again.", error)
        self.health.report(HEALTH_PART, str(error))
        await self._pause(stop, PAUSE_SECONDS)

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()

    async def _membership(self, store: ObjectStore, cluster: KafkaCluster, stop: asyncio.Event) -> Outcome:
        """From joining the group to leaving it."""
        settings = self._settings
        source = Source(
            options=settings.kafka_options(),
            group=settings.kafka_group,
            topics=settings.kafka_topic,
            isolation_level=settings.kafka_isolation_level,
            session_timeout_seconds=settings.session_timeout_seconds,
            give_back_seconds=GIVE_BACK_SECONDS + 1,
            clock=self._edges.clock,
            new_consumer=self._edges.new_consumer,
        )
        try:
            await unless(stop, source.start())
            while True:
                assignment = None if stop.is_set() else await unless(stop, source.next_assignment())
                if assignment is None:
                    return Outcome.STOPPED
                log.info("generation %d: %d partitions", assignment.membership.generation, len(assignment.partitions))
                self.health.report(HEALTH_PART, None)
                outcome = await self._session(assignment, source, store, cluster).run(stop)
                if outcome is not Outcome.REVOKED:
                    break
                self.health.report(HEALTH_PART, "the group is rebalancing")
        except KafkaUnavailable as error:
            await self._wait(stop, error)
            return Outcome.LEAVE
        except Unanswered as error:
            log.warning("%s", error)
            outcome = Outcome.LEAVE
        finally:
            await source.close()
        if outcome is Outcome.LEAVE:
            metrics.REJOINS.inc()
            self.health.report(HEALTH_PART, "joining the group anew")
            await self._pause(stop, REJOIN_SECONDS)
        return outcome

    def _session(self, assignment: Assignment, source: Source, store: ObjectStore, cluster: KafkaCluster) -> Session:
        settings, clock = self._settings, self._edges.clock
        uploader = Uploader(
            store=store,
            timeout_seconds=settings.upload_timeout_seconds,
            alive_for=lambda: clock() - source.last_heartbeat,
            health=self.health,
            most_attempts=settings.max_workers,
        )
        dispatcher = Dispatcher(
            packer=Packer(layout=self._layout, form=self._form),
            uploader=uploader,
            health=self.health,
            memory_budget_bytes=settings.memory_budget_bytes,
            max_queue=settings.max_queue,
            clock=clock,
        )
        self._lanes = dispatcher.lanes
        taking = Taking(
            store=store,
            cluster=cluster,
            offsets=source.offsets,
            layout=self._layout,
            group=settings.kafka_group,
            upload_timeout_seconds=settings.upload_timeout_seconds,
            health=self.health,
            bounds=self._bounds,
        )

        def new_lane(partition: TopicPartition, takeover: Takeover) -> Lane:
            return Lane(
                partition,
                takeover,
                layout=self._layout,
                encode=self._form.encode,
                limits=self._limits,
                most_claims=settings.max_claims,
                stop=taking.bounds[partition][1] if partition in taking.bounds else None,
            )

        return Session(
            assignment=assignment,
            source=source,
            cluster=cluster,
            taking=taking,
            dispatcher=dispatcher,
            new_lane=new_lane,
            health=self.health,
            workers=settings.max_workers,
            drain_seconds=settings.drain_seconds,
            give_back_seconds=GIVE_BACK_SECONDS,
            clock=clock,
            replay=self._bounds is not None,
        )
