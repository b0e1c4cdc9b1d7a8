"""What stands in S3 already: the LIST of a topic's objects, and which of its chunks are whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from consumer.takeover import Covered
from headrace.archive import patiently, survey
from headrace.coverage import is_complete, told_objects
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from headrace.objects import Range
    from headrace.s3 import ObjectStore

HEADS_AT_A_TIME: Final = 32


async def standing(
    store: ObjectStore, *, prefix: str, topic: str, above: Mapping[int, int], last: int = 0
) -> dict[int, list[Covered]]:
    """The chunks of each partition in order. Those that reach `above` an offset tell whether they are whole; so do the
    `last` ones, wherever they lie.

    One LIST for the topic, one HEAD for each object of these. Raises the store's errors.
    """
    found = await survey(store, prefix=prefix, topic=topic)
    gate = asyncio.Semaphore(HEADS_AT_A_TIME)

    async def chunk(offsets: Range, keys: list[str]) -> Covered:
        numbers, records, layouts = [], {}, set()
        for key in keys:
            async with gate:
                # Each by itself: were all asked anew for one that failed, thousands would never be through.
                head = await patiently(lambda key=key: store.head(key))  # type: ignore[misc]
            if head is None:
                raise HeadraceError(f"{key} was listed, but is gone now. Who else removes objects here?")
            numbers.append(told_objects(head.metadata))
            records[key] = int(head.metadata.get("headrace-records", "0"))
            layouts.add(head.metadata.get("headrace-layout", ""))
        whole = is_complete(len(keys), numbers)
        return Covered(offsets, whole is not False, min(layouts), records)

    result: dict[int, list[Covered]] = {}
    for partition, floor in above.items():
        by_range: dict[Range, list[str]] = {}
        for item in found.coverage(partition).chunks:
            by_range.setdefault(item.offsets, []).extend(item.keys)
        ordered = sorted(by_range.items())
        first = next((at for at, (offsets, _) in enumerate(ordered) if offsets.end > floor), len(ordered))
        first = max(0, min(first, len(ordered) - last))
        below = [Covered(offsets, True, "") for offsets, _ in ordered[:first]]
        result[partition] = below + await _together([chunk(offsets, keys) for offsets, keys in ordered[first:]])
    return result


async def _together(calls: list[Coroutine[Any, Any, Covered]]) -> list[Covered]:
    """All of them side by side; raises the first error as it is, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
