"""The checksums of what a fetch brought, looked at all at once. Pure.

aiokafka's own check costs a ninth of what a record costs in all, for it counts without the processor's instruction.
"""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c

# base offset, length of what follows, leader epoch, format, CRC of what follows
_HEAD: Final = struct.Struct(">8xi4xbI")
_LENGTH_FROM: Final = 12
_CRC_FROM: Final = 21
_FORMAT: Final = 2


def is_intact(record_set: bytes) -> bool:
    """Whether all whole record batches have the checksums they tell (CRC-32C, KIP-98).

    False too where one is of an older format, whose checksums are another matter. What is cut off at the end of a fetch
    is no batch yet.
    """
    view = memoryview(record_set)
    at = 0
    while at + _CRC_FROM <= len(view):
        length, form, crc = _HEAD.unpack_from(view, at)
        end = at + _LENGTH_FROM + length
        if form != _FORMAT or end < at + _CRC_FROM:
            return False
        if end > len(view):
            break
        if crc32c(view[at + _CRC_FROM : end]) != crc:
            return False
        at = end
    return True
