"""What lies outside a topic's folder and belongs to its objects: payloads of their own, and what is beside lines.

Are the payloads there that indexes tell of (FORMAT=object)? A LIST of them, a GET an index, no HEAD of a payload.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from headrace.archive import ArchiveError, decode_index, index_lines, patiently
from headrace.objects import beside_folder, parse_key, payload_prefix
from headrace.tally import Tally, Total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headrace.coverage import Coverage
    from headrace.s3 import ObjectStore

INDEXES_AT_A_TIME: Final = 8
"""As they are stored; one of them at a time is inflated."""
MOST_NAMED: Final = 10_000
"""Payloads of a topic that are named when they are gone. All of them are counted."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A payload that isn't there, or has another size than its index tells: `present`, None where there is nothing."""

    offset: int
    key: str
    size: int
    present: int | None


@dataclass(slots=True)
class Inventory:
    """Of one partition: how many payloads its indexes tell of, how many of these are gone, and the first of them.

    `unreadable`: what is wrong with indexes that can't tell.
    """

    told: int = 0
    gone: int = 0
    named: list[Gone] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not (self.gone or self.unreadable)

    def problems(self, place: str) -> Iterator[str]:
        """A sentence each."""
        yield from self.unreadable
        for it in self.named:
            what = "is gone" if it.present is None else f"has {it.present:,} bytes, {it.size:,} were stored"
            yield f"{place}: the payload of offset {it.offset} {what}: {it.key}"
        if more := self.gone - len(self.named):
            yield f"{place}: {more:,} more payloads are gone"

    def as_json(self) -> dict[str, Any]:
        named = [{"offset": it.offset, "key": it.key, "size": it.size, "present_size": it.present} for it in self.named]
        return {"told": self.told, "gone": self.gone, "named": named, "unreadable": self.unreadable}


async def take_inventory(
    store: ObjectStore,
    *,
    prefix: str,
    topic: str,
    partitions: Mapping[int, Coverage],
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[int, Inventory]:
    """Of each partition that has indexes; `partitions` were listed before. Memory grows with the indexes alone.

    `progress` is told how many of them are compared. Raises S3Unavailable or S3Refused.
    """
    indexes = [(number, key) for number, coverage in partitions.items() for key in _indexes(coverage)]
    if not indexes:
        return {}
    tally = await patiently(lambda: _listed(store, Tally(prefix, topic, (key for _, key in indexes))))
    found = {number: Inventory() for number, _ in indexes}
    clerk = _Clerk(store, tally)
    waiting = iter(indexes)
    done = 0

    async def work() -> None:
        nonlocal done
        for number, key in waiting:
            await clerk.compare(key, found[number])
            done += 1
            if done % 100 == 0:
                progress(done, len(indexes))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(INDEXES_AT_A_TIME, len(indexes))):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    for inventory in found.values():
        inventory.named.sort(key=lambda it: (it.offset, it.key))
        inventory.unreadable.sort()
    return found


async def list_beside(store: ObjectStore, prefix: str, topic: str) -> frozenset[str]:
    """The keys of all that lies beside a topic's lines (FORMAT=raw): about one for each of its objects."""

    async def attempt() -> frozenset[str]:
        return frozenset([item.key async for item in store.list(beside_folder(prefix, topic))])

    return await patiently(attempt)


def _indexes(coverage: Coverage) -> Iterator[str]:
    for chunk in coverage.chunks:
        for key in chunk.keys:
            if (name := parse_key(key)) is not None and name.is_index:
                yield key


async def _listed(store: ObjectStore, tally: Tally) -> Tally:
    async for item in store.list(tally.folder):
        tally.show(item.key, item.size)
    return tally


class _Clerk:
    """Compares one index after the other with a tally."""

    def __init__(self, store: ObjectStore, tally: Tally) -> None:
        self._store = store
        self._tally = tally
        self._one = asyncio.Lock()
        self._named = 0

    async def compare(self, key: str, inventory: Inventory) -> None:
        body = await patiently(lambda: self._store.get(key))
        try:
            if body is None:
                raise ArchiveError("It was listed, but is gone now.")
            async with self._one:
                total = await asyncio.to_thread(_told, key, body)
                inventory.told += total.count
                if not self._tally.agrees(key, total):
                    await self._look_closer(key, body, inventory)
        except ArchiveError as error:
            inventory.unreadable.append(f"{key}: {error}")

    async def _look_closer(self, key: str, body: bytes, inventory: Inventory) -> None:
        """LIST what this index tells of, and name what isn't there."""
        lacking = await asyncio.to_thread(lambda: {name: (offset, size) for offset, name, size in _payloads(key, body)})
        place = _shared(min(lacking), max(lacking)) if lacking else ""
        other: dict[str, int] = {}

        async def seen() -> None:
            async for item in self._store.list(place):
                told = lacking.get(item.key)
                if told is None:
                    continue
                if told[1] == item.size:
                    del lacking[item.key]
                else:
                    other[item.key] = item.size

        if lacking:
            await patiently(seen)
        inventory.gone += len(lacking)
        for name in sorted(lacking)[: MOST_NAMED - self._named]:
            inventory.named.append(Gone(lacking[name][0], name, lacking[name][1], other.get(name)))
            self._named += 1


def _shared(first: str, last: str) -> str:
    """What the first and the last of some keys begin with, and so do all between them."""
    return first[: next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _payloads(key: str, body: bytes) -> Iterator[tuple[int, str, int]]:
    """Offset, key and size of each payload that an index tells of. Raises ArchiveError."""
    for entry in decode_index(index_lines(key, body)):
        if entry.object is None:
            continue
        prefix = payload_prefix(key, entry.object)
        if prefix is None:
            raise ArchiveError(f"It tells of {entry.object}, which is of another topic or time bucket.")
        yield entry.record.offset, prefix + entry.object, entry.size


def _told(key: str, body: bytes) -> Total:
    total = Total()
    for _, name, size in _payloads(key, body):
        total.add(name, size)
    return total
