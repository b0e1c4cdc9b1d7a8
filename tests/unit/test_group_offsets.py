"""Reading a group's offsets looks at every error: only Kafka's own word counts as "nothing committed"."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError, NodeNotReadyError

import headrace.kafka
from headrace.errors import HeadraceError
from headrace.kafka import KafkaCluster, KafkaUnavailable

TP = TopicPartition("t", 0)


class Broker:
    """Stands in for aiokafka's client: errors like these can't be had from a healthy broker at will."""

    def __init__(self, lookups: list[Any], answers: list[tuple[int, list[Any]]]) -> None:
        self._lookups = lookups
        self._answers = answers
        self.node: int | None = 1

    def get_random_node(self) -> int | None:
        return self.node

    async def coordinator_lookup(self, kind: int, key: str) -> int:
        found = self._lookups.pop(0)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, int)
        return found

    async def send(self, node: int, request: Any) -> Any:
        error_code, topics = self._answers.pop(0)
        return SimpleNamespace(error_code=error_code, topics=topics)


async def read(lookups: list[Any], *answers: tuple[int, list[Any]]) -> tuple[int, str]:
    client: Any = Broker(lookups, list(answers))
    return (await KafkaCluster(client, {}).committed("g", [TP]))[TP]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace.kafka, "_COORDINATOR_PAUSE_SECONDS", 0)


def row(offset: int, metadata: str | None, error_code: int = 0) -> list[Any]:
    return [("t", [(0, offset, metadata, error_code)])]


async def test_what_is_committed_is_told() -> None:
    assert await read([1], (0, row(5, "claims"))) == (5, "claims")
    assert await read([1], (0, row(-1, None))) == (-1, "")


async def test_a_broker_that_tells_of_no_broker_is_not_there_yet() -> None:
    """It has just come up. aiokafka's look-up would fail on an assertion of its own."""
    client: Any = Broker([], [])
    client.node = None
    with pytest.raises(KafkaUnavailable, match="No Kafka broker is known"):
        await KafkaCluster(client, {}).committed("g", [TP])


async def test_a_coordinator_that_moves_is_followed() -> None:
    lookups = [GroupCoordinatorNotAvailableError(), 1, 2, 3]
    assert await read(lookups, (14, []), (16, []), (0, row(5, ""))) == (5, "")


@pytest.mark.parametrize("answer", [(30, []), (0, row(-1, "", 29)), (0, row(-1, "", 3))])
async def test_an_error_is_never_nothing_committed(answer: tuple[int, list[Any]]) -> None:
    with pytest.raises(HeadraceError, match="Group g"):
        await read([1], answer)


async def test_an_answer_without_the_partition_is_never_nothing_committed() -> None:
    with pytest.raises(KafkaUnavailable, match="told no offset of t/0"):
        await read([1], (0, []))


async def test_trouble_with_the_coordinator_is_told() -> None:
    with pytest.raises(HeadraceError, match="GroupAuthorizationFailed"):
        await read([GroupAuthorizationFailedError()])
    with pytest.raises(KafkaUnavailable, match="did not answer"):
        await read([NodeNotReadyError()])
    with pytest.raises(KafkaUnavailable, match="error 15"):
        await read([GroupCoordinatorNotAvailableError()] * 100)
