"""Requests whose keys need several partitions: all of their records by one Kafka transaction, or none of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TransactionalIdAuthorizationFailed

from headrace.closing import close_producer, expected
from producer.batches import BATCH_OVERHEAD
from producer.codecs import codec_for, crc32c
from producer.errors import Kind, Problem
from producer.link import heed_cancellation, new_producer, offset_of
from producer.metrics import PUBLISH_SECONDS, TALLY
from producer.packing import RecordBatch
from producer.publication import UNKNOWN, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaProducer

    from producer.batches import Request
    from producer.intake import Intake
    from producer.publication import Bundle
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

POOL: Final = 4
"""Transactions at a time. After a commit Kafka takes some ms before it lets the same producer begin again."""
FULL_PART: Final = 1_000_000
"""Bytes up to which requests share a transaction's batch for a partition; a single one may be as long as may be."""
TICK_SECONDS: Final = 0.1
STUCK_AFTER: Final = 3.0  # times REQUEST_TIMEOUT_SECONDS
GRACE_SECONDS: Final = 5.0  # that Kafka leaves a transaction open beyond the time that we do
FIRST_PAUSE_SECONDS: Final = 0.2
LAST_PAUSE_SECONDS: Final = 3.0
NOTHING: Final = (
    "Nothing was published: the transaction was not committed, and readers of committed records never see it."
)


