"""One pass over a bundle: an attempt for each payload that isn't stored yet, side by side as there are slots."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from consumer.encode.objects import payloads
from consumer.jobs import FAILURES_TO_FAIL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiokafka import TopicPartition

    from consumer.encode.objects import Payload
    from consumer.slots import Slots
    from consumer.uploader import Bundle


class Pass:
    """What fails is left for the next pass, after a pause; what fails a few times in a row ends this one.

    A pass after one that failed begins with a single attempt, which shows whether to go on. `run` is called once.
    """

    def __init__(
        self,
        bundle: Bundle,
        partition: TopicPartition,
        *,
        slots: Slots,
        attempt: Callable[[Payload], Awaitable[bool]],
        wanted: Callable[[], bool],
    ) -> None:
        """`wanted` is asked before each attempt; none starts once it says no."""
        self._bundle = bundle
        self._partition = partition
        self._slots = slots
        self._attempt = attempt
        self._wanted = wanted
        self._left = (it for it in payloads(bundle.content, bundle.key) if it.offset not in bundle.stored)
        self._in_a_row = 0

    async def run(self) -> bool:
        """Whether all of the bundle is stored now. Raises what an attempt raises."""
        bundle = self._bundle
        if bundle.failed:
            bundle.failed.clear()
            await self._turn(1)
            if self._in_a_row:
                return False
        try:
            async with asyncio.TaskGroup() as side_by_side:
                for _ in range(min(self._slots.total, bundle.records - bundle.progress)):
                    side_by_side.create_task(self._turns())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return not bundle.failed and next(self._left, None) is None

    async def _turns(self) -> None:
        while await self._turn(self._bundle.records):
            pass

    async def _turn(self, most: int) -> bool:
        """One attempt after the other, for as long as the slot may be kept. False when there is none left to make."""
        await self._slots.take(self._partition, self._bundle.order)
        try:
            for _ in range(most):
                if not await self._one():
                    return False
                if not self._slots.keep(self._partition):
                    break
            return True
        finally:
            self._slots.give(self._partition)

    async def _one(self) -> bool:
        if self._in_a_row >= FAILURES_TO_FAIL or not self._wanted():
            return False
        payload = next(self._left, None)
        if payload is None:
            return False
        if await self._attempt(payload):
            self._bundle.stored.add(payload.offset)
            self._in_a_row = 0
        else:
            self._bundle.failed.add(payload.offset)
            self._in_a_row += 1
        return True
