"""Kafka's one broker: what it answers to each request of the group's members."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.group import GroupCoordinator
    from tests.simulation.logs import Log
    from tests.simulation.virtual import Process
    from tests.simulation.world import World


class Broker:
    """The one broker: its logs and its group. Requests come over `Wire`s."""

    def __init__(self, world: World, topic: str, logs: dict[int, Log], group: GroupCoordinator) -> None:
        self.world = world
        self.topic = topic
        self.logs = logs
        self.group = group
        self.incarnation = 1
        """Of the topic: deleting it and making it anew gives it another id."""
        self.missing = False
        self.compacting = False
        self.most_records = 50
        group.exists = lambda tp: tp.topic == topic and tp.partition in self.logs
        self._readers: list[asyncio.Future[None]] = []

    @property
    def topic_id(self) -> str:
        return f"topic-{self.incarnation}"

    def delete_topic(self) -> None:
        """With it go the offsets that groups have committed for it."""
        self.missing = True
        self.logs = {}
        self.group.offsets.clear()

    def make_topic(self, logs: dict[int, Log]) -> None:
        self.incarnation += 1
        self.missing = False
        self.logs = logs

    def grown(self) -> None:
        """There is more to be read."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()

    def growth(self) -> asyncio.Future[None]:
        future = self.world.loop.create_future()
        self._readers.append(future)
        return future

    def handle(self, process: Process, request: Any, reply: Any) -> None:
        """A request has arrived. `reply` goes back over the wire it came by."""
        world, group = self.world, self.group
        match request:
            case JoinGroupRequest():
                group.join(request, reply, process.name)
            case SyncGroupRequest():
                group.sync(request, reply)
            case HeartbeatRequest():
                reply(SimpleNamespace(error_code=group.heartbeat(request)))
            case LeaveGroupRequest():
                reply(SimpleNamespace(error_code=group.leave(request._member_id)))
            case OffsetFetchRequest():
                reply(self._fetch_offsets(request))
            case OffsetCommitRequest():
                world.passing("commit arrives", process)
                reply(self._commit(process, request))
                world.passing("commit stored", process)
            case _:
                raise AssertionError(request)

    def _commit(self, process: Process, request: OffsetCommitRequest) -> SimpleNamespace:
        world = self.world
        code = self.group.commit(request, process.name)
        codes: dict[int, int] = {}
        if code == 0 and world.chance(world.weather.coordinator_errors):
            code = world.dice.choice((7, 14, 15, 16))
            if code in {7, 15} and world.chance(0.5):  # it is in the log, though the answer does not say so
                self.group.store(request, process.name)
        elif code == 0:
            codes = self.group.store(request, process.name)
        if code:
            world.say(process.name, f"commit-refused {code} generation={request._consumer_group_generation_id}")
        rows = [(topic, [(p, codes.get(p, code)) for p, *_ in parts]) for topic, parts in request._topics]
        return SimpleNamespace(topics=rows)

    def _fetch_offsets(self, request: OffsetFetchRequest) -> SimpleNamespace:
        world = self.world
        top, kind = 0, None
        if world.chance(world.weather.offset_errors):
            world.counts["offsets-refused"] += 1
            kind = world.dice.choice(("top", "rows", "absent"))
            top = world.dice.choice((14, 15, 16)) if kind == "top" else 0
        topics = []
        for topic, partitions in request._partitions or ():
            rows = []
            for number in partitions:
                found = self.group.offsets.get(TopicPartition(topic, number))
                if kind == "rows":
                    rows.append((number, -1, "", world.dice.choice((14, 15, 16))))
                elif kind is None:
                    rows.append((number, -1, "", 0) if found is None else (number, found.offset, found.metadata, 0))
            topics.append((topic, rows))
        return SimpleNamespace(error_code=top, topics=topics)
