"""What headrace's own reader makes of the objects of a simulated store, asked in the middle of a step."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace.archive import read_chunk
from headrace.coverage import Chunk
from headrace.objects import parse_key
from headrace.s3 import StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headrace.record import StoredRecord
    from tests.simulation.store import Stored

NOW = datetime(2026, 11, 22, tzinfo=UTC)


class _AtOnce(ThreadPoolExecutor):
    """What is to be done in a thread is done here and now."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


class _Store:
    """As much of an ObjectStore as a reader of one chunk needs."""

    def __init__(self, objects: Mapping[str, Stored]) -> None:
        self._objects = objects

    async def get(self, key: str) -> bytes | None:
        found = self._objects.get(key)
        return None if found is None else found.body

    async def head(self, key: str) -> StoredObject | None:
        found = self._objects.get(key)
        return None if found is None else StoredObject(key, len(found.body), NOW, found.metadata)


_loops: list[asyncio.AbstractEventLoop] = []


def records_of(key: str, objects: Mapping[str, Stored]) -> list[StoredRecord]:
    """The records of one of a chunk's objects. Raises ArchiveError, as the reader does."""
    name = parse_key(key)
    assert name is not None
    if not _loops:
        _loops.append(asyncio.new_event_loop())
        _loops[0].set_default_executor(_AtOnce())
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        reading = read_chunk(_Store(objects), Chunk(name.range, name.suffix, (key,)))  # type: ignore[arg-type]
        return _loops[0].run_until_complete(reading)
    finally:
        asyncio._set_running_loop(running)
