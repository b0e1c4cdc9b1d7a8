"""Which payloads a listing shows, against what indexes tell, in memory that grows with the indexes alone. Pure.

Of each index's payloads a listing leaves a number and a sum of digests of names and sizes, whatever its order. An index
that comes to the same has all of its payloads; for one that doesn't, somebody has to look closer.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from headrace.objects import parse_key, parse_payload_key, payload_folder, payload_stem, topic_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

_MODULUS: Final = 2**64
_start = attrgetter("start")


@dataclass(slots=True)
class Total:
    """Of so many objects: equal ones are of the same names and sizes, but for one chance in 2^64.

    Digests are Python's own, so that totals compare within one process only.
    """

    count: int = 0
    digest: int = 0

    def add(self, key: str, size: int) -> None:
        self.count += 1
        self.digest = (self.digest + hash((key, size))) % _MODULUS


@dataclass(slots=True)
class _Shown:
    """What a listing shows of one index's payloads, those in [start, end)."""

    start: int
    end: int
    total: Total


class Tally:
    """One topic's indexes go in first, then a listing of its payloads."""

    def __init__(self, prefix: str, topic: str, indexes: Iterable[str]) -> None:
        """`indexes`: the keys of all of them."""
        self._of: dict[str, _Shown] = {}
        self._by_stem: dict[str, list[_Shown]] = {}
        folder = topic_folder(prefix, topic)
        self.folder = payload_folder(prefix, topic)
        """Where the payloads lie."""
        for key in indexes:
            name = parse_key(key)
            assert name is not None, "an index has an object's name"
            bucket = key.removeprefix(folder).rpartition("/")[0]
            stem = payload_stem(prefix=prefix, topic=topic, partition=name.partition, bucket=bucket)
            shown = self._of[key] = _Shown(name.range.start, name.range.end, Total())
            self._by_stem.setdefault(stem, []).append(shown)
        for found in self._by_stem.values():
            found.sort(key=_start)
        self._stem, self._last = "", _Shown(0, 0, Total())

    def show(self, key: str, size: int) -> None:
        """The listing has this payload. One that no index can tell of (yet) doesn't count."""
        parsed = parse_payload_key(key)
        if parsed is None:
            return
        stem, offset = parsed
        if stem != self._stem or not self._last.start <= offset < self._last.end:
            found = self._by_stem.get(stem, [])
            at = bisect_right(found, offset, key=_start) - 1
            if at < 0 or offset >= found[at].end:
                return
            self._stem, self._last = stem, found[at]
        self._last.total.add(key, size)

    def agrees(self, index: str, told: Total) -> bool:
        """Does the listing show what this index tells, no more and no less?"""
        return self._of[index].total == told
