"""Where requests wait for Kafka: what may come in, when it goes on, and what each is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from producer.batches import BATCH_OVERHEAD, Batch, Batcher, Budget, Request
from producer.errors import Kind, Problem
from producer.limits import payload_limits
from producer.metrics import PUBLISH_SECONDS, TALLY
from producer.partitioner import parts_by_partition, wanted_partitions
from producer.publication import UNKNOWN, Bundle, Publication, joint_outcome, settle
from producer.records import Each, Part, each_bytes, record_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from producer.records import Headers, Records
    from producer.settings import ProducerSettings

DEFAULT_BATCH_LIMIT: Final = 1_048_588  # Kafka's own default of max.message.bytes
FULL_BATCH: Final = 1_000_000  # requests are put together up to here; a single one may be as long as the topic allows
TICK_SECONDS: Final = 0.1
ROOM_SECONDS: Final = 1.0  # what a 503 would tell the client to wait


class Outlet(Protocol):
    """What batches of one topic leave through: a producer that works."""

    def partitions(self) -> Sequence[int]:
        """Those that have a leader now."""
        ...

    def lanes(self) -> int:
        """How many brokers lead them."""
        ...

    def send(self, batch: Batch) -> None:
        """Begin to send; `Intake.landed` is called when it is over. Must not raise, and not call back at once."""
        ...


class Carrier(Protocol):
    """What takes requests for several partitions as a whole."""

    def add(self, bundle: Bundle) -> None:
        """Line it up; `Intake.bundle_landed` is called when it is over."""
        ...


class Intake:
    """Holds requests for a topic, within a budget, until their batches have landed; open while it has an outlet.

    Promises: an outcome without an exception means that Kafka acknowledged all payloads of the request. The Problem
    of an outcome that is not OUTCOME_UNKNOWN means that Kafka has none of them. Every outcome comes within about
    REQUEST_TIMEOUT_SECONDS, while `tick` runs.
    """

    def __init__(self, settings: ProducerSettings, topic: str | None = None, beside: Intake | None = None) -> None:
        """`beside`: another topic's intake, with which it shares the budget."""
        self.topic = topic or settings.kafka_topic
        self._patience = settings.request_timeout_seconds
        self._limits = payload_limits(settings.max_payloads, settings.max_payload_length)
        self._keyed_requests = settings.keyed_requests
        if beside is None:
            self.budget = TALLY.budget = Budget(settings.memory_budget_bytes, settings.max_queue)
            self._room: deque[tuple[int, asyncio.Future[None]]] = deque()
        else:
            self.budget, self._room = beside.budget, beside._room  # noqa: SLF001 - of the same class
            beside._shares = True  # noqa: SLF001 - as above
        self._shares: bool = beside is not None
        self._held_payloads = self._held_bytes = self.acknowledged = 0
        self.transactions: Carrier | None = None
        """Where requests for several partitions go, if KEYED_REQUESTS says so."""
        self.partition_count = 0
        """What keys are spread over: all partitions, with a leader or without."""
        self.batch_limit = DEFAULT_BATCH_LIMIT
        self._batcher = Batcher(linger=settings.linger_ms / 1000, full=FULL_BATCH)
        self._outlet: Outlet | None = None
        self._closed_because = "Kafka is not connected yet."
        self._loop = asyncio.get_running_loop()  # asked once: before Python 3.12 each asking is a system call
        self._timer: asyncio.TimerHandle | None = None
        self._drain_until = float("inf")

    # What requests see

    def check_open(self, size: int) -> None:
        """Raises Problem when a body of `size` bytes could not be taken now. Cheap enough to ask before it is read."""
        if self._outlet is None:
            raise Problem(Kind.KAFKA_AWAY, self._closed_because)
        if not self.budget.has_room(size, 1):
            raise self._full()

    def reserve(self, size: int) -> None:
        """The same, and takes so many bytes of the budget, which are the caller's to give back."""
        self.check_open(size)
        self.budget.bytes += size

    async def promise(self, size: int) -> None:
        """The same for a long body, before it comes: who is let in has room for all of it, and so gets through.

        Who finds no room waits in line for up to ROOM_SECONDS, while the body stays with its client. All promises
        together take half of the budget, so that slow clients leave room for short bodies.
        """
        self.check_open(0)
        if not self._room and self.budget.may_promise(size):
            self.budget.promise(size)
            return
        turn = self._loop.create_future()
        self._room.append((size, turn))
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.keep_promise(size)
                self.release(size)
            else:
                with contextlib.suppress(ValueError):  # _let_in came across it
                    self._room.remove((size, turn))
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def keep_promise(self, size: int) -> None:
        """The body has come, or never will; its bytes stay reserved."""
        self.budget.promised -= size
        self._let_in()

    def release(self, size: int, payloads: int = 0) -> None:
        """Gives back what was reserved."""
        self.budget.give_back(size, payloads)
        self._let_in()

    def _let_in(self) -> None:
        while self._room and self.budget.may_promise(self._room[0][0]):
            size, turn = self._room.popleft()
            if not turn.cancelled():
                self.budget.promise(size)
                turn.set_result(None)

    def submit(self, payloads: Sequence[bytes], headers: Headers, reserved: int) -> asyncio.Future[None]:
        """Line up a request; its outcome tells when it is durable. Raises Problem when it can't be taken.

        `reserved` bytes of the budget become the intake's to give back, unless it raises.
        """
        if self._limits is not None:
            self._limits.check(payloads)
        count = len(payloads)
        size = record_bytes(count, sum(map(len, payloads)), headers)
        self._check(count, size)
        now = self._loop.time()
        deadline = min(now + self._patience, self._drain_until)
        request = Request(payloads, count, headers, size, reserved, deadline, self._loop.create_future())
        self._take(count, reserved)
        self._batcher.add(request, now)
        if self._timer is None or self._batcher.is_full:
            self.pump()
        return request.outcome

    def submit_records(self, records: Records, reserved: int) -> Publication:
        """The same for records with keys, partitions or headers of their own, or whose places are to be told.

        Records of one key go to the partition that other publishers use for it, in the order of the requests of one
        connection. What may go anywhere goes with the rest. A request that needs several partitions is a transaction,
        refused, or several batches, as KEYED_REQUESTS says.
        """
        if self._outlet is None:
            raise Problem(Kind.KAFKA_AWAY, self._closed_because)
        if self._limits is not None:
            self._limits.check(records.values)
        if records.keys is None and records.partitions is None:
            parts: dict[int | None, Sequence[int]] = {None: range(len(records.values))}
        else:
            parts = {**parts_by_partition(self._wanted(records))}
        now = self._loop.time()
        deadline = min(now + self._patience, self._drain_until)
        if len(parts) > 1:
            return self._submit_apart(records, parts, reserved, deadline)
        ((partition, indexes),) = parts.items()
        request = self._request(records, partition, indexes, deadline)
        self._check(request.count, request.size)
        if partition is not None:
            self._check_line(partition)
        request.reserved = reserved
        self._take(request.count, reserved)
        if partition is None:
            self._batcher.add(request, now)
        else:
            self._batcher.pin(request, partition, now)
        self.pump()
        return Publication(request.outcome, _parts([request]))

    def _submit_apart(
        self, records: Records, parts: Mapping[int | None, Sequence[int]], reserved: int, deadline: float
    ) -> Publication:
        requests = [self._request(records, partition, indexes, deadline) for partition, indexes in parts.items()]
        count = sum(request.count for request in requests)
        self._check(count, max(request.size for request in requests))
        if self._keyed_requests == "transaction" and self.transactions is not None:
            outcome: asyncio.Future[None] = self._loop.create_future()
            size = sum(request.size for request in requests)
            whole = Request((), count, [], size, reserved, deadline, outcome)
            self._take(count, reserved)
            self.transactions.add(Bundle(self, whole, requests))
            return Publication(outcome, _parts(requests))
        if self._keyed_requests != "separate":
            raise self._apart(len(parts))
        for request in requests:
            assert request.part is not None
            self._check_line(request.part.partition)
        now = self._loop.time()
        requests[0].reserved = reserved
        self._take(count, reserved)
        for request in requests:
            assert request.part is not None
            self._batcher.pin(request, request.part.partition, now)
        publication = Publication(joint_outcome([request.outcome for request in requests]), _parts(requests))
        self.pump()
        return publication

    def _request(self, records: Records, partition: int | None, indexes: Sequence[int], deadline: float) -> Request:
        """The part of records that goes to one partition."""
        values, keys, own = records.values, records.keys, records.own_headers
        if len(indexes) < len(values):
            values = [values[index] for index in indexes]
            keys = None if keys is None else [keys[index] for index in indexes]
            own = None if own is None else [own[index] for index in indexes]
        each = Each(keys, records.headers, own)
        part = Part(indexes, -1 if partition is None else partition)
        size = each_bytes(values, each)
        return Request(values, len(values), each, size, 0, deadline, self._loop.create_future(), part)

    def _check(self, count: int, size: int) -> None:
        """Raises Problem unless so many payloads, of so many bytes in a batch, can be taken now."""
        if size + BATCH_OVERHEAD > self.batch_limit or count > self.budget.max_payloads:
            raise self._too_long(count, size + BATCH_OVERHEAD)
        if self._outlet is None:
            raise Problem(Kind.KAFKA_AWAY, self._closed_because)
        if not self.budget.has_room(0, count):
            raise self._full()
        if self._shares and not self._has_share(count):
            raise Problem(
                Kind.QUEUE_FULL,
                f"{self._held_payloads} payloads wait for topic {self.topic}, {self._held_bytes} bytes: as much as is "
                "left for all others (MAX_QUEUE, MEMORY_BUDGET_BYTES).",
            )

    def _has_share(self, count: int) -> bool:
        """Who has as much as is still free gets no more, so that a topic that Kafka lacks leaves room for others."""
        budget = self.budget
        return (
            self._held_payloads + count <= budget.max_payloads - budget.payloads
            and self._held_bytes <= budget.max_bytes - budget.bytes
        ) or not self._held_payloads

    def _check_line(self, partition: int) -> None:
        """The same among partitions: one without a leader holds up those who need it, and nobody else."""
        if self._batcher.pinned_bytes(partition) > self.budget.max_bytes - self.budget.bytes:
            raise Problem(
                Kind.QUEUE_FULL,
                f"As much waits for partition {partition} of topic {self.topic} as is left of MEMORY_BUDGET_BYTES.",
            )

    def _take(self, count: int, reserved: int) -> None:
        self.budget.payloads += count
        self._held_payloads += count
        self._held_bytes += reserved

    def _let_go(self, size: int, payloads: int) -> None:
        self._held_payloads -= payloads
        self._held_bytes -= size
        self.release(size, payloads)

    def _wanted(self, records: Records) -> list[int | None]:
        partitions = self.partition_count
        if not partitions:
            raise Problem(Kind.KAFKA_AWAY, f"The partitions of topic {self.topic} are not known yet.")
        for index, partition in enumerate(records.partitions or ()):
            if partition is not None and not 0 <= partition < partitions:
                raise Problem(
                    Kind.NO_PARTITION,
                    f"Topic {self.topic} has no partition {partition}, which record {index} (counted from 0) names; "
                    f"its partitions are 0 to {partitions - 1}.",
                    index=index,
                )
        return wanted_partitions(records, partitions)

    def _apart(self, parts: int) -> Problem:
        return Problem(
            Kind.KEYS_APART,
            f"The keys of the request belong to {parts} partitions of topic {self.topic}, and Kafka takes only "
            "one at a time as a whole. Send payloads of different keys in requests of their own (this headrace takes "
            f"no others: KEYED_REQUESTS={self._keyed_requests}).",
        )

    def _too_long(self, count: int, size: int) -> Problem:
        if count > self.budget.max_payloads:
            return Problem(
                Kind.TOO_LONG,
                f"The request has {count} payloads, and no more than {self.budget.max_payloads} may wait at a time "
                "(MAX_QUEUE). Send fewer in a request.",
                limit=self.budget.max_payloads,
            )
        return Problem(
            Kind.TOO_LONG,
            f"As records, the request's payloads ({count}) take up to {size} bytes, and a record batch of topic "
            f"{self.topic} may have {self.batch_limit} (its max.message.bytes). Send fewer in a request.",
            limit=self.batch_limit,
        )

    def _full(self) -> Problem:
        budget = self.budget
        return Problem(
            Kind.QUEUE_FULL,
            f"{budget.payloads} payloads wait for Kafka (MAX_QUEUE is {budget.max_payloads}), and {budget.bytes} bytes "
            f"are taken (MEMORY_BUDGET_BYTES is {budget.max_bytes}).",
        )

    # What the publisher sees

    @property
    def flights(self) -> list[Batch]:
        return self._batcher.flights

    @property
    def is_open(self) -> bool:
        return self._outlet is not None

    @property
    def led_partitions(self) -> frozenset[int]:
        """Those that can be published to now."""
        return frozenset(() if self._outlet is None else self._outlet.partitions())

    def open(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._batcher.forget_flights()
        self.pump()

    def close(self, because: str) -> None:
        """New requests are refused from now on. Those in line wait for the next outlet until their time is up."""
        self._outlet = None
        self._closed_because = because

    def landed(self, batch: Batch, now: float, problem: Problem | None, offset: int | None = None) -> None:
        """A batch is acknowledged (None), from this offset on, or will never be heard of again."""
        size = payloads = 0
        for request in batch.requests:
            if request.part is not None:
                request.part.partition = batch.partition
                request.part.offset = None if offset is None else offset + payloads
            size += request.reserved
            payloads += request.count
            settle(request, problem)
        self._let_go(size, payloads)
        if problem is None:
            self.acknowledged += payloads
            TALLY.batches += 1
            TALLY.payloads += payloads
            TALLY.bytes += size
            PUBLISH_SECONDS.observe(now - batch.sent_at)
        self._batcher.landed(batch)
        self.pump()

    def bundle_landed(self, whole: Request, problem: Problem | None) -> None:
        """A request in several parts is committed (None), or will never be heard of again."""
        settle(whole, problem)
        self._let_go(whole.reserved, whole.count)
        if problem is None:
            self.acknowledged += whole.count
            TALLY.payloads += whole.count
            TALLY.bytes += whole.reserved

    def pump(self) -> None:
        """Send what is to be sent now, and be back when there may be more."""
        now = self._loop.time()
        if self._outlet is not None:
            partitions, lanes = self._outlet.partitions(), self._outlet.lanes()
            while (batch := self._batcher.next(now, partitions, lanes)) is not None:
                self._outlet.send(batch)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self._batcher.wake_at(now)
        if wake_at is not None:
            self._timer = self._loop.call_at(wake_at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.pump()

    # Time

    def drain(self, until: float) -> None:
        """Wait for nobody's company any more; every outcome comes before `until` (the loop's time)."""
        self._drain_until = until
        self._batcher.hurry(until)
        self.pump()

    async def tick(self) -> None:
        """Settle requests whose time is up, whatever Kafka does. Runs until cancelled; then nothing stays in line."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self._settle_late(self._loop.time())
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._settle_late(float("inf"))

    def _settle_late(self, now: float) -> None:
        for request in self._batcher.late(now):
            settle(
                request,
                Problem(Kind.KAFKA_AWAY, f"Kafka took no more for {self._patience:g} s. Nothing was published."),
            )
            self._let_go(request.reserved, request.count)
        for batch in self._batcher.flights:
            for request in batch.requests:
                if request.deadline <= now and not request.outcome.done():
                    settle(
                        request,
                        Problem(Kind.OUTCOME_UNKNOWN, f"No acknowledgement within {self._patience:g} s. {UNKNOWN}"),
                    )


def open_intakes(settings: ProducerSettings) -> dict[str, Intake]:
    """One for each topic that may be published to, KAFKA_TOPIC's first; they share one budget."""
    main = Intake(settings)
    intakes = {main.topic: main, **{topic: Intake(settings, topic, main) for topic in settings.topics[1:]}}
    TALLY.topics = intakes
    return intakes


def _parts(requests: Sequence[Request]) -> list[Part]:
    return [request.part for request in requests if request.part is not None]
