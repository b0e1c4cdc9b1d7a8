"""One pass over what is to be stored: an attempt for each thing, side by side as there are slots."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from consumer.jobs import FAILURES_TO_FAIL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from aiokafka import TopicPartition

    from consumer.slots import Slots

Item = TypeVar("Item")


class Pass(Generic[Item]):
    """What fails is left for the next pass, after a pause; what fails a few times in a row ends this one.

    A pass after one that failed begins with a single attempt, which shows whether to go on. `run` is called once.
    """

    def __init__(
        self,
        items: Iterable[Item],
        count: int,
        *,
        partition: TopicPartition,
        order: int,
        slots: Slots,
        attempt: Callable[[Item], Awaitable[bool]],
        wanted: Callable[[], bool],
        after_failure: bool,
    ) -> None:
        """`count`: how many items there are. `wanted` is asked before each attempt; none starts once it says no."""
        self._left = iter(items)
        self._count = count
        self._partition = partition
        self._order = order
        self._slots = slots
        self._attempt = attempt
        self._wanted = wanted
        self._after_failure = after_failure
        self._in_a_row = 0
        self._failed = False
        self._over = False
        """Turns have ended: what succeeds late doesn't bring them back, and the few left would go on for ever."""

    async def run(self) -> bool:
        """Whether all of it is stored now. Raises what an attempt raises."""
        if self._after_failure:
            await self._turn(1)
            if self._in_a_row:
                return False
        try:
            async with asyncio.TaskGroup() as side_by_side:
                for _ in range(min(self._slots.total, self._count)):
                    side_by_side.create_task(self._turns())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return not self._failed and next(self._left, None) is None

    async def _turns(self) -> None:
        while await self._turn(self._count):
            pass

    async def _turn(self, most: int) -> bool:
        """One attempt after the other, for as long as the slot may be kept. False when there is none left to make."""
        await self._slots.take(self._partition, self._order)
        try:
            for _ in range(most):
                if not await self._one():
                    return False
                if not self._slots.keep(self._partition, self._order):
                    break
            return True
        finally:
            self._slots.give(self._partition)

    async def _one(self) -> bool:
        if self._over or not self._wanted():
            return False
        item = next(self._left, None)
        if item is None:
            return False
        if await self._attempt(item):
            self._in_a_row = 0
        else:
            self._failed = True
            self._in_a_row += 1
            self._over |= self._in_a_row >= FAILURES_TO_FAIL
        return True
