"""The port: a Kafka, real or of memory, as the cases drive it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumer.source import Source
    from headrace.kafka import KafkaCluster


class Connection(Protocol):
    """One connection to the group's coordinator. Requests on it are answered in their order."""

    async def ask(self, request: Any) -> Any: ...


class Transaction(Protocol):
    async def append(self, *values: bytes) -> None: ...

    async def end(self, *, commit: bool) -> None: ...


class Side(Protocol):
    """The fake or the real Kafka: a topic of one partition and a group, both of the case's own."""

    topic: str
    group: str
    cluster: KafkaCluster

    async def connect(self) -> Connection: ...

    def source(self, *, session_seconds: float) -> Source: ...

    async def append(self, *values: bytes) -> None: ...

    async def begin(self) -> Transaction: ...

    async def compact(self, *values: bytes) -> int:
        """Produce these under one key each time until some record below the last is gone; returns the log's end."""
        ...

    async def delete_before(self, offset: int) -> None: ...

    async def delete_topic(self) -> None: ...

    async def make_topic(self) -> None: ...

    async def delete_offset(self) -> None:
        """kafka-consumer-groups.sh --delete-offsets."""
        ...

    async def delete_group(self) -> None: ...


CASES: dict[str, Callable[[Any], Awaitable[None]]] = {}


def case(body: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    CASES[body.__name__] = body
    return body
