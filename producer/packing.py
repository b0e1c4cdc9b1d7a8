"""Payloads become a record batch, byte by byte as Kafka stores it (message format 2). Pure: no client, no clock.

aiokafka's own builder takes two calls and a metadata object a record, and packs at its codecs' slow levels. Here a
record costs a few look-ups in tables, a batch one join.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import chain, groupby, islice, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from producer.records import Each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from producer.batches import Request
    from producer.records import Headers

# base offset, length of what follows, partition leader epoch, format, CRC of what follows
_HEAD: Final = struct.Struct(">qiibI")
# attributes, last offset delta, first and last timestamp, producer id and epoch, first sequence number, records
_BODY: Final = struct.Struct(">hiqqqhii")
_FORMAT: Final = 2
_NO_LEADER_EPOCH: Final = -1
_TRANSACTIONAL: Final = 0x10  # in the attributes
_COUNTED_IN_HEAD: Final = 9  # leader epoch, format and CRC count as part of the batch's length
_KEPT_SIZES: Final = 8_192  # values longer than that are not counted by the thousand
_KEPT_WITH_HEADERS: Final = 1_024
_NO_HEADERS: Final = 1  # byte, which says that there are none
_KEPT_OFFSETS: Final = 32_768  # as many of the smallest records as a batch may have


class Codec(NamedTuple):
    """How a batch is packed: the number by which batches say so, and what does it."""

    number: int
    pack: Callable[[bytes], bytes]


class RecordBatch:
    """One batch, in the form in which aiokafka's producer takes what its own builder makes (see tests/unit).

    Nothing can be added. Promises: the bytes are never longer than record_bytes and BATCH_OVERHEAD of producer.batches
    tell, packed or not. Offsets count from 0, all records have one timestamp.
    """

    __slots__ = ("_attributes", "_built", "_count", "_crc32c", "_records", "_state", "_timestamp_ms")

    def __init__(
        self,
        requests: Iterable[Request],
        timestamp_ms: int,
        *,
        codec: Codec | None,
        crc32c: Callable[[bytes], int],
        transactional: bool = False,
    ) -> None:
        """`timestamp_ms`: milliseconds since 1970. Without a codec, or where it gains nothing, nothing is packed."""
        self._records, self._count = encode_records(requests)
        self._attributes = _TRANSACTIONAL if transactional else 0
        if codec is not None:
            packed = codec.pack(self._records)
            if len(packed) < len(self._records):
                self._records = packed
                self._attributes |= codec.number
        self._timestamp_ms = timestamp_ms
        self._crc32c = crc32c
        self._state = (-1, -1, 0)
        self._built: bytes | None = None

    def record_count(self) -> int:
        return self._count

    def closed(self) -> bool:
        return True

    def close(self) -> None:
        """It always is."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Who sends it, and the first record's number in that producer's sequence: known when it is sent first.

        After 2**31 - 1 Kafka expects 0, where aiokafka goes on below 0.
        """
        assert self._built is None, "sent again, a batch is the same: that is how Kafka knows it"
        self._state = (producer_id, producer_epoch, base_sequence & 0x7FFF_FFFF)

    def _build(self) -> bytes:
        """The batch as it is sent, the same each time."""
        if self._built is None:
            last, time = self._count - 1, self._timestamp_ms
            body = _BODY.pack(self._attributes, last, time, time, *self._state, self._count) + self._records
            self._records = b""
            length = _COUNTED_IN_HEAD + len(body)
            self._built = _HEAD.pack(0, length, _NO_LEADER_EPOCH, _FORMAT, self._crc32c(body)) + body
        return self._built


def encode_records(requests: Iterable[Request]) -> tuple[bytes, int]:
    """All payloads as records, one after the other, their offsets counted from 0; and how many they are.

    A record is: its length; attributes and time delta, both 0; offset delta; length of the key, -1 without one; the
    key; length of the value, -1 for a tombstone; the value; headers. Numbers are zigzag varints. Runs of records
    without keys whose headers have one form and whose offsets are of one length are put together without a step of
    the interpreter's a record.
    """
    pieces: list[bytes] = []
    offset = 0
    for headers, group in groupby(requests, attrgetter("headers")):
        if isinstance(headers, Each):
            for request in group:
                pieces += _encode_each(request.payloads, headers, offset)
                offset += len(request.payloads)
            continue
        rest = _encode_headers(headers)
        payloads: list[Any] = list(chain.from_iterable([request.payloads for request in group]))
        sizes = list(map(len, payloads))
        done = 0
        while done < len(payloads):
            width = len(_OFFSETS[offset])
            run = min(len(payloads) - done, _SAME_LENGTH[width] - offset)
            starts = map(_starts(width, len(rest)).__getitem__, islice(sizes, done, done + run))
            offsets = map(_OFFSETS.__getitem__, range(offset, offset + run))
            values = map(_VALUES.__getitem__, islice(sizes, done, done + run))
            pieces += chain.from_iterable(zip(starts, offsets, values, islice(payloads, done, None), repeat(rest)))
            offset += run
            done += run
    return b"".join(pieces), offset


def _encode_each(values: Sequence[bytes | None], each: Each, offset: int) -> list[bytes]:
    """The same, a record at a time."""
    count = len(values)
    shared = _header_pieces(each.headers)
    rest = _encode_headers(each.headers)
    pieces: list[bytes] = []
    keys = each.keys or repeat(None, count)
    for number, key, value, own in zip(
        range(offset, offset + count), keys, values, each.own_headers or repeat(None, count), strict=True
    ):
        headers = b"".join((varint(len(each.headers) + len(own)), *shared, *_header_pieces(own))) if own else rest
        body = (
            _OFFSETS[number],
            _NOTHING if key is None else varint(len(key)),
            b"" if key is None else key,
            _NOTHING if value is None else varint(len(value)),
            b"" if value is None else value,
            headers,
        )
        pieces += (varint(2 + sum(map(len, body))), b"\0\0", *body)
    return pieces


def varint(number: int) -> bytes:
    """A zigzag varint, as Kafka's records have them."""
    left = number << 1 if number >= 0 else ~(number << 1)
    encoded = bytearray()
    while left > 0x7F:
        encoded.append(0x80 | left & 0x7F)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)


