"""Pressure and room: partitions that rest go on when there is room, whatever the fetch of the others does."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition

from consumer.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Collection

P = TopicPartition("t", 0)


class Source:
    """Its fetches never come back."""

    def __init__(self) -> None:
        self.fetching = asyncio.Event()
        self.done: list[tuple[str, Any]] = []

    async def fetch(self, timeout: float, only: TopicPartition | None = None) -> list[Any]:
        self.fetching.set()
        await asyncio.Event().wait()
        return []

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.done.append(("seek", (partition, offset)))

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.done.append(("pause", list(partitions)))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self.done.append(("resume", list(partitions)))


async def test_lanes_go_on_while_a_fetch_is_under_way() -> None:
    source = Source()
    answers = [([], [P]), ([P], [])]
    dispatcher: Any = SimpleNamespace(
        room=asyncio.Event(),
        lanes={P: SimpleNamespace(position=42)},
        next_due=lambda: None,
        pressure=lambda: answers.pop(0),
    )
    source_: Any = source
    cluster: Any = None
    reader = Reader(source=source_, cluster=cluster, dispatcher=dispatcher, clock=lambda: 0.0)

    async def retake(partition: TopicPartition) -> None: ...

    running = asyncio.create_task(reader.run(retake, lambda: None))
    await source.fetching.wait()
    for _ in range(2):
        dispatcher.room.set()
        while dispatcher.room.is_set():
            await asyncio.sleep(0)
    assert source.done == [("seek", (P, 42)), ("resume", [P]), ("pause", [P])]
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
