"""Slots: never more than there are, always some for a newcomer, and none is lost by who is cancelled."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from consumer.slots import Slots

A, B, C = (TopicPartition("t", number) for number in range(3))


async def taken(slots: Slots, partition: TopicPartition, order: int = 0) -> bool:
    """Whether a slot may be had at once; then it is."""
    task = asyncio.create_task(slots.take(partition, order))
    await asyncio.sleep(0)
    if task.done():
        return True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return False


async def wait(slots: Slots, partition: TopicPartition, order: int = 0) -> asyncio.Task[None]:
    task = asyncio.create_task(slots.take(partition, order))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_who_is_alone_may_have_all_of_them() -> None:
    slots = Slots(4)
    assert [await taken(slots, A) for _ in range(5)] == [True, True, True, True, False]
    assert slots.keep(A, 0)


async def test_who_has_as_much_as_is_free_gets_no_more() -> None:
    slots = Slots(8)
    assert await taken(slots, A)
    assert [await taken(slots, B) for _ in range(5)] == [True, True, True, True, False]
    assert [await taken(slots, A) for _ in range(2)] == [True, False]
    assert await taken(slots, C)


async def test_who_has_all_makes_room_for_a_newcomer() -> None:
    slots = Slots(4)
    for _ in range(4):
        await slots.take(A, 0)
    newcomer = await wait(slots, B)
    assert not slots.keep(A, 0)
    slots.give(A)
    await newcomer
    assert not slots.keep(A, 0)  # three of four, and none is free
    slots.give(A)
    assert slots.keep(B, 0)
    assert not await taken(slots, A)
    slots.give(B)
    assert slots.keep(A, 0)


async def test_an_older_chunk_is_first() -> None:
    slots = Slots(1)
    await slots.take(A, 0)
    waiting = {order: await wait(slots, A, order) for order in (500, 100, 300)}
    assert slots.keep(A, 0)
    for order in (100, 300, 500):
        slots.give(A)
        await waiting[order]


async def test_a_younger_chunk_makes_way_for_an_older_one() -> None:
    """Who has come back from a pause would otherwise wait for all that the younger ones have to store."""
    slots = Slots(2)
    for _ in range(2):
        await slots.take(A, 500)
    older, younger = await wait(slots, A, 100), await wait(slots, A, 900)
    assert slots.keep(A, 100)
    assert not slots.keep(A, 500)
    slots.give(A)
    await older
    assert slots.keep(A, 500)
    slots.give(A)
    await younger


async def test_who_is_cancelled_while_it_waits_takes_no_turn() -> None:
    slots = Slots(1)
    await slots.take(A, 0)
    gone, next_ = await wait(slots, B), await wait(slots, C)
    gone.cancel()
    await asyncio.sleep(0)
    slots.give(A)
    await next_


async def test_a_slot_that_came_too_late_goes_on_to_the_next() -> None:
    slots = Slots(1)
    await slots.take(A, 0)
    late, next_ = await wait(slots, B), await wait(slots, C)
    slots.give(A)
    late.cancel()  # it was granted in this very moment
    with pytest.raises(asyncio.CancelledError):
        await late
    await next_
    slots.give(C)
    assert await taken(slots, A)


async def test_who_goes_lets_others_be_alone() -> None:
    """Of four slots one has two: it gets no more while somebody else is there."""
    slots = Slots(4)
    for _ in range(2):
        await slots.take(A, 0)
    await slots.take(B, 0)
    more = await wait(slots, A)
    slots.give(B)
    await more
    assert await taken(slots, A)


@given(
    st.lists(st.tuples(st.sampled_from("tkgc"), st.integers(0, 2), st.integers(0, 3)), max_size=60), st.integers(1, 6)
)
def test_slots_are_neither_made_nor_lost(steps: list[tuple[str, int, int]], total: int) -> None:
    """Whatever is asked in whatever order: no more are held than there are, and in the end all can be had."""

    async def run() -> None:
        slots = Slots(total)
        held = [0, 0, 0]
        waiting: list[list[asyncio.Task[None]]] = [[], [], []]
        partitions = (A, B, C)

        async def settle() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            for number, tasks in enumerate(waiting):
                held[number] += sum(task.done() and not task.cancelled() for task in tasks)
                waiting[number] = [task for task in tasks if not task.done()]
            assert sum(held) <= total
            alone = [number for number in range(3) if held[number] or waiting[number]]
            if any(waiting) and sum(held) < total:  # nobody waits for nothing
                assert len(alone) > 1
                assert all(held[number] >= total - sum(held) for number in range(3) if waiting[number])

        for step, number, order in steps:
            if step == "t":
                waiting[number].append(asyncio.create_task(slots.take(partitions[number], order)))
            elif step == "c" and waiting[number]:
                waiting[number][order % len(waiting[number])].cancel()
            elif held[number] and (step == "g" or not slots.keep(partitions[number], order)):
                held[number] -= 1
                slots.give(partitions[number])
            await settle()
        for number, partition in enumerate(partitions):
            for task in waiting[number]:
                task.cancel()
            await settle()
            for _ in range(held[number]):
                slots.give(partition)
            held[number] = 0
        await settle()
        assert [await taken(slots, A) for _ in range(total + 1)] == [True] * total + [False]

    asyncio.run(run())
