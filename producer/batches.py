"""Which requests go to Kafka next, together, and to which partition. Pure: no client, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from producer.records import Each, Headers, Part

BATCH_OVERHEAD: Final = 61


@dataclass(slots=True, eq=False)
class Request:
    """Payloads that belong together: they enter Kafka in one batch, or none of them does."""

    payloads: Sequence[Any]
    """Slices of the body, which they keep; empty when they are packed. Where there is Each, None is a tombstone."""
    count: int
    """How many payloads they were."""
    headers: Headers | Each
    """The same for all of them, or what goes along with each."""
    size: int
    """Bytes in a record batch, as record_bytes tells."""
    reserved: int
    """Bytes of the memory budget, given back when the request is out of our hands."""
    deadline: float
    outcome: asyncio.Future[None]
    part: Part | None = None
    """Where it came to lie is told here, if anybody wants to know."""


@dataclass(slots=True, eq=False)
class Batch:
    """What was handed to the client for one partition."""

    partition: int
    requests: list[Request]
    sent_at: float
    size: int
    pinned: bool = False
    """No other partition would have done."""


class Line:
    """Requests in the order they came, each with its time, and how many bytes of a batch they take."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests: deque[tuple[float, Request]] = deque()
        self.bytes = 0

    def take(self, full: int) -> tuple[list[Request], int]:
        """What goes into the next batch, up to `full` bytes or one request, and the batch's size."""
        requests: list[Request] = []
        size = BATCH_OVERHEAD
        line = self.requests
        while line:
            request = line[0][1]
            if requests and size + request.size > full:
                break
            line.popleft()
            requests.append(request)
            size += request.size
        self.bytes -= size - BATCH_OVERHEAD
        return requests, size

    def late(self, now: float) -> list[Request]:
        late: list[Request] = []
        while self.requests and self.requests[0][1].deadline <= now:
            _, request = self.requests.popleft()
            self.bytes -= request.size
            late.append(request)
        return late


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
    """Requests for one topic wait in line, in the order they came; whole requests leave it, a batch at a time.

    Those that may go to any partition have one line together, those that have to go to a certain one a line each.
    A partition has one batch under way at a time, so that the client never has to hold a second. A batch leaves

    - when it is as full as `full` says and a partition is free, up to `MAX_FLIGHTS` at a time;
    - when its first request has lingered and fewer than `lanes` batches are under way (a lane is a broker: the client
      asks each for one thing at a time). So batches fill by themselves while Kafka is busy. Batches for certain
      partitions leave in waves: the client puts into one question what is there at the same moment.

    A batch that has been under way for `patience` seconds is stuck and holds back no other. Of two lines that may go,
    the one goes first whose head has waited longer.
    """

    MAX_FLIGHTS: Final = 8

    def __init__(self, *, linger: float, full: int, patience: float = 0.25) -> None:
        self.linger = linger
        self._full = full
        self._patience = patience
        self._line = Line()
        self._pinned: dict[int, Line] = {}
        """By partition; none of them is empty. Roughly in the order of their heads."""
        self._flights: dict[int, Batch] = {}
        self._wave_at = float("-inf")
        self._last_partition = -1

    def __repr__(self) -> str:
        lines = self._lines()
        size = sum(line.bytes for line in lines)
        return f"<Batcher waiting={self.waiting} ({size} bytes) under_way={sorted(self._flights)}>"

    @property
    def waiting(self) -> int:
        return sum(len(line.requests) for line in self._lines())

    @property
    def flights(self) -> list[Batch]:
        return list(self._flights.values())

    @property
    def is_full(self) -> bool:
        """Is a batch of what may go anywhere?"""
        return self._line.bytes + BATCH_OVERHEAD >= self._full

    def add(self, request: Request, now: float) -> None:
        """A request that may go to any partition."""
        line = self._line
        line.requests.append((now, request))
        line.bytes += request.size

    def pin(self, request: Request, partition: int, now: float) -> None:
        """A request for this partition and no other."""
        line = self._pinned.get(partition)
        if line is None:
            line = self._pinned[partition] = Line()
        line.requests.append((now, request))
        line.bytes += request.size

    def pinned_bytes(self, partition: int) -> int:
        """What waits for a partition."""
        line = self._pinned.get(partition)
        return 0 if line is None else line.bytes

    def next(self, now: float, partitions: Sequence[int], lanes: int) -> Batch | None:
        """The batch to be sent now, if any; ask again until there is none. `partitions` are those with a leader."""
        line = self._line
        partition = self._free_partition(partitions) if line.requests and self._may_leave(now, lanes) else None
        if self._pinned:
            pinned = self._due_pinned(now, partitions, lanes)
            if pinned is not None and (partition is None or self._pinned[pinned].requests[0][0] <= line.requests[0][0]):
                return self._leave_pinned(pinned, now)
        if partition is None:
            return None
        self._last_partition = partition
        requests, size = line.take(self._full)
        batch = self._flights[partition] = Batch(partition, requests, now, size)
        return batch

    def wake_at(self, now: float) -> float | None:
        """When next() may have another answer though nothing happened: a linger ends, or a batch proves stuck."""
        line = self._line
        if self._pinned:
            lingering = [head.requests[0][0] + self.linger for head in self._lines() if head.requests]
        elif line.requests:
            lingering = [line.requests[0][0] + self.linger]
        else:
            return None
        times = [lingered for lingered in lingering if lingered > now]
        if len(times) < len(lingering):
            times += [batch.sent_at + self._patience for batch in self._fresh(now)]
        return min(times, default=None)

    def landed(self, batch: Batch) -> None:
        """The batch is out of the client's hands, whatever became of it."""
        if self._flights.get(batch.partition) is batch:
            del self._flights[batch.partition]

    def forget_flights(self) -> None:
        """The client they were handed to is given up: its partitions are free for the next one."""
        self._flights.clear()

    def late(self, now: float) -> list[Request]:
        """Takes the requests out of the lines whose time is up; they never were handed over."""
        late = self._line.late(now)
        for partition, line in list(self._pinned.items()):
            late += line.late(now)
            if not line.requests:
                del self._pinned[partition]
        return late

    def hurry(self, deadline: float) -> None:
        """Nobody waits for company any more, and no request beyond `deadline`."""
        self.linger = 0.0
        under_way = [request for batch in self._flights.values() for request in batch.requests]
        for request in [*under_way, *(request for line in self._lines() for _, request in line.requests)]:
            request.deadline = min(request.deadline, deadline)

    def _lines(self) -> list[Line]:
        return [self._line, *self._pinned.values()]

    def _fresh(self, now: float) -> list[Batch]:
        return [batch for batch in self._flights.values() if now < batch.sent_at + self._patience]

    def _may_leave(self, now: float, lanes: int) -> bool:
        under_way = self._under_way(now) if self._flights else 0
        if self.is_full:
            return under_way < max(self.MAX_FLIGHTS, lanes)
        return under_way < lanes and self._line.requests[0][0] + self.linger <= now

    def _under_way(self, now: float) -> int:
        """Batches that others wait for; those of this moment's wave share its question to the broker."""
        fresh = self._fresh(now)
        if self._wave_at != now:
            return len(fresh)
        return sum(not (batch.pinned and batch.sent_at == now) for batch in fresh)

    def _free_partition(self, partitions: Sequence[int]) -> int | None:
        """The next free one after the last used, round and round."""
        free = [partition for partition in partitions if partition not in self._flights]
        after = [partition for partition in free if partition > self._last_partition]
        return min(after or free, default=None)

    def _due_pinned(self, now: float, partitions: Sequence[int], lanes: int) -> int | None:
        """A partition whose line may leave; one without a leader waits for it."""
        fresh = self._fresh(now)
        has_lane = sum(batch.sent_at < now for batch in fresh) < lanes
        has_room = len(fresh) < max(self.MAX_FLIGHTS, lanes)
        for partition, line in self._pinned.items():
            if partition in self._flights or partition not in partitions:
                continue
            is_full = line.bytes + BATCH_OVERHEAD >= self._full
            if (has_lane and line.requests[0][0] + self.linger <= now) or (has_room and is_full):
                return partition
        return None

    def _leave_pinned(self, partition: int, now: float) -> Batch:
        line = self._pinned.pop(partition)
        requests, size = line.take(self._full)
        if line.requests:
            self._pinned[partition] = line  # behind the others
        batch = self._flights[partition] = Batch(partition, requests, now, size, pinned=True)
        self._wave_at = now
        return batch
