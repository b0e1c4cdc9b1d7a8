"""The grammar of object names: a pure function of topic, partition, offsets, time bucket and layout.

    {prefix}/{topic}/dt=2026-11-22/hour=01/{topic}-{partition:05d}-{start:020d}-{end:020d}.jsonl.zst

`end` is exclusive, so names join: one's end is the next one's start. All objects of a chunk carry the chunk's range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

GAP_FOLDER: Final = "_gaps"
GAP_SUFFIX: Final = "gap.json"
CONTROL_FOLDER: Final = "_headrace"
HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
"""The folder value that Hive, Spark and DuckDB read as NULL: records without a believable timestamp go there."""

_NAME: Final = re.compile(
    r"(?P<topic>[a-zA-Z0-9._-]+)-(?P<partition>\d{5,10})-(?P<start>\d{20})-(?P<end>\d{20})\.(?P<suffix>[a-z0-9.]+)\Z"
)


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Offsets [start, end) of one partition."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """What an object's name tells."""

    topic: str
    partition: int
    range: Range
    suffix: str

    @property
    def is_gap(self) -> bool:
        return self.suffix == GAP_SUFFIX


def topic_folder(prefix: str, topic: str) -> str:
    """The folder of a topic's objects, with a slash at its end."""
    return f"{prefix}/{topic}/" if prefix else f"{topic}/"


def control_folder(prefix: str, topic: str) -> str:
    """The folder of a topic's markers: who writes here, and with which layout."""
    return f"{prefix}/{CONTROL_FOLDER}/{topic}/" if prefix else f"{CONTROL_FOLDER}/{topic}/"


def object_key(*, prefix: str, topic: str, partition: int, offsets: Range, bucket: str, suffix: str) -> str:
    """The key of an object; `bucket` is its time bucket's path, empty for a flat layout."""
    folder = topic_folder(prefix, topic)
    middle = f"{bucket}/" if bucket else ""
    return f"{folder}{middle}{topic}-{partition:05d}-{offsets.start:020d}-{offsets.end:020d}.{suffix}"


def gap_key(*, prefix: str, topic: str, partition: int, offsets: Range) -> str:
    """The key of the object that says: these offsets were gone from Kafka before they could be archived."""
    return object_key(
        prefix=prefix, topic=topic, partition=partition, offsets=offsets, bucket=GAP_FOLDER, suffix=GAP_SUFFIX
    )


def parse_key(key: str) -> ObjectName | None:
    """Read a key's last part, whatever its folders. None for what isn't an object of ours."""
    match = _NAME.match(key.rpartition("/")[2])
    if match is None:
        return None
    offsets = Range(int(match["start"]), int(match["end"]))
    if offsets.end <= offsets.start:
        return None
    return ObjectName(match["topic"], int(match["partition"]), offsets, match["suffix"])