class _Table(dict[int, bytes]):
    """Numbers' encodings; those below `kept` are encoded once."""

    def __init__(self, encode: Callable[[int], bytes], kept: int) -> None:
        super().__init__()
        self._encode = encode
        self._kept = kept

    def __missing__(self, number: int) -> bytes:
        encoded = self._encode(number)
        if number < self._kept:
            self[number] = encoded
        return encoded


_OFFSETS: Final = _Table(varint, _KEPT_OFFSETS)
_NOTHING: Final = varint(-1)
_VALUES: Final = _Table(lambda size: varint(-1) + varint(size), _KEPT_SIZES)
_SAME_LENGTH: Final = (0, 64, 8_192, 1_048_576, 134_217_728, 2**31)
"""Below which number a varint has so many bytes."""


@lru_cache(64)
def _starts(width: int, rest: int) -> _Table:
    """What stands before the offset in a record of a value's size, by the bytes of its offset and of its headers.

    Headers' lengths are the callers' choice: what is kept of all of them together is some MiB.
    """
    kept = _KEPT_SIZES if rest == _NO_HEADERS else _KEPT_WITH_HEADERS
    return _Table(lambda size: varint(2 + width + len(_VALUES[size]) + size + rest) + b"\0\0", kept)


def _encode_headers(headers: Headers) -> bytes:
    if not headers:
        return b"\0"
    return b"".join((varint(len(headers)), *_header_pieces(headers)))


def _header_pieces(headers: Headers) -> list[bytes]:
    pieces: list[bytes] = []
    for name, value in headers:
        key = name.encode()
        pieces += (varint(len(key)), key, varint(-1 if value is None else len(value)), value or b"")
    return pieces
