"""Who has nothing committed must wait for former owners' silence, unless there can have been none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from consumer.layout import Layout
from consumer.offsets import Membership
from consumer.takeover import Takeover
from consumer.taking import Taking
from headrace.kafka import Group, GroupMember, Topic
from headrace.management import Health
from tests.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable

TP = TopicPartition("t", 0)
LAYOUT = Layout("p", "none", "jsonl", "read_committed")


class Kafka:
    """A topic whose group has committed nothing, and these members."""

    def __init__(self, *members: str) -> None:
        self.members = members

    async def topic(self, name: str) -> Topic:
        return Topic(name, "id", "cluster", (0,))

    async def topic_config(self, _name: str, _key: str) -> str:
        return "delete"

    async def log_offsets(self, partitions: Iterable[TopicPartition], _when: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def group(self, name: str) -> Group:
        return Group(name, "Stable", tuple(GroupMember(member, "c", "h", ()) for member in self.members))

    async def fetch(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        return dict.fromkeys(partitions, (-1, ""))


async def take(store: MemoryStore, kafka: Kafka, membership: Membership) -> list[Any]:
    parts: dict[str, Any] = {"store": store, "cluster": kafka, "offsets": SimpleNamespace(fetch=kafka.fetch)}
    taking = Taking(layout=LAYOUT, group="g", upload_timeout_seconds=60, health=Health(), **parts)
    async with asyncio.timeout(2):
        return [decision async for _, decision in taking.take([TP], membership)]


async def test_who_finds_a_new_prefix_need_not_wait() -> None:
    (decision,) = await take(MemoryStore(), Kafka("one"), Membership(1, "one"))
    assert isinstance(decision, Takeover)


async def test_members_that_start_at_once_need_not_wait_for_each_other() -> None:
    """The second member's coming makes another generation; the first one, whose marker it is, is still there."""
    store = MemoryStore()
    await take(store, Kafka("one"), Membership(1, "one"))
    for membership in (Membership(2, "two"), Membership(3, "one")):
        (decision,) = await take(store, Kafka("one", "two"), membership)
        assert isinstance(decision, Takeover)


async def test_a_prefix_whose_first_member_has_gone_is_waited_for() -> None:
    """It may have claimed and uploaded, and the group been deleted since: its generations count from 1 again."""
    store = MemoryStore()
    await take(store, Kafka("one"), Membership(1, "one"))
    with pytest.raises(TimeoutError):
        await take(store, Kafka("two"), Membership(1, "two"))
