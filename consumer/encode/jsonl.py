"""The lossless envelope, one record a line: what Kafka held can be had back from it byte for byte.

    {"offset":7,"timestamp":1700000000000,"key":null,"headers":[],"value":{"id":1}}

Always these five, in this order; `timestamp` is milliseconds since 1970, or null when the record has none.

Bytes (a value, a key, a header's value) stand under one of three names:

    value           as they came, when they are valid JSON in valid UTF-8, at most 512 deep, on one line (no CR or LF)
                    and with no white space around them, which no JSON reader would give back
    value_text      any other UTF-8, as a JSON string: plain text, a BOM before JSON, NaN, half of a surrogate pair, …
    value_base64    all else, in standard base64

and so `key`, `key_text`, `key_base64`. What is not there at all is null:

    a tombstone     "value":null,"tombstone":true     while a payload of the four letters null is "value":null alone
    no key          "key":null                        a key of these four letters is "key_text":"null"
    a header        {"key":"name","value":null}       the letters are {"key":"name","value_text":"null"}

A header's `key` is its name; headers keep their order, and may share a name.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from itertools import accumulate, pairwise, repeat
from operator import attrgetter, contains
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.record import Record

MAX_DEPTH: Final = 512
NO_TIMESTAMP: Final = -1
_SHALLOW: Final = 2 * (MAX_DEPTH + 1)
"""A body with fewer bytes than this has no room for brackets that are deeper than MAX_DEPTH."""

_LF: Final = 0x0A  # looked for as numbers: so it is five times as fast
_CR: Final = 0x0D
_BLANK: Final = 0x20  # JSON's white space is the blank and three below it; no JSON ends with any other byte up to here
_WHITE: Final = b" \t\r\n"
_STARTS: Final = frozenset(b'{["-0123456789tfn')

_BEGIN: Final = b'{"offset":'
_CLOCK: Final = b',"timestamp":%d,"key":null,"headers":[],"value":'
_END: Final = b"}\n"

_BLOCK: Final = 250
"""Lines that are written at once: few enough that all of it stays in the processor's cache. Where no offset is left
out, blocks end at multiples of it: then all of a block begin with the same digits."""
_ENDS: Final = [b"%03d" % end for end in range(1000)]
"""What an offset's last three digits may be."""
_offset, _timestamp, _key, _value, _headers = map(attrgetter, ("offset", "timestamp", "key", "value", "headers"))

_scan: Final = msgspec.json.Decoder(msgspec.Raw).decode
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(_STEPS))


def encode_lines(records: Sequence[Record]) -> bytes:
    """The records' lines, each ended by LF; offsets must grow, as they do in a log. Pure; never refuses a record."""
    return b"".join(line_blocks(records))


def line_blocks(records: Sequence[Record]) -> list[bytes]:
    """The same lines, some hundred at a time."""
    if not records:
        return []
    ends = [*range(_BLOCK - records[0].offset % _BLOCK, len(records), _BLOCK), len(records)]
    return [_block(records[start:end]) for start, end in pairwise([0, *ends])]


def _block(records: Sequence[Record]) -> bytes:
    """Lines of records, column by column where no record has more than a value that may stand as it came.

    What the interpreter does some hundred times in a row within one call, in C, is cheap.
    """
    if list(map(_key, records)).count(None) == len(records) and not any(map(_headers, records)):
        lines = _plain_lines(records)
        if lines is not None:
            return lines
    return b"".join([_line(record) for record in records])


def _plain_lines(records: Sequence[Record]) -> bytes | None:
    """Lines of records without key and headers; None unless each has a time, and a value that may stand as it came."""
    values = list(map(_value, records))
    times = list(map(_timestamp, records))
    clocks = {time: _CLOCK % time for time in set(times)}  # writing numbers costs most; few of these differ
    if NO_TIMESTAMP in clocks or not _are_json(values):
        return None
    begin, offsets = _offsets(records)
    pieces: list[Any] = [_END + begin] * (4 * len(records))
    pieces[0] = begin
    pieces[1::4] = offsets
    pieces[2::4] = [clocks[times[0]]] * len(records) if len(clocks) == 1 else map(clocks.__getitem__, times)
    pieces[3::4] = values
    pieces.append(_END)
    lines = b"".join(pieces)
    # JSON begins and ends with ASCII, so no two bad ends make something good.
    return lines if _CR not in lines and _is_utf8(lines) else None


def _offsets(records: Sequence[Record]) -> tuple[bytes, list[bytes]]:
    """How each line begins, and what ends its record's offset."""
    first, last = records[0].offset, records[-1].offset
    head, end = divmod(first, 1000)
    if head and last - first == len(records) - 1 and last // 1000 == head:  # offsets grow: none is left out
        return b"%b%d" % (_BEGIN, head), _ENDS[end : end + len(records)]
    return _BEGIN, orjson.dumps(list(map(_offset, records)))[1:-1].split(b",")


def _line(record: Record) -> bytes:
    value = record.value
    if value is not None and is_verbatim(value):
        field = b'"value":%b' % value
    else:
        field = b'"value":null,"tombstone":true' if value is None else _spelled("value", value)
    return b'{"offset":%d,"timestamp":%b,%b,"headers":[%b],%b}\n' % (
        record.offset,
        b"null" if record.timestamp == NO_TIMESTAMP else b"%d" % record.timestamp,
        _optional("key", record.key),
        b",".join([b'{"key":%b,%b}' % (orjson.dumps(name), _optional("value", body)) for name, body in record.headers]),
        field,
    )


def _are_json(values: Sequence[Any]) -> bool:
    """Whether each is JSON that may stand in a line as it is. A CR and bad UTF-8 are for the whole line to find."""
    try:
        deque(map(_scan, values), maxlen=0)
        if list(map(bytes.strip, values)) != values:
            return False
    except (TypeError, ValueError, RecursionError):  # a None, which is no text, raises the first
        return False
    if any(map(contains, values, repeat(_LF))):
        return False
    return max(map(len, values)) < _SHALLOW or not any(map(_too_deep, values))


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_verbatim(body: bytes) -> bool:
    """Whether these bytes may stand in a line as they are, and be had back from it exactly."""
    if not body or body[0] not in _STARTS:  # most keys and binary values end here, without the cost of an exception
        return False
    try:
        _scan(body)
        if not body.isascii():
            body.decode()  # the scan lets bad UTF-8 inside strings pass
    except (ValueError, RecursionError):
        return False
    return _LF not in body and _CR not in body and body[-1] > _BLANK and (len(body) < _SHALLOW or not _too_deep(body))


def is_shallow(body: bytes) -> bool:
    """Whether valid JSON is at most MAX_DEPTH deep."""
    return len(body) < _SHALLOW or not _too_deep(body)


def _too_deep(body: bytes) -> bool:
    """Whether arrays and objects stand deeper than MAX_DEPTH in each other, in valid JSON."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    if b'"' in body:  # without escapes, every second piece between quotes is a string
        body = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return max(accumulate(_STEPS[byte] for byte in body.translate(None, _NOT_BRACKETS))) > MAX_DEPTH


def _optional(name: str, body: bytes | None) -> bytes:
    if body is None:
        return b'"%b":null' % name.encode()
    if body != b"null" and is_verbatim(body):
        return b'"%b":%b' % (name.encode(), body)
    return _spelled(name, body)


def _spelled(name: str, body: bytes) -> bytes:
    try:
        return b'"%b_text":%b' % (name.encode(), orjson.dumps(body.decode()))
    except UnicodeDecodeError:
        return b'"%b_base64":"%b"' % (name.encode(), b64encode(body))
