"""The simulation's Kafka keeps what the real one keeps: the same cases as tests/integration/test_kafka_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from consumer.source import Source
from headrace.record import StoredRecord
from tests.kafka_contract import CASES
from tests.simulation.broker import Broker
from tests.simulation.client import Cluster, Consumer
from tests.simulation.group import GroupCoordinator
from tests.simulation.harness import virtual_time
from tests.simulation.logs import Log
from tests.simulation.virtual import Process, Stuck
from tests.simulation.wire import Wire
from tests.simulation.world import World

if TYPE_CHECKING:
    from headrace.kafka import KafkaCluster


class Connection:
    def __init__(self, broker: Broker) -> None:
        self._wire = Wire(broker, Process("w"))

    async def ask(self, request: Any) -> Any:
        return await self._wire.send(1, request)


class Transaction:
    def __init__(self, side: Side) -> None:
        self._side = side
        self._log = side.broker.logs[0]
        self._first = self._log.end
        self._values: list[bytes] = []

    async def append(self, *values: bytes) -> None:
        self._log.open.append(self._first)
        for value in values:
            self._side.put(value)

    async def end(self, *, commit: bool) -> None:
        self._log.open.remove(self._first)
        if not commit:
            self._log.abort(self._first)
        self._log.mark()
        self._side.broker.grown()


class Side:
    topic, group = "t", "g"

    def __init__(self, world: World) -> None:
        self.world = world
        coordinator = GroupCoordinator(world, lambda *_: None)
        self.broker = Broker(world, self.topic, {0: Log(0)}, coordinator)
        self.cluster: KafkaCluster = Cluster(self.broker, Process("asks"))  # type: ignore[assignment]
        self._names = count()

    async def connect(self) -> Connection:
        return Connection(self.broker)

    def source(self, *, session_seconds: float) -> Source:
        process = Process(f"w{next(self._names)}")
        return Source(
            options={},
            group=self.group,
            topics=[self.topic],
            isolation_level="read_committed",
            session_timeout_seconds=session_seconds,
            give_back_seconds=1,
            clock=self.world.loop.time,
            new_consumer=lambda **options: Consumer(self.broker, process, lambda _: None, **options),
        )

    def put(self, value: bytes) -> None:
        log = self.broker.logs[0]
        log.append(StoredRecord(log.end, self.world.wall_ms(), None, value))

    async def append(self, *values: bytes) -> None:
        for value in values:
            self.put(value)
        self.broker.grown()

    async def begin(self) -> Transaction:
        return Transaction(self)

    async def compact(self, *values: bytes) -> int:
        await self.append(*values)
        log = self.broker.logs[0]
        log.compact({record.offset for record in log.records[:-1]})
        return log.end

    async def delete_before(self, offset: int) -> None:
        self.broker.logs[0].delete_before(offset)

    async def delete_topic(self) -> None:
        self.broker.delete_topic()

    async def make_topic(self) -> None:
        self.broker.make_topic({0: Log(0)})

    async def delete_offset(self) -> None:
        self.broker.group.offsets.clear()

    async def delete_group(self) -> None:
        self.broker.group.delete()


@pytest.mark.parametrize("name", CASES)
def test_as_kafka_does(name: str) -> None:
    world = World(1)
    with virtual_time(world):
        try:
            world.loop.run_until_complete(CASES[name](Side(world)))
        finally:
            for task in asyncio.all_tasks(world.loop):
                task.cancel()
            with contextlib.suppress(Stuck):
                world.loop.run_until_complete(asyncio.sleep(100))
            world.loop.close()
    assert world.violation is None
