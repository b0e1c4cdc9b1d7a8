"""Which partition a key belongs to: the one that Kafka's own clients choose, so that a key's publishers meet. Pure."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.records import Records

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_32_BITS: Final = 0xFFFF_FFFF
_POSITIVE: Final = 0x7FFF_FFFF
_KEPT_BYTES: Final = 64  # longer keys are hashed each time


def murmur2(data: bytes) -> int:
    """The 32-bit hash by which Kafka's clients choose partitions (Utils.murmur2 of the Java client), unsigned."""
    length = len(data)
    words = length >> 2
    digest = _SEED ^ length
    for word in struct.unpack_from(f"<{words}I", data):
        mixed = word * _M & _32_BITS
        mixed = (mixed ^ mixed >> 24) * _M & _32_BITS
        digest = digest * _M & _32_BITS ^ mixed
    if length & 3:
        digest = (digest ^ int.from_bytes(data[words << 2 :], "little")) * _M & _32_BITS
    digest = (digest ^ digest >> 13) * _M & _32_BITS
    return digest ^ digest >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The key's partition in a topic of so many. An empty key has one, too."""
    key = bytes(key)  # it may be a view
    return (_kept_hash(key) if len(key) <= _KEPT_BYTES else murmur2(key) & _POSITIVE) % partitions


@lru_cache(16_384)
def _kept_hash(key: bytes) -> int:
    return murmur2(key) & _POSITIVE


def wanted_partitions(records: Records, partitions: int) -> list[int | None]:
    """Where each record has to go in a topic of so many partitions: the one it names, its key's, or None: anywhere."""
    count = len(records.values)
    named: Sequence[int | None] = records.partitions or [None] * count
    keys: Sequence[bytes | None] = records.keys or [None] * count
    return [
        name if name is not None else None if key is None else partition_of(key, partitions)
        for name, key in zip(named, keys, strict=True)
    ]


def parts_by_partition(wanted: Sequence[int | None]) -> dict[int | None, list[int]]:
    """Which records go together, by partition. Those that may go anywhere join the first that may not.

    So a request has several parts only where its keys or its partitions want them; `{None: …}` is one that may go
    anywhere as a whole.
    """
    home = next((partition for partition in wanted if partition is not None), None)
    parts: dict[int | None, list[int]] = {}
    for index, partition in enumerate(wanted):
        parts.setdefault(home if partition is None else partition, []).append(index)
    return parts
