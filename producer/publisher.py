"""Batches into Kafka through an idempotent producer, and another one when that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from aiokafka.errors import KafkaError

from headrace.closing import close_producer
from headrace.errors import HeadraceError
from headrace.kafka import TopicMissing, open_cluster
from producer.codecs import codec_for
from producer.link import Link, TopicOutlet, heed_cancellation, new_producer
from producer.metrics import TALLY
from producer.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aiokafka import AIOKafkaProducer

    from headrace.kafka import KafkaCluster
    from headrace.management import Health
    from producer.intake import Intake
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

STUCK_AFTER: Final = 3.0  # times REQUEST_TIMEOUT_SECONDS; aiokafka retries an idempotent batch for ever
PROBE_SECONDS: Final = 2.0
PROBE_PATIENCE_SECONDS: Final = 3.0
LEADERS_SECONDS: Final = 1.0
LIMIT_ASKED_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.2
LAST_PAUSE_SECONDS: Final = 3.0


class Publisher:
    """Gives the intakes a link while there is one to be had. What it lacks, the health and refused requests tell.

    KAFKA_TOPIC, the first intake's, is what the process is there for: without it, it is not ready. Another topic that
    is missing is told in the log, at /metrics, and to those who ask for it; the others go on.
    """

    def __init__(self, settings: ProducerSettings, health: Health, *intakes: Intake) -> None:
        self._settings = settings
        self._health = health
        self._intake, *self._others = intakes
        self._intakes: Sequence[Intake] = intakes
        self._transactions: Transactions | None = None
        if settings.keyed_requests == "transaction":
            self._transactions = Transactions(settings)
            for intake in intakes:
                intake.transactions = self._transactions
        self._leave_by = float("-inf")
        self._said = ""
        self._said_of: dict[str, str] = {}
        self.connected = asyncio.Event()
        """Set when there was a link for the first time."""
        self._report("Kafka is not connected yet.")

    def drain(self, until: float) -> None:
        """When `run` is cancelled, batches under way have until then (the loop's time)."""
        self._leave_by = until
        for intake in self._intakes:
            intake.drain(until)
        if self._transactions is not None:
            self._transactions.hurry(until)

    async def run(self) -> None:
        """Keep a link until cancelled."""
        async with asyncio.TaskGroup() as group:
            for intake in self._intakes:
                group.create_task(intake.tick())
            if self._transactions is not None:
                group.create_task(self._transactions.run())
            pause = FIRST_PAUSE_SECONDS
            while True:
                try:
                    link = await self._session()
                except (KafkaError, HeadraceError, OSError) as error:  # TimeoutError is an OSError
                    self._report(_told(error))
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LAST_PAUSE_SECONDS)
                else:
                    TALLY.replacements += 1
                    self._report(f"The Kafka producer failed ({link.why}) and is being replaced.")
                    group.create_task(link.retire(self._settings.request_timeout_seconds))
                    pause = FIRST_PAUSE_SECONDS

    async def _session(self) -> Link:
        """One link's life. Returns it when it broke; raises when there was none to be had."""
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(self._settings.request_timeout_seconds):
                cluster = await stack.enter_async_context(open_cluster(self._settings))
                await self._look_up(self._intake, cluster)
                link = Link(await self._start_producer(), codec_for(self._settings.kafka_compression), self._intakes)
            self._report(None)
            logger.info(
                "Publishing to Kafka topic %s; a request may take %d bytes",
                self._intake.topic,
                self._intake.batch_limit,
            )
            self._intake.open(TopicOutlet(link, self._intake))
            self.connected.set()
            probes = [asyncio.create_task(self._probe(link, cluster))]
            if self._others:
                probes.append(asyncio.create_task(self._probe_others(link, cluster)))
            try:
                heed_cancellation()
                await link.broken.wait()
            except asyncio.CancelledError:
                await link.retire(max(0.0, self._leave_by - asyncio.get_running_loop().time()))
                raise
            finally:
                while probes:  # a client's call may swallow a cancellation that comes along with its answer
                    for probe in probes:
                        probe.cancel()
                    probes = list((await asyncio.wait(probes, timeout=PROBE_SECONDS / 2))[1])
        return link

    async def _start_producer(self) -> AIOKafkaProducer:
        producer = new_producer(self._settings)
        try:
            await producer.start()
            await _learn(producer, self._intake)
        except BaseException:
            await close_producer(producer)
            raise
        return producer

    async def _look_up(self, intake: Intake, cluster: KafkaCluster) -> None:
        """A topic as it is, made first where that is wanted."""
        settings = self._settings
        topic = await cluster.ensure_topic(
            intake.topic, partitions=settings.kafka_topic_partitions, replication=settings.kafka_topic_replication
        )
        intake.partition_count = len(topic.partitions)
        await self._ask_limit(intake, cluster)

    async def _probe(self, link: Link, cluster: KafkaCluster) -> None:
        """Is Kafka there, is the topic, what may a batch have, is anything stuck? Also when nobody sends anything."""
        loop = asyncio.get_running_loop()
        patience = self._settings.request_timeout_seconds
        asked = answered = loop.time()
        while not link.broken.is_set():
            await asyncio.sleep(PROBE_SECONDS)
            began = loop.time()
            try:
                async with asyncio.timeout(min(patience, PROBE_PATIENCE_SECONDS)):
                    await self._follow(self._intake, link, cluster)
                    if began - asked > LIMIT_ASKED_SECONDS:
                        await self._ask_limit(self._intake, cluster)
                        asked = began
            except TopicMissing as error:
                link.fail(str(error))
            except (HeadraceError, KafkaError, OSError) as error:
                answered = max(answered, link.last_success)
                if answered < began:
                    self._health.report("kafka", _told(error))
                if loop.time() - answered > patience:
                    link.fail(_told(error))
            else:
                answered = loop.time()
                self._health.report("kafka", None)
            self._find_stuck(link, loop.time() - STUCK_AFTER * patience)

    def _find_stuck(self, link: Link, since: float) -> None:
        for intake in self._intakes:
            for batch in intake.flights:
                if batch.sent_at < since:
                    link.fail(
                        f"a batch for {intake.topic}/{batch.partition} was not acknowledged for "
                        f"{STUCK_AFTER * self._settings.request_timeout_seconds:g} s"
                    )

    async def _probe_others(self, link: Link, cluster: KafkaCluster) -> None:
        """The same for the topics beside KAFKA_TOPIC: each is open while it is there."""
        loop = asyncio.get_running_loop()
        asked: dict[str, float] = {}
        while not link.broken.is_set():
            for intake in self._others:
                now = loop.time()
                try:
                    async with asyncio.timeout(self._settings.request_timeout_seconds):
                        if not intake.is_open:
                            await self._look_up(intake, cluster)
                            await _learn(link.producer, intake)
                            asked[intake.topic] = now
                            intake.open(TopicOutlet(link, intake))
                        await self._follow(intake, link, cluster)
                        if now - asked[intake.topic] > LIMIT_ASKED_SECONDS:
                            await self._ask_limit(intake, cluster)
                            asked[intake.topic] = now
                except TopicMissing as error:
                    intake.close(str(error))
                    self._say_of(intake, str(error))
                except (HeadraceError, KafkaError, OSError) as error:
                    self._say_of(intake, _told(error))
                else:
                    self._say_of(intake, "")
            await asyncio.sleep(PROBE_SECONDS)

    async def _follow(self, intake: Intake, link: Link, cluster: KafkaCluster) -> None:
        """Keys are spread over as many partitions as there are now, and leaders that come are seen.

        aiokafka looks once a minute, and when a batch fails; who has no leader gets no batch. Raises TopicMissing.
        """
        topic = await cluster.topic(intake.topic)
        intake.partition_count = len(topic.partitions)
        if len(_led(link.producer, intake)) < intake.partition_count:
            await link.producer.client.force_metadata_update()
            intake.pump()

    async def _ask_limit(self, intake: Intake, cluster: KafkaCluster) -> None:
        told = await cluster.topic_config(intake.topic, "max.message.bytes")
        if told is not None:
            intake.batch_limit = int(told)

    def _say_of(self, intake: Intake, problem: str) -> None:
        if problem and problem != self._said_of.get(intake.topic):
            logger.warning("Topic %s is not published to for now. %s", intake.topic, problem)
        self._said_of[intake.topic] = problem

    def _report(self, problem: str | None) -> None:
        self._health.report("kafka", problem)
        if problem is not None:
            for intake in self._intakes:
                intake.close(problem)
            if problem != self._said:
                logger.warning("Requests are answered 503 for now. %s", problem)
        self._said = problem or ""


async def _learn(producer: AIOKafkaProducer, intake: Intake) -> None:
    """See that the producer knows all leaders; those of a topic that was just made come by and by.

    After LEADERS_SECONDS it is left to the probe.
    """
    # Topics that it knows from its first look, which is at all, it forgets at the first look for certain ones.
    await producer.client.add_topic(intake.topic)
    await producer.partitions_for(intake.topic)
    until = asyncio.get_running_loop().time() + LEADERS_SECONDS
    while len(_led(producer, intake)) < intake.partition_count and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)
        await producer.client.force_metadata_update()


def _led(producer: AIOKafkaProducer, intake: Intake) -> Collection[int]:
    return producer.client.cluster.available_partitions_for_topic(intake.topic) or ()


def _told(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, HeadraceError)
        else f"Kafka does not answer: {type(error).__name__} {error}".rstrip()
    )
