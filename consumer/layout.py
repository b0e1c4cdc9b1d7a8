"""What names and contents of objects depend on. Two owners of a partition must agree on all of it: the fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from consumer.folders import FLAT, KEY, MOST_VALUE_BYTES, ORIGINS, Folder, parse_template
from consumer.moments import ISO, UTC_NAME, open_zone, reader
from consumer.pointer import Fields, scalar
from headrace.objects import BESIDE_FOLDER, LINES, Range, object_key, payload_stem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import tzinfo

    from headrace.record import Record

LAYOUT_VERSION: Final = 1
"""Changes only when the same settings would name or fill objects differently; not with the software's version."""

DEFAULT_OBJECT_PATH: Final = "dt=%Y-%m-%d/hour=%H"
MOST_KEY_BYTES: Final = 1024
"""S3 takes no longer key."""
_FIRST_BELIEVABLE_MS: Final = 31_536_000_000  # 1971: seconds taken for milliseconds fall below it
_LAST_BELIEVABLE_MS: Final = 253_402_300_800_000  # the year 10000: microseconds taken for milliseconds lie beyond it
_SPANS_MS: Final = (("S", 1_000), ("M", 60_000), ("H", 3_600_000))
_DAY_MS: Final = 86_400_000
_ZONED_MS: Final = 60_000  # zones are whole minutes from UTC since 1972, and change their clocks at whole ones
_LONG_MOMENT: Final = datetime(2026, 9, 30)  # noqa: DTZ001 - a Wednesday in September: no name is longer
_MOST_CACHED: Final = 10_000
_LONGEST_CACHED: Final = 512
"""Bytes of values: longer ones don't come again."""


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
    """How a record's bucket and an object's key are found. Pure: of the record and these settings alone; cached."""

    prefix: str
    object_path: str
    suffix: str
    isolation_level: str = "read_committed"
    """Decides which records there are: an owner that sees aborted ones would fill a claimed name differently."""
    time_field: str = ""
    time_format: str = ISO
    time_zone: str = UTC_NAME
    _folders: tuple[Folder, ...] = field(init=False, repr=False)
    is_dated: bool = field(init=False, repr=False)
    """Whether paths depend on a time."""
    _of_values: bool = field(init=False, repr=False)
    _of_key: bool = field(init=False, repr=False)
    _last_ms: int = field(init=False, repr=False)
    _span_ms: int = field(init=False, repr=False)
    _zone: tzinfo = field(init=False, repr=False)
    _zone_rules: str = field(init=False, repr=False)
    _fields: Fields | None = field(init=False, repr=False)
    _moment: Callable[[bytes], int] | None = field(init=False, repr=False)
    _paths: dict[Any, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be: each setting by itself is looked at by consumer/settings."""
        folders = parse_template(self.object_path)
        zone, rules = open_zone(self.time_zone)
        wanted = [folder.source for folder in folders if folder.source not in {"", KEY}]
        pointers = [self.time_field, *wanted] if self.time_field else wanted
        spans = [span for letter, span in _SPANS_MS if f"%{letter}" in self.object_path]
        found = {
            "_folders": folders,
            "is_dated": any(folder.is_dated for folder in folders),
            "_of_values": bool(self.time_field) or any(folder.source for folder in folders),
            "_of_key": any(folder.source == KEY for folder in folders),
            "_last_ms": _LAST_BELIEVABLE_MS - (_DAY_MS if rules else 0),  # no calendar goes on in the year 10000
            "_span_ms": min([*spans, _ZONED_MS] if rules else spans, default=_DAY_MS),
            "_zone": zone,
            "_zone_rules": rules,
            "_fields": Fields(pointers) if pointers else None,
            "_moment": reader(self.time_format) if self.time_field else None,
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits, the same as long as owners may work on each other's claims."""
        facts: list[Any] = [LAYOUT_VERSION, self.prefix, self.object_path, self.suffix, self.isolation_level]
        if more := self.more:
            facts.append(more | {"rules": self._zone_rules})
        return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]

    @property
    def more(self) -> dict[str, str]:
        """Settings of the time that are not as they are by default, by name."""
        found = {}
        if self.time_field:
            found = {"time_field": self.time_field, "time_format": self.time_format}
        if self._zone_rules:
            found["time_zone"] = self.time_zone
        return found

    @property
    def undated(self) -> str:
        """The bucket of records without a believable time or any value, and of chunks without a record."""
        return "/".join(folder.of(None) if folder.source else folder.undated for folder in self._folders)

    def bucket(self, timestamp_ms: int) -> str:
        """The path of a timestamp's bucket, for a layout by the record's time alone."""
        if self.object_path == FLAT:
            return ""
        if not _FIRST_BELIEVABLE_MS <= timestamp_ms < self._last_ms:
            return self.undated
        index = timestamp_ms // self._span_ms
        path = self._paths.get(index)
        if path is None:
            path = self._keep(index, self._render(index, None, ()))
        return path

    def place(self, record: Record) -> str:
        """The path of a record's bucket."""
        if not self._of_values:
            return self.bucket(record.timestamp)
        found = [] if self._fields is None else self._fields.read(record.value)
        milliseconds = record.timestamp if self._moment is None else self._moment(found.pop(0))
        index = None
        if _FIRST_BELIEVABLE_MS <= milliseconds < self._last_ms:
            index = milliseconds // self._span_ms if self.is_dated else None
        key = record.key if self._of_key else None
        mark = (index, key, *found)
        path = self._paths.get(mark)
        if path is None:
            path = self._render(index, key, found)
            if sum(map(len, found), len(key or b"")) <= _LONGEST_CACHED:
                self._keep(mark, path)
        return path

    def _keep(self, mark: Any, path: str) -> str:
        if len(self._paths) >= _MOST_CACHED:
            self._paths.clear()
        self._paths[mark] = path
        return path

    def _render(self, index: int | None, key: bytes | None, tokens: Sequence[bytes]) -> str:
        moment = None if index is None else datetime.fromtimestamp(index * self._span_ms / 1000, self._zone)
        waiting = iter(tokens)
        parts = []
        for folder in self._folders:
            if folder.source == KEY:
                parts.append(folder.of(key))
            elif folder.source:
                parts.append(folder.of(scalar(next(waiting))))
            else:
                parts.append(folder.undated if moment is None else folder.at(moment))
        return "/".join(parts)

    def by_bucket(self, records: Sequence[Record]) -> Sequence[Group]:
        """Split records, at least one, by bucket; order kept, groups in the order of their first records.

        Records of one fetch nearly always share one.
        """
        if self._of_values:
            return self._by_place(records, self.place)
        times = [record.timestamp for record in records]
        first, last = min(times), max(times)
        # Equal paths would not do: `hour=%H` comes again each day, and what lies between would depend on the fetch.
        if self.object_path == FLAT or first // self._span_ms == last // self._span_ms:
            return (Group(self.bucket(first), records, first, last),)
        return self._by_place(records, lambda record: self.bucket(record.timestamp))

    @staticmethod
    def _by_place(records: Sequence[Record], place: Callable[[Record], str]) -> list[Group]:
        groups: dict[str, list[Record]] = {}
        for record in records:
            path = place(record)
            if (group := groups.get(path)) is None:
                groups[path] = [record]
            else:
                group.append(record)
        return [_group(path, group) for path, group in groups.items()]

    def key(self, topic: str, partition: int, offsets: Range, bucket: str) -> str:
        """The key of a chunk's object; `bucket` is its path, as `place` gives it."""
        folder = self.folder(bucket, topic, partition)
        return object_key(
            prefix=self.prefix, topic=topic, partition=partition, offsets=offsets, bucket=folder, suffix=self.suffix
        )

    @staticmethod
    def folder(bucket: str, topic: str, partition: int) -> str:
        """A bucket's path with what is the same for all records of a chunk. Values have no braces: they are escaped."""
        if "{" not in bucket:
            return bucket
        topic_name, partition_name = (f"{{{name}}}" for name in ORIGINS)
        return bucket.replace(topic_name, topic).replace(partition_name, str(partition))

    def payload_stem(self, prefix: str, topic: str, partition: int, bucket: str) -> str:
        """What keys of payloads begin with that are objects of their own (FORMAT=object)."""
        folder = self.folder(bucket, topic, partition)
        return payload_stem(prefix=prefix, topic=topic, partition=partition, bucket=folder)

    def longest_key(self, topic: str) -> int:
        """Bytes that a key of a topic's may have at most."""
        folders = [
            "".join(map(str, folder.parts)) + "x" * MOST_VALUE_BYTES
            if folder.source
            else max(folder.at(_LONG_MOMENT.replace(tzinfo=self._zone)), folder.undated, key=len)
            for folder in self._folders
        ]
        offsets, partition = Range(10**19, 10**19 + 1), 10**9
        index = self.key(topic, partition, offsets, "/".join(folders))
        payload = self.payload_stem(self.prefix, topic, partition, "/".join(folders))
        beside = len(f"{BESIDE_FOLDER}/") + len(f".{10**9}") + len("jsonl") - len(LINES)
        return max(len(index.encode()) + beside, len(payload.encode()) + len(f"{0:020d}.json"))
