"""One idempotent producer of aiokafka's, and the batches under way in it; broken it stays so."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from headrace.closing import close_producer
from producer.batches import BATCH_OVERHEAD
from producer.codecs import crc32c
from producer.errors import Kind, Problem
from producer.packing import RecordBatch
from producer.publication import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.batches import Batch
    from producer.intake import Intake
    from producer.packing import Codec
    from producer.settings import ProducerSettings


UNBOUNDED: Final = 1 << 30  # aiokafka's own limit would cut a request in two; sizes are checked before


def new_producer(settings: ProducerSettings, **transactional: Any) -> AIOKafkaProducer:
    """A producer that is not started yet, and loses nothing that it acknowledges."""
    return AIOKafkaProducer(
        **settings.kafka_options(),
        **transactional,
        client_id="headrace-producer",
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=UNBOUNDED,
        request_timeout_ms=int(settings.request_timeout_seconds * 1000),
        metadata_max_age_ms=60_000,
    )


class Link:
    """One AIOKafkaProducer and its deliveries, for all topics. A new producer is a new link."""

    def __init__(self, producer: AIOKafkaProducer, codec: Codec | None, intakes: Sequence[Intake]) -> None:
        self.producer = producer
        self.codec = codec
        self._intakes = intakes
        self.deliveries: set[asyncio.Task[None]] = set()
        self.broken = asyncio.Event()
        self.why = ""
        self.last_success = float("-inf")

    def fail(self, why: str) -> None:
        """Not to be trusted any more; the first reason counts."""
        if not self.broken.is_set():
            self.why = why
            self.broken.set()
            for intake in self._intakes:
                intake.close(f"The Kafka producer failed ({why}) and is being replaced.")

    async def retire(self, seconds: float) -> None:
        """Let what is under way come to its end, for so long; then close, without waiting for Kafka."""
        if self.deliveries:
            await asyncio.wait(self.deliveries, timeout=seconds)
        while self.deliveries:
            for delivery in self.deliveries:
                delivery.cancel()
            await asyncio.wait(self.deliveries)
        await close_producer(self.producer)


class TopicOutlet:
    """A link, for one topic: that topic's intake sends its batches by it."""

    def __init__(self, link: Link, intake: Intake) -> None:
        self._link = link
        self._producer = link.producer
        self._topic = intake.topic
        self._intake = intake

    def partitions(self) -> Sequence[int]:
        return tuple(self._producer.client.cluster.available_partitions_for_topic(self._topic) or ())

    def lanes(self) -> int:
        return max(1, len(self._producer.client.cluster.brokers()))

    def send(self, batch: Batch) -> None:
        packed = RecordBatch(batch.requests, int(time.time() * 1000), codec=self._link.codec, crc32c=crc32c)
        for request in batch.requests:
            request.payloads = ()  # they are packed now; memory holds them once
            if request.part is not None:
                request.headers = []  # keys may be slices of the body, too
        delivery = asyncio.create_task(self._deliver(batch, packed))
        self._link.deliveries.add(delivery)
        delivery.add_done_callback(self._link.deliveries.discard)

    async def _deliver(self, batch: Batch, packed: RecordBatch) -> None:
        """See one batch through. It has landed when this returns or is cancelled."""
        problem: Problem | None = Problem(Kind.OUTCOME_UNKNOWN, f"The Kafka producer was given up. {UNKNOWN}")
        offset = None
        try:
            acknowledged = await self._producer.send_batch(packed, self._topic, partition=batch.partition)
            offset = offset_of(await acknowledged)
            problem = None
            self._link.last_success = asyncio.get_running_loop().time()
        except MessageSizeTooLargeError:
            # The topic's limit shrank, or can't be read. Who sends this again shall get a 413, not break the next one.
            self._intake.batch_limit = min(self._intake.batch_limit, max(batch.size // 2, 2 * BATCH_OVERHEAD))
            problem = Problem(
                Kind.KAFKA_AWAY, "Kafka refused a record batch as too large. Nothing was published; try again."
            )
            self._link.fail(f"Kafka refused a batch of up to {batch.size} bytes as too large")
        except Exception as error:  # noqa: BLE001 - whatever the client raises, it is not trusted any more and callers need an answer
            problem = Problem(Kind.OUTCOME_UNKNOWN, f"Kafka did not take them: {type(error).__name__}. {UNKNOWN}")
            self._link.fail(f"{type(error).__name__} {error}".rstrip())
        finally:
            self._intake.landed(batch, asyncio.get_running_loop().time(), problem, offset)


def offset_of(metadata: Any) -> int | None:
    """The first offset that an acknowledgement tells; a duplicate's (DUPLICATE_SEQUENCE_NUMBER) tells none."""
    offset: int = metadata.offset
    return offset if offset >= 0 else None


def heed_cancellation() -> None:
    """Raises CancelledError if this task was cancelled, and the client took no notice.

    Its calls wait by Python's wait_for, which up to 3.11 swallows a cancellation that comes along with the answer.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
