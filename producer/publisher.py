"""Batches into Kafka through an idempotent producer, and another one when that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed

from headrace.errors import HeadraceError
from headrace.kafka import TopicMissing, open_cluster
from producer.batches import BATCH_OVERHEAD
from producer.codecs import codec_for, crc32c
from producer.errors import Kind, Problem
from producer.intake import UNKNOWN
from producer.metrics import TALLY
from producer.packing import RecordBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.kafka import KafkaCluster
    from headrace.management import Health
    from producer.batches import Batch
    from producer.intake import Intake
    from producer.packing import Codec
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

UNBOUNDED: Final = 1 << 30  # aiokafka's own limit would cut a request in two; sizes are checked before
STUCK_AFTER: Final = 3.0  # times REQUEST_TIMEOUT_SECONDS; aiokafka retries an idempotent batch for ever
PROBE_SECONDS: Final = 2.0
PROBE_PATIENCE_SECONDS: Final = 3.0
LIMIT_ASKED_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.2
LAST_PAUSE_SECONDS: Final = 3.0


class Link:
    """One AIOKafkaProducer and its deliveries, the intake's outlet. Broken it stays so: a new producer, a new link."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, codec: Codec | None, intake: Intake) -> None:
        self._producer = producer
        self._codec = codec
        self._topic = topic
        self._intake = intake
        self._deliveries: set[asyncio.Task[None]] = set()
        self.broken = asyncio.Event()
        self.why = ""
        self.last_success = float("-inf")

    def fail(self, why: str) -> None:
        """Not to be trusted any more; the first reason counts."""
        if not self.broken.is_set():
            self.why = why
            self.broken.set()
            self._intake.close(f"The Kafka producer failed ({why}) and is being replaced.")

    def partitions(self) -> Sequence[int]:
        return tuple(self._producer.client.cluster.available_partitions_for_topic(self._topic) or ())

    def lanes(self) -> int:
        return max(1, len(self._producer.client.cluster.brokers()))

    def send(self, batch: Batch) -> None:
        packed = RecordBatch(batch.requests, int(time.time() * 1000), codec=self._codec, crc32c=crc32c)
        for request in batch.requests:
            request.payloads = ()  # they are packed now; memory holds them once
            if request.part is not None:
                request.headers = []  # keys may be slices of the body, too
        delivery = asyncio.create_task(self._deliver(batch, packed))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def _deliver(self, batch: Batch, packed: RecordBatch) -> None:
        """See one batch through. It has landed when this returns or is cancelled."""
        problem: Problem | None = Problem(Kind.OUTCOME_UNKNOWN, f"The Kafka producer was given up. {UNKNOWN}")
        offset = None
        try:
            acknowledged = await self._producer.send_batch(packed, self._topic, partition=batch.partition)
            metadata = await acknowledged
            offset = metadata.offset if metadata.offset >= 0 else None  # a duplicate's acknowledgement may have none
            problem = None
            self.last_success = asyncio.get_running_loop().time()
        except MessageSizeTooLargeError:
            # The topic's limit shrank, or can't be read. Who sends this again shall get a 413, not break the next one.
            self._intake.batch_limit = min(self._intake.batch_limit, max(batch.size // 2, 2 * BATCH_OVERHEAD))
            problem = Problem(
                Kind.KAFKA_AWAY, "Kafka refused a record batch as too large. Nothing was published; try again."
            )
            self.fail(f"Kafka refused a batch of up to {batch.size} bytes as too large")
        except Exception as error:  # noqa: BLE001 - whatever the client raises, it is not trusted any more and callers need an answer
            problem = Problem(Kind.OUTCOME_UNKNOWN, f"Kafka did not take them: {type(error).__name__}. {UNKNOWN}")
            self.fail(f"{type(error).__name__} {error}".rstrip())
        finally:
            self._intake.landed(batch, asyncio.get_running_loop().time(), problem, offset)

    async def retire(self, seconds: float) -> None:
        """Let what is under way come to its end, for so long; then close, without waiting for Kafka."""
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=seconds)
        while self._deliveries:
            for delivery in self._deliveries:
                delivery.cancel()
            await asyncio.wait(self._deliveries)
        await _close(self._producer)


class Publisher:
    """Gives the intake a link while there is one to be had. What it lacks, the health and refused requests tell."""

    def __init__(self, settings: ProducerSettings, health: Health, intake: Intake) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic
        self._health = health
        self._intake = intake
        self._leave_by = float("-inf")
        self._retiring: set[asyncio.Task[None]] = set()
        self._said = ""
        self.connected = asyncio.Event()
        """Set when there was a link for the first time."""
        self._report("Kafka is not connected yet.")

    def drain(self, until: float) -> None:
        """When `run` is cancelled, batches under way have until then (the loop's time)."""
        self._leave_by = until
        self._intake.drain(until)

    async def run(self) -> None:
        """Keep a link until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._intake.tick())
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
                topic = await cluster.ensure_topic(
                    self._topic,
                    partitions=self._settings.kafka_topic_partitions,
                    replication=self._settings.kafka_topic_replication,
                )
                self._intake.partition_count = len(topic.partitions)
                await self._ask_limit(cluster)
                codec = codec_for(self._settings.kafka_compression)
                link = Link(await self._start_producer(), self._topic, codec, self._intake)
            self._report(None)
            logger.info(
                "Publishing to Kafka topic %s; a request may take %d bytes", self._topic, self._intake.batch_limit
            )
            self._intake.open(link)
            self.connected.set()
            probe = asyncio.create_task(self._probe(link, cluster))
            try:
                await link.broken.wait()
            except asyncio.CancelledError:
                await link.retire(max(0.0, self._leave_by - asyncio.get_running_loop().time()))
                raise
            finally:
                probe.cancel()
                await asyncio.wait([probe])
        return link

    async def _start_producer(self) -> AIOKafkaProducer:
        settings = self._settings
        producer = AIOKafkaProducer(
            **settings.kafka_options(),
            client_id="headrace-producer",
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=UNBOUNDED,
            request_timeout_ms=int(settings.request_timeout_seconds * 1000),
            metadata_max_age_ms=60_000,
        )
        try:
            await producer.start()
            await producer.partitions_for(self._topic)
        except BaseException:
            await _close(producer)
            raise
        return producer

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
                    await cluster.topic(self._topic)
                    if began - asked > LIMIT_ASKED_SECONDS:
                        await self._ask_limit(cluster)
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
            for batch in self._intake.flights:
                if loop.time() - batch.sent_at > STUCK_AFTER * patience:
                    link.fail(
                        f"a batch for partition {batch.partition} was not acknowledged for {STUCK_AFTER * patience:g} s"
                    )

    async def _ask_limit(self, cluster: KafkaCluster) -> None:
        told = await cluster.topic_config(self._topic, "max.message.bytes")
        if told is not None:
            self._intake.batch_limit = int(told)

    def _report(self, problem: str | None) -> None:
        self._health.report("kafka", problem)
        if problem is not None:
            self._intake.close(problem)
            if problem != self._said:
                logger.warning("Requests are answered 503 for now. %s", problem)
        self._said = problem or ""


def _told(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, HeadraceError)
        else f"Kafka does not answer: {type(error).__name__} {error}".rstrip()
    )


async def _close(producer: AIOKafkaProducer) -> None:
    """Close a producer that nobody waits for, within two seconds or so, whether Kafka is there or not.

    aiokafka's stop() sends what is left for as long as it takes, and cancelled half-way it leaves its sender running:
    so nothing is left first, and connections are cut when replies don't come. What its sender says to that is no news.
    """
    sender = producer._sender  # noqa: SLF001 - there is no public way
    if sender.sender_task is not None:
        sender.sender_task.remove_done_callback(sender._fail_all)  # noqa: SLF001 - as above
    _expect_errors(producer._message_accumulator)  # noqa: SLF001 - as above
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 - as above
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=1)
    if not stopping.done():
        await producer.client.close()
        await asyncio.wait([stopping], timeout=1)
    stopping.cancel()
    await asyncio.wait([stopping])
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        logger.debug("A Kafka producer did not close cleanly", exc_info=error)


def _expect_errors(accumulator: Any) -> None:
    """Batches that are left will fail, and nobody waits for them any more: nothing for the log.

    One that waits to be sent again isn't among the pending ones, where aiokafka looks for it when it fails.
    """
    pending = accumulator._pending_batches  # noqa: SLF001 - there is no public way
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001 - as above
    for batch in (*pending, *waiting):
        for future in (batch.future, batch._drain_waiter):  # noqa: SLF001 - as above
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
    pending.update(batch for batch in waiting if batch.retry_count > 0)
