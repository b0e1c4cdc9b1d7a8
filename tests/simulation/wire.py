"""The wire between one process and the broker: it delays, and it loses requests and answers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.simulation.broker import Broker
    from tests.simulation.virtual import Process

REQUEST_TIMEOUT_SECONDS = 15.0
SENT = {OffsetCommitRequest: "commit sent", JoinGroupRequest: "join sent", SyncGroupRequest: "sync sent"}
MEMBERSHIP = (JoinGroupRequest, SyncGroupRequest, HeartbeatRequest, LeaveGroupRequest)


class Wire:
    """aiokafka's client, as far as its coordinator uses it."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._world = broker.world
        self._process = process
        self._closed = False
        self.cluster = SimpleNamespace(
            partitions_for_topic=lambda _topic: set(broker.logs) or None, add_listener=lambda _listener: None
        )

    async def send(self, node: int, request: Any, group: Any = None) -> Any:
        """As on a real wire: an answer, or an error after which nobody knows whether the request has arrived."""
        world, weather, dice = self._world, self._world.weather, self._world.dice
        if not isinstance(request, MEMBERSHIP) and world.chance(weather.kafka_unconnected):
            world.counts["unconnected"] += 1
            await asyncio.sleep(dice.uniform(0.001, 0.2))
            raise NodeNotReadyError
        if self._closed and not self._process.stopping:
            # aiokafka's client connects anew when it is asked to send: heartbeats would keep what nobody reads.
            world.violated(f"{self._process.name} goes on as a member that it has given up: {request}")
        if moment := SENT.get(type(request)):
            world.passing(moment, self._process)
        future: asyncio.Future[Any] = world.loop.create_future()
        there = dice.uniform(0.0005, 0.004)
        back = dice.uniform(0.0005, 0.004)
        if world.chance(weather.kafka_slow):
            there += dice.uniform(0, 2)
            back += dice.uniform(0, 2)
        broken: float | None = None
        if self._process.cut or world.chance(weather.kafka_lost_request):
            world.counts["request-lost"] += 1
            there, broken = float("inf"), dice.uniform(0, 3)
        elif world.chance(weather.kafka_lost_answer):
            world.counts["answer-lost"] += 1
            back, broken = float("inf"), there + dice.uniform(0, 3)
        elif world.chance(weather.kafka_late_request):
            world.counts["request-late"] += 1
            there, broken = dice.uniform(0.5, 12), dice.uniform(0, 1)

        def answer(response: Any) -> None:
            if back != float("inf"):
                world.later(back, _settle, future, response)

        if there != float("inf"):
            world.later(there, self._broker.handle, self._process, request, answer)
        if broken is not None:
            world.later(broken, _break, future)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                return await future
        except TimeoutError:
            raise RequestTimedOutError from None

    async def coordinator_lookup(self, _kind: Any, _key: str) -> int:
        await asyncio.sleep(self._world.dice.uniform(0.001, 0.01))
        if self._process.cut or self._world.chance(self._world.weather.coordinator_errors):
            raise KafkaConnectionError("no coordinator")
        return 1

    async def ready(self, _node: int, group: Any = None) -> bool:
        return True

    async def force_metadata_update(self) -> bool:
        await asyncio.sleep(0.001)
        return True

    async def close(self) -> None:
        self._closed = True

    def set_topics(self, topics: Iterable[str]) -> None:
        pass

    async def _maybe_wait_metadata(self) -> None:
        pass


def _settle(future: asyncio.Future[Any], response: Any) -> None:
    if not future.done():
        future.set_result(response)


def _break(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(KafkaConnectionError("the connection broke"))
