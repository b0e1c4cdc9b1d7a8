"""Which requests go to Kafka next, together, and to which partition. Pure: no client, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    Headers = list[tuple[str, bytes | None]]

BATCH_OVERHEAD: Final = 61
RECORD_OVERHEAD: Final = 21
"""Upper bound of what a record without a key has beside value and headers, in a batch of one timestamp:
length 5, attributes 1, timestamp delta 1, offset delta 5, key 1, value length 5, number of headers 3."""
HEADER_OVERHEAD: Final = 10


def record_bytes(payloads: int, payload_bytes: int, headers: Headers) -> int:
    """Upper bound of what payloads take in a record batch, uncompressed; the batch's own BATCH_OVERHEAD comes once."""
    each = RECORD_OVERHEAD
    for name, value in headers:
        each += HEADER_OVERHEAD + len(name.encode()) + len(value or b"")
    return payloads * each + payload_bytes


@dataclass(slots=True, eq=False)
class Request:
    """Payloads that belong together: they enter Kafka in one batch, or none of them does."""

    payloads: Sequence[bytes]
    """Slices of the body, which they keep; empty when they are packed."""
    count: int
    """How many payloads they were."""
    headers: Headers
    size: int
    """Bytes in a record batch, as record_bytes tells."""
    reserved: int
    """Bytes of the memory budget, given back when the request is out of our hands."""
    deadline: float
    outcome: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Batch:
    """What was handed to the client for one partition."""

    partition: int
    requests: list[Request]
    sent_at: float
    size: int


class Budget:
    """What may be held at a time, in bytes and payloads."""

    def __init__(self, max_bytes: int, max_payloads: int) -> None:
        self.max_bytes = max_bytes
        self.max_payloads = max_payloads
        self.bytes = 0
        self.payloads = 0
        self.promised = 0
        """Of the bytes: those of long bodies that are still to come."""

    def has_room(self, size: int, payloads: int = 0) -> bool:
        return self.bytes + size <= self.max_bytes and self.payloads + payloads <= self.max_payloads

    def may_promise(self, size: int) -> bool:
        """Is there room for a long body? For one alone if it fits at all, for more in half of the budget."""
        return self.has_room(size, 1) and (not self.promised or self.promised + size <= self.max_bytes // 2)

    def promise(self, size: int) -> None:
        self.bytes += size
        self.promised += size

    def take(self, size: int, payloads: int = 0) -> None:
        self.bytes += size
        self.payloads += payloads

    def give_back(self, size: int, payloads: int = 0) -> None:
        self.bytes -= size
        self.payloads -= payloads
        assert self.bytes >= 0
        assert self.payloads >= 0


class Batcher:
    """Requests wait in one line, in the order they came; whole requests leave it, a batch at a time.

    A partition has one batch under way at a time, so that the client never has to hold a second. A batch leaves

    - when it is as full as `full` says and a partition is free, up to `MAX_FLIGHTS` at a time;
    - when its first request has lingered and fewer than `lanes` batches are under way (a lane is a broker: the client
      asks each for one thing at a time). So batches fill by themselves while Kafka is busy.

    A batch that has been under way for `patience` seconds is stuck and holds back no other.
    """

    MAX_FLIGHTS: Final = 8

    def __init__(self, *, linger: float, full: int, patience: float = 0.25) -> None:
        self.linger = linger
        self._full = full
        self._patience = patience
        self._line: deque[tuple[float, Request]] = deque()
        self._line_bytes = 0
        self._flights: dict[int, Batch] = {}
        self._last_partition = -1

    def __repr__(self) -> str:
        return f"<Batcher waiting={len(self._line)} ({self._line_bytes} bytes) under_way={sorted(self._flights)}>"

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def flights(self) -> list[Batch]:
        return list(self._flights.values())

    @property
    def is_full(self) -> bool:
        return self._line_bytes + BATCH_OVERHEAD >= self._full

    def add(self, request: Request, now: float) -> None:
        self._line.append((now, request))
        self._line_bytes += request.size

    def next(self, now: float, partitions: Sequence[int], lanes: int) -> Batch | None:
        """The batch to be sent now, if any; ask again until there is none. `partitions` are those with a leader."""
        if not self._line or not self._may_leave(now, lanes):
            return None
        partition = self._free_partition(partitions)
        if partition is None:
            return None
        requests: list[Request] = []
        size = BATCH_OVERHEAD
        while self._line:
            request = self._line[0][1]
            if requests and size + request.size > self._full:
                break
            self._drop_head()
            requests.append(request)
            size += request.size
        batch = Batch(partition, requests, now, size)
        self._flights[partition] = batch
        self._last_partition = partition
        return batch

    def wake_at(self, now: float) -> float | None:
        """When next() may have another answer though nothing happened: a linger ends, or a batch proves stuck."""
        if not self._line:
            return None
        lingered = self._line[0][0] + self.linger
        if lingered > now:
            return lingered
        stuck = [batch.sent_at + self._patience for batch in self._fresh(now)]
        return min(stuck, default=None)

    def landed(self, batch: Batch) -> None:
        """The batch is out of the client's hands, whatever became of it."""
        if self._flights.get(batch.partition) is batch:
            del self._flights[batch.partition]

    def forget_flights(self) -> None:
        """The client they were handed to is given up: its partitions are free for the next one."""
        self._flights.clear()

    def late(self, now: float) -> list[Request]:
        """Takes the requests out of the line whose time is up; they never were handed over."""
        late: list[Request] = []
        while self._line and self._line[0][1].deadline <= now:
            late.append(self._drop_head())
        return late

    def hurry(self, deadline: float) -> None:
        """Nobody waits for company any more, and no request beyond `deadline`."""
        self.linger = 0.0
        under_way = [request for batch in self._flights.values() for request in batch.requests]
        for request in [*under_way, *(request for _, request in self._line)]:
            request.deadline = min(request.deadline, deadline)

    def _drop_head(self) -> Request:
        _, request = self._line.popleft()
        self._line_bytes -= request.size
        return request

    def _fresh(self, now: float) -> list[Batch]:
        return [batch for batch in self._flights.values() if now < batch.sent_at + self._patience]

    def _may_leave(self, now: float, lanes: int) -> bool:
        under_way = len(self._fresh(now)) if self._flights else 0
        if self.is_full:
            return under_way < max(self.MAX_FLIGHTS, lanes)
        return under_way < lanes and self._line[0][0] + self.linger <= now

    def _free_partition(self, partitions: Sequence[int]) -> int | None:
        """The next free one after the last used, round and round."""
        free = [partition for partition in partitions if partition not in self._flights]
        after = [partition for partition in free if partition > self._last_partition]
        return min(after or free, default=None)