class Transactions:
    """A few transactional producers, which start when they are needed, and the line in front of them.

    Who is free takes what waits, as one transaction. Promises: an outcome without an exception means that Kafka
    acknowledged the commit. A Problem that is not OUTCOME_UNKNOWN means that no commit was ever asked for, or will be.

    Each producer has a transactional.id that no other process has (`headrace-…`). A producer that failed is replaced
    under the same id: that ends what it left open, and Kafka takes nothing more from it.
    """

    def __init__(self, settings: ProducerSettings) -> None:
        self._settings = settings
        self._patience = settings.request_timeout_seconds
        self._codec = codec_for(settings.kafka_compression)
        self._name = f"headrace-{secrets.token_hex(8)}"
        self._line: deque[Bundle] = deque()
        self._free: deque[asyncio.Future[None]] = deque()
        self._committing: set[Bundle] = set()

    def add(self, bundle: Bundle) -> None:
        """Line up a request; its outcome comes within about REQUEST_TIMEOUT_SECONDS."""
        self._line.append(bundle)
        self._wake()

    def hurry(self, deadline: float) -> None:
        """No request waits beyond `deadline` (the loop's time)."""
        for bundle in (*self._line, *self._committing):
            bundle.whole.deadline = min(bundle.whole.deadline, deadline)

    async def run(self) -> None:
        """Publish until cancelled; then nothing stays in line."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tick())
                for number in range(POOL):
                    group.create_task(self._serve(f"{self._name}-{number}"))
        finally:
            self._settle_late(float("inf"))

    def _wake(self) -> None:
        while self._free:
            free = self._free.popleft()
            if not free.done():
                free.set_result(None)
                return

    async def _next(self) -> list[Bundle]:
        """What waits, as much as goes into one transaction."""
        heed_cancellation()
        while not (taken := self._take()):
            free = asyncio.get_running_loop().create_future()
            self._free.append(free)
            await free
        return taken

    def _take(self) -> list[Bundle]:
        """Requests whose partitions all have leaders: others would hold up, for long, who shares their transaction."""
        sizes: Counter[tuple[str, int]] = Counter()
        leaders: dict[Intake, frozenset[int]] = {}
        taken: list[Bundle] = []
        for bundle in list(self._line):
            if bundle.intake not in leaders:
                leaders[bundle.intake] = bundle.intake.led_partitions
            more = {_partition(part): part.size for part in bundle.parts}
            if not leaders[bundle.intake].issuperset(more):
                continue
            topic = bundle.intake.topic
            if taken and any(sizes[topic, partition] + size > FULL_PART for partition, size in more.items()):
                self._wake()  # for another one
                break
            sizes.update({(topic, partition): size for partition, size in more.items()})
            taken.append(bundle)
        if len(taken) == len(self._line):
            self._line.clear()
        else:
            gone = set(taken)
            self._line = deque(bundle for bundle in self._line if bundle not in gone)
        return taken

    async def _serve(self, transactional_id: str) -> None:
        producer: AIOKafkaProducer | None = None
        try:
            while True:
                bundles = await self._next()
                if producer is None:
                    producer = await self._first(transactional_id, bundles)
                    if producer is None:
                        continue
                if not await self._transact(producer, bundles):
                    TALLY.replacements += 1
                    failed, producer = producer, None
                    await close_producer(failed)
                    producer = await self._replacement(transactional_id)
        finally:
            if producer is not None:
                await close_producer(producer)

    async def _first(self, transactional_id: str, bundles: Sequence[Bundle]) -> AIOKafkaProducer | None:
        """A producer, or None when there is none to be had; then the requests are told why."""
        problem = Problem(Kind.KAFKA_AWAY, f"The Kafka producer was given up. {NOTHING}")
        try:
            async with asyncio.timeout_at(min(bundle.whole.deadline for bundle in bundles)):
                producer = await self._start(transactional_id)
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            why = f"No Kafka transaction can be begun: {_told(error)}"
            logger.warning("%s", why)
            problem = Problem(Kind.KAFKA_AWAY, f"{why} Nothing was published.")
        else:
            bundles = ()
            return producer
        finally:
            self._land(bundles, problem)
        return None

    async def _replacement(self, transactional_id: str) -> AIOKafkaProducer:
        """Another producer of the same id, as soon as there is one: until then the failed one's transaction is open."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            heed_cancellation()
            try:
                async with asyncio.timeout(self._patience):
                    return await self._start(transactional_id)
            except (KafkaError, OSError) as error:
                logger.debug("No Kafka producer for transactions yet: %s", _told(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE_SECONDS)

    async def _start(self, transactional_id: str) -> AIOKafkaProducer:
        producer = new_producer(
            self._settings,
            transactional_id=transactional_id,
            transaction_timeout_ms=int((self._patience + GRACE_SECONDS) * 1000),
        )
        try:
            await producer.start()
        except BaseException:
            await close_producer(producer)
            raise
        return producer

    async def _transact(self, producer: AIOKafkaProducer, bundles: Sequence[Bundle]) -> bool:
        """See one transaction through. Is the producer fit for another?"""
        loop = asyncio.get_running_loop()
        began = loop.time()
        problem: Problem | None = Problem(Kind.KAFKA_AWAY, f"The Kafka producer was given up. {NOTHING}")
        try:
            async with asyncio.timeout_at(min(bundle.whole.deadline for bundle in bundles)):
                await self._fill(producer, bundles)
            problem = Problem(Kind.OUTCOME_UNKNOWN, f"The Kafka producer was given up while it committed. {UNKNOWN}")
            self._committing.update(bundles)
            async with asyncio.timeout(STUCK_AFTER * self._patience):
                await producer.commit_transaction()
            problem = None
        except Exception as error:  # noqa: BLE001 - whatever the client raises, it is not trusted any more and callers need an answer
            if problem is not None and problem.kind is Kind.KAFKA_AWAY:
                problem = Problem(Kind.KAFKA_AWAY, f"A Kafka transaction failed: {_told(error)} {NOTHING}")
            else:
                problem = Problem(Kind.OUTCOME_UNKNOWN, f"Kafka did not acknowledge a commit: {_told(error)} {UNKNOWN}")
            logger.warning("%s", problem.detail)
            if isinstance(error, MessageSizeTooLargeError):
                _shrink_limit(bundles)
        finally:
            self._committing.difference_update(bundles)
            self._land(bundles, problem)
        TALLY.transactions[problem is None] += 1
        if problem is None:
            PUBLISH_SECONDS.observe(loop.time() - began)
        return problem is None

    async def _fill(self, producer: AIOKafkaProducer, bundles: Sequence[Bundle]) -> None:
        """Begin, and return when each partition's batch is acknowledged. Only then may anybody commit.

        aiokafka's own commit would go on after a batch that failed.
        """
        batches: defaultdict[tuple[str, int], list[Request]] = defaultdict(list)
        for bundle in bundles:
            for part in bundle.parts:
                batches[bundle.intake.topic, _partition(part)].append(part)
        for topic in {topic for topic, _ in batches}:
            await producer.client.add_topic(topic)
            known = await producer.partitions_for(topic)
            if any(partition not in known for name, partition in batches if name == topic):
                await producer.client.force_metadata_update()
        await producer.begin_transaction()
        now_ms = int(time.time() * 1000)
        sent: list[asyncio.Future[Any]] = []
        for (topic, partition), requests in batches.items():
            packed = RecordBatch(requests, now_ms, codec=self._codec, crc32c=crc32c, transactional=True)
            for request in requests:
                request.payloads, request.headers = (), []  # they are packed now; memory holds them once
            sent.append(await producer.send_batch(packed, topic, partition=partition))
        for acknowledged in sent:
            acknowledged.add_done_callback(expected)
        await asyncio.wait(sent, return_when=asyncio.FIRST_EXCEPTION)
        for acknowledged, requests in zip(sent, batches.values(), strict=True):
            offset = offset_of(await acknowledged)
            for request in requests:
                assert request.part is not None
                request.part.offset = offset
                offset = None if offset is None else offset + request.count

    def _land(self, bundles: Sequence[Bundle], problem: Problem | None) -> None:
        for bundle in bundles:
            bundle.intake.bundle_landed(bundle.whole, problem)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._settle_late(asyncio.get_running_loop().time())
            if self._line:
                self._wake()  # a partition may have a leader again

    def _settle_late(self, now: float) -> None:
        while self._line and self._line[0].whole.deadline <= now:
            late = Problem(
                Kind.KAFKA_AWAY,
                f"For {self._patience:g} s no Kafka transaction was free, or a partition had no leader. {NOTHING}",
            )
            self._land([self._line.popleft()], late)
        for bundle in self._committing:
            if bundle.whole.deadline <= now:
                settle(
                    bundle.whole,
                    Problem(Kind.OUTCOME_UNKNOWN, f"No commit was acknowledged within {self._patience:g} s. {UNKNOWN}"),
                )


def _partition(request: Request) -> int:
    assert request.part is not None
    return request.part.partition


def _shrink_limit(bundles: Sequence[Bundle]) -> None:
    """The topic's limit shrank, or can't be read. Who sends this again shall get a 413, not break the next one."""
    sizes: Counter[tuple[Intake, int]] = Counter()
    for bundle in bundles:
        for part in bundle.parts:
            sizes[bundle.intake, _partition(part)] += part.size
    (intake, _), size = max(sizes.items(), key=lambda item: item[1])
    intake.batch_limit = min(intake.batch_limit, max(size // 2, 2 * BATCH_OVERHEAD))


def _told(error: Exception) -> str:
    if isinstance(error, TransactionalIdAuthorizationFailed):
        return (
            "Kafka does not allow this user transactional ids that begin with headrace- (set an ACL, or KEYED_REQUESTS "
            "to refuse or separate)."
        )
    if isinstance(error, TimeoutError):
        return "it did not answer in time."
    return f"{type(error).__name__} {error}".rstrip(" .") + "."
