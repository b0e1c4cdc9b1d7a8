"""What names and contents of objects depend on. Two owners of a partition must agree on all of it: the fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from headrace.objects import HIVE_NULL, Range, object_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headrace.record import Record

LAYOUT_VERSION: Final = 1
"""Changes only when the same settings would name or fill objects differently; not with the software's version."""

FLAT: Final = "none"
DIRECTIVES: Final = frozenset("YymdjHMS%")
"""Strftime fields that a path may have: the same on every machine, and none finer than a second."""
DEFAULT_OBJECT_PATH: Final = "dt=%Y-%m-%d/hour=%H"
_FIRST_BELIEVABLE_MS: Final = 31_536_000_000  # 1971: seconds taken for milliseconds fall below it
_LAST_BELIEVABLE_MS: Final = 253_402_300_800_000  # the year 10000: microseconds taken for milliseconds lie beyond it
_SPANS_MS: Final = (("S", 1_000), ("M", 60_000), ("H", 3_600_000))
_DAY_MS: Final = 86_400_000


class Group(NamedTuple):
    """Records that share a bucket's path, in order; their lowest and highest timestamp (ms since 1970)."""

    path: str
    records: Sequence[Record]
    first_timestamp: int
    last_timestamp: int


def _group(path: str, records: Sequence[Record]) -> Group:
    times = [record.timestamp for record in records]
    return Group(path, records, min(times), max(times))


@dataclass(frozen=True)
class Layout:
    """How a record's time bucket and an object's key are found. Pure; `bucket` paths are cached."""

    prefix: str
    object_path: str
    suffix: str
    isolation_level: str = "read_committed"
    """Decides which records there are: an owner that sees aborted ones would fill a claimed name differently."""
    _span_ms: int = field(init=False)
    _paths: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        spans = [span for letter, span in _SPANS_MS if f"%{letter}" in self.object_path]
        object.__setattr__(self, "_span_ms", min(spans, default=_DAY_MS))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits, the same as long as owners may work on each other's claims."""
        facts = [LAYOUT_VERSION, self.prefix, self.object_path, self.suffix, self.isolation_level]
        return hashlib.sha256(orjson.dumps(facts)).hexdigest()[:12]

    @property
    def undated(self) -> str:
        """The bucket of records without a believable timestamp, and of chunks without a record."""
        if self.object_path == FLAT:
            return ""
        parts = self.object_path.split("/")
        return "/".join(f"{part.partition('=')[0]}={HIVE_NULL}" if "=" in part else "undated" for part in parts)

    def bucket(self, timestamp_ms: int) -> str:
        """The path of a timestamp's bucket (UTC)."""
        if self.object_path == FLAT:
            return ""
        if not _FIRST_BELIEVABLE_MS <= timestamp_ms < _LAST_BELIEVABLE_MS:
            return self.undated
        index = timestamp_ms // self._span_ms
        path = self._paths.get(index)
        if path is None:
            if len(self._paths) > 10_000:
                self._paths.clear()
            moment = datetime.fromtimestamp(index * self._span_ms / 1000, UTC)
            path = self._paths[index] = moment.strftime(self.object_path)
        return path

    def by_bucket(self, records: Sequence[Record]) -> Iterable[Group]:
        """Split records, at least one, by bucket; order kept. Records of one fetch nearly always share one."""
        times = [record.timestamp for record in records]
        first, last = min(times), max(times)
        # Equal paths would not do: `hour=%H` comes again each day, and what lies between would depend on the fetch.
        if self.object_path == FLAT or first // self._span_ms == last // self._span_ms:
            return (Group(self.bucket(first), records, first, last),)
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(self.bucket(record.timestamp), []).append(record)
        return [_group(path, group) for path, group in groups.items()]

    def key(self, topic: str, partition: int, offsets: Range, bucket: str) -> str:
        return object_key(
            prefix=self.prefix, topic=topic, partition=partition, offsets=offsets, bucket=bucket, suffix=self.suffix
        )
