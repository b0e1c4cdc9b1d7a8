"""The grammar of object names: a pure function of topic, partition, offsets, time bucket and layout.

    {prefix}/{topic}/dt=2026-11-22/hour=01/{topic}-{partition:05d}-{start:020d}-{end:020d}.jsonl.zst

`end` is exclusive, so names join: one's end is the next one's start. All objects of a chunk carry the chunk's range.

With FORMAT=object these are indexes (`.index.jsonl.zst`), and each payload is an object in a folder beside the topic's:

    {prefix}/_payloads/{topic}/dt=2026-11-22/hour=01/{topic}-{partition:05d}-{offset:020d}.json

Beside, not below: a LIST of the topic's objects has a name a chunk then, not one a payload.

FORMAT=raw keeps what its lines can't tell in such a folder, too. That name tells the number of records, so that two
cuts of a chunk, of which the later one found fewer records in Kafka, can't be mixed up:

    {prefix}/_beside/{topic}/dt=2026-11-22/hour=01/{topic}-{partition:05d}-{start:020d}-{end:020d}.{records}.jsonl.zst
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

GAP_FOLDER: Final = "_gaps"
GAP_SUFFIX: Final = "gap.json"
CONTROL_FOLDER: Final = "_headrace"
PAYLOAD_FOLDER: Final = "_payloads"
BESIDE_FOLDER: Final = "_beside"
LINES: Final = "txt"
"""What the suffix of an object of bare payloads begins with, a line each; what a line can't tell is kept beside it."""
INDEX: Final = "index"
"""What the suffix of an index begins with: an object whose lines tell of payloads that are objects of their own."""
HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
"""The folder value that Hive, Spark and DuckDB read as NULL: records without a believable timestamp go there."""

_NAME: Final = re.compile(
    r"(?P<topic>[a-zA-Z0-9._-]+)-(?P<partition>\d{5,10})-(?P<start>\d{20})-(?P<end>\d{20})\.(?P<suffix>[a-z0-9.]+)\Z"
)

_PAYLOAD: Final = re.compile(r"(?P<stem>.*-\d{5,10}-)(?P<offset>\d{20})\.[a-z]+\Z", re.DOTALL)


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

    @property
    def is_index(self) -> bool:
        return self.suffix.startswith(f"{INDEX}.")

    @property
    def is_lines(self) -> bool:
        """Bare payloads, a line each."""
        return self.suffix.partition(".")[0] == LINES


def topic_folder(prefix: str, topic: str) -> str:
    """The folder of a topic's objects, with a slash at its end."""
    return f"{prefix}/{topic}/" if prefix else f"{topic}/"


def control_folder(prefix: str, topic: str) -> str:
    """The folder of a topic's markers: who writes here, and with which layout."""
    return f"{prefix}/{CONTROL_FOLDER}/{topic}/" if prefix else f"{CONTROL_FOLDER}/{topic}/"


def payload_folder(prefix: str, topic: str) -> str:
    """The folder of a topic's payloads that are objects of their own, with a slash at its end."""
    return f"{prefix}/{PAYLOAD_FOLDER}/{topic}/" if prefix else f"{PAYLOAD_FOLDER}/{topic}/"


def payload_stem(*, prefix: str, topic: str, partition: int, bucket: str) -> str:
    """What the keys of a partition's payloads begin with, those of one time bucket; `payload_key` adds the offset."""
    middle = f"{bucket}/" if bucket else ""
    return f"{payload_folder(prefix, topic)}{middle}{topic}-{partition:05d}-"


def payload_key(stem: str, offset: int, suffix: str) -> str:
    """The key of one payload's object: a function of its record alone, never of the chunk that it came with."""
    return f"{stem}{offset:020d}.{suffix}"


def parse_payload_key(key: str) -> tuple[str, int] | None:
    """Stem and offset of what `payload_key` made; None for any other key."""
    match = _PAYLOAD.match(key)
    return None if match is None else (match["stem"], int(match["offset"]))


def payload_prefix(index_key: str, told: str) -> str | None:
    """What stands before the names that an index tells, in the bucket that it lies in now; None when they don't fit.

    The index tells names below the prefix (`_payloads/…`), so that an archive may be copied to another prefix.
    """
    folder = index_key.rpartition("/")[0]
    below = told.rpartition("/")[0].removeprefix(f"{PAYLOAD_FOLDER}/")
    if folder == below:
        return ""
    return folder.removesuffix(below) if folder.endswith(f"/{below}") else None


def beside_key(
    *, prefix: str, topic: str, partition: int, offsets: Range, bucket: str, records: int, suffix: str
) -> str:
    """The key of the object that tells what the lines of a bucket can't, of so many records."""
    folder = f"{prefix}/{BESIDE_FOLDER}" if prefix else BESIDE_FOLDER
    return object_key(
        prefix=folder, topic=topic, partition=partition, offsets=offsets, bucket=bucket, suffix=f"{records}.{suffix}"
    )


def all_folders(prefix: str, topic: str) -> list[str]:
    """Every folder in which a topic's objects lie, but its markers'; each with a slash at its end."""
    return [topic_folder(prefix, topic), payload_folder(prefix, topic), beside_folder(prefix, topic)]


def beside_folder(prefix: str, topic: str) -> str:
    """The folder of what belongs beside a topic's lines, with a slash at its end."""
    return topic_folder(f"{prefix}/{BESIDE_FOLDER}" if prefix else BESIDE_FOLDER, topic)


def beside_keys(key: str, records: int) -> list[str]:
    """Where the object beside that of `key` may lie: a folder for each that may be the topic's, as a rule one."""
    *folders, name = key.split("/")
    parsed = parse_key(name)
    assert parsed is not None, "an object's name"
    stem, suffix = name.removesuffix(parsed.suffix), parsed.suffix.replace(LINES, "jsonl", 1)
    return [
        "/".join([*folders[:at], BESIDE_FOLDER, *folders[at:], f"{stem}{records}.{suffix}"])
        for at, folder in enumerate(folders)
        if folder == parsed.topic
    ]


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
