"""MAX_WORKERS attempts at a time, over all chunks of an assignment, where one chunk may want many at once.

The rule of consumer/jobs holds here, too: a partition that has as many slots as are still free gets no more, so that a
newcomer always finds some; one that is alone may have them all. Within a partition older chunks come first, so that
as few as can be are half-way when a successor has to repeat them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    _Waiting = tuple[int, int, asyncio.Future[None]]


class Slots:
    """Who may try now. A slot is held from `take` (or `keep`) to `give`."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._taken: Counter[TopicPartition] = Counter()
        """No partition stands here that has none."""
        self._waiting: dict[TopicPartition, list[_Waiting]] = {}
        """Heaps by (order, number); none is empty."""
        self._numbers = itertools.count()

    async def take(self, partition: TopicPartition, order: int) -> None:
        """Wait for a slot; in one partition the lowest `order` is first. Cancelled, it has none."""
        if not self._waiting and self._may_have(partition, self._taken[partition], self._free):
            self._hand_to(partition)
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting.setdefault(partition, []), (order, next(self._numbers), turn))
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(partition)
            else:
                turn.cancel()
                self._grant()  # who waited for this one only
            raise

    def give(self, partition: TopicPartition) -> None:
        """A slot is free again."""
        self._free += 1
        self._taken[partition] -= 1
        if not self._taken[partition]:
            del self._taken[partition]
        self._grant()

    def keep(self, partition: TopicPartition, order: int) -> bool:
        """May who holds a slot use it once more? Otherwise it gives it, and waits like the others.

        Not where an older chunk of its own partition waits.
        """
        if (own := self._waiting.get(partition)) and own[0][0] < order:
            return False
        if self._taken[partition] == self.total - self._free and not self._waiting.keys() - {partition}:
            return True
        taken, free = self._taken[partition] - 1, self._free + 1
        if not self._may_have(partition, taken, free):
            return False
        return all(self._taken[other] >= min(taken, free) for other in self._waiting if other != partition)

    def _may_have(self, partition: TopicPartition, taken: int, free: int) -> bool:
        """May it have one more, where it has `taken` and `free` are left?"""
        return free > 0 and (taken < free or not (self._taken.keys() | self._waiting.keys()) - {partition})

    def _hand_to(self, partition: TopicPartition) -> None:
        self._free -= 1
        self._taken[partition] += 1

    def _grant(self) -> None:
        """Hand out what may be had: to the partition with the fewest first."""
        while self._free and self._waiting:
            able = [other for other in self._waiting if self._may_have(other, self._taken[other], self._free)]
            if not able:
                return
            chosen = min(able, key=self._taken.__getitem__)
            turns = self._waiting[chosen]
            _, _, turn = heapq.heappop(turns)
            if not turns:
                del self._waiting[chosen]
            if not turn.cancelled():
                self._hand_to(chosen)
                turn.set_result(None)
