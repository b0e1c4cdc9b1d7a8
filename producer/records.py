"""Records as endpoints hand them over, with keys, headers and partitions, and where they came to lie. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    Headers = list[tuple[str, bytes | None]]

RECORD_OVERHEAD: Final = 21
"""Upper bound of what a record without a key has beside value and headers, in a batch of one timestamp:
length 5, attributes 1, timestamp delta 1, offset delta 5, key 1, value length 5, number of headers 3."""
KEY_OVERHEAD: Final = 4
"""What the length of a key takes beyond the one byte of no key."""
HEADER_OVERHEAD: Final = 10


@dataclass(frozen=True, slots=True)
class Records:
    """Records for one topic, in the order in which the caller wants to hear of them.

    Lists that belong to single records are as long as `values`, or there is none.
    """

    values: Sequence[bytes | None]
    """None is a tombstone."""
    headers: Headers = field(default_factory=list)
    """Of all records."""
    keys: Sequence[bytes | None] | None = None
    own_headers: Sequence[Headers] | None = None
    """Of single records; they come after those of all."""
    partitions: Sequence[int | None] | None = None
    """Where a record has to go, whatever its key; None: where its key says, or anywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Each:
    """What goes along with each record: stands where a request has its headers, when these differ or there are keys."""

    keys: Sequence[bytes | None] | None
    headers: Headers
    own_headers: Sequence[Headers] | None


class Place(NamedTuple):
    """Where a record is in its topic."""

    partition: int
    offset: int | None
    """None where Kafka has the record twice over acknowledged and tells no offset any more."""


@dataclass(slots=True)
class Part:
    """Records of a request that went to one partition together, and where: known when their outcome is."""

    indexes: Sequence[int]
    """Which of the request's records they are."""
    partition: int = -1
    offset: int | None = None
    """Of the first one; the others follow it."""


def places(parts: Sequence[Part]) -> list[Place]:
    """Where each record of a request is, in the order of the request."""
    found: list[Place] = [Place(-1, None)] * sum(len(part.indexes) for part in parts)
    for part in parts:
        for number, index in enumerate(part.indexes):
            found[index] = Place(part.partition, None if part.offset is None else part.offset + number)
    return found


def record_bytes(payloads: int, payload_bytes: int, headers: Headers) -> int:
    """Upper bound of what payloads take in a record batch, uncompressed; the batch's own BATCH_OVERHEAD comes once."""
    return payloads * (RECORD_OVERHEAD + (header_bytes(headers) if headers else 0)) + payload_bytes


def header_bytes(headers: Headers) -> int:
    size = 0
    for name, value in headers:
        size += HEADER_OVERHEAD + len(name.encode()) + len(value or b"")
    return size


def each_bytes(values: Sequence[bytes | None], each: Each) -> int:
    """The same as record_bytes, where records have keys or headers of their own."""
    size = record_bytes(len(values), sum(len(value) for value in values if value is not None), each.headers)
    if each.keys is not None:
        size += sum(KEY_OVERHEAD + len(key) for key in each.keys if key is not None)
    if each.own_headers is not None:
        size += sum(map(header_bytes, each.own_headers))
    return size
