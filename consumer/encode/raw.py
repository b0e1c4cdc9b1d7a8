r"""FORMAT=raw: payloads as they came, one a line; beside them, in an object of its own, what a line can't tell. Pure.

The object beside has a line for each record, in the same order, in the envelope of jsonl:

    {"offset":7,"timestamp":1700000000000,"key":null,"headers":[]}                      its value is the next line
    {"offset":8,"timestamp":1700000000000,"key":null,"headers":[],"value_text":"a\nb"}  its value is here

What can't stand on a line is here: a tombstone, an empty payload (readers pass over empty lines), one with a CR or LF.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Final

from consumer.encode.compression import compress
from consumer.encode.form import Beside, Packed, Place
from consumer.encode.jsonl import NO_TIMESTAMP, encode_lines
from consumer.encode.lines import Lines
from headrace.objects import LINES, beside_key
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.record import Record

_LF: Final = 0x0A
_CR: Final = 0x0D
_BLOCK: Final = 256
"""Records that are encoded at once: few enough that one odd one among them costs little."""
_TOMBSTONE: Final = b',"value":null,"tombstone":true}\n'
_PLAIN_HEAD: Final = b'{"offset":%d,"timestamp":%d,"key":null,"headers":[]}\n'
_PLAIN_HEADS: Final = _PLAIN_HEAD * _BLOCK
_headers: Final = attrgetter("headers")
_told: Final = attrgetter("offset", "timestamp")


@dataclass(frozen=True, slots=True)
class Raw(Lines):
    """A bucket's parts are lines and what stands beside them, by turns."""

    bare_suffix: ClassVar[str] = LINES
    bare_content_type: ClassVar[str] = "text/plain"
    in_order: ClassVar[bool] = False

    def encode(self, records: Sequence[Record]) -> list[bytes]:
        lines, beside = [], []
        for at in range(0, len(records), _BLOCK):
            block = records[at : at + _BLOCK]
            values = [record.value for record in block]
            if all(values) and (text := _lines(values)) is not None:  # type: ignore[arg-type]
                lines.append(text)
                beside.append(_heads(block))
            else:
                found = [value for value in values if stands_on_a_line(value)]
                lines.append(_lines(found) or b"")  # type: ignore[arg-type]
                beside.append(b"".join([_beside(record) for record in block]))
        return [b"".join(lines), b"".join(beside)]

    def pack(self, parts: list[bytes], place: Place) -> Packed:
        lines, beside = parts[::2], parts[1::2]
        parts.clear()
        odd = place.records - sum(part.count(b"\n") for part in lines)
        key = beside_key(
            prefix=place.prefix,
            topic=place.topic,
            partition=place.partition,
            offsets=place.offsets,
            bucket=place.bucket,
            records=place.records,
            suffix=Lines(self.compression, self.level).suffix,
        )
        others = [Beside(key, self.compress(beside), Lines(self.compression, self.level).content_type)]
        return Packed(compress(lines, self.compression, self.level), others if place.records else (), odd=odd)


def stands_on_a_line(value: bytes | None) -> bool:
    """Whether these bytes can be a line of their own, and be had back from it."""
    return bool(value) and _LF not in value and _CR not in value  # type: ignore[operator]


def _lines(values: Sequence[bytes]) -> bytes | None:
    """A line each; None where there is one that can't be."""
    text = b"\n".join([*values, b""])
    return text if _CR not in text and text.count(b"\n") == len(values) else None


def _heads(records: Sequence[Record]) -> bytes:
    """What stands beside lines: all but the values."""
    count = len(records)
    if [record.key for record in records].count(None) == count and not any(map(_headers, records)):
        columns = tuple(chain.from_iterable(map(_told, records)))
        if NO_TIMESTAMP not in columns[1::2]:
            return (_PLAIN_HEADS if count == _BLOCK else _PLAIN_HEAD * count) % columns
    return b"".join([_head(record) for record in records])


def _head(record: Record) -> bytes:
    line = encode_lines([StoredRecord(record.offset, record.timestamp, record.key, None, tuple(record.headers))])
    assert line.endswith(_TOMBSTONE), "a line without a value ends so"
    return line[: -len(_TOMBSTONE)] + b"}\n"


def _beside(record: Record) -> bytes:
    return _head(record) if stands_on_a_line(record.value) else encode_lines([record])
