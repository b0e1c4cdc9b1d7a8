"""FORMAT=object: each payload an object of its own, verbatim, and an index that tells of a chunk's payloads. Pure.

Until its upload a record waits as a line of jsonl, which is lossless; here lines become objects and index lines:

    {"offset":7,"timestamp":1700000000000,"key":null,"headers":[],"object":"_payloads/t/…-…7.json","size":9,"sha256":"…"}

An index line is jsonl's, with the payload's name (below the prefix), size and digest in the place of the value. A
tombstone has no object; its line is jsonl's own.

What a payload's object says of itself is for people who look at it alone. Only what any S3 client can send and sign
stands there; the index has all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec
import orjson

from consumer.encode.jsonl import encode_lines, is_verbatim
from headrace.archive import decode_lines
from headrace.objects import payload_key
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.record import Record

JSON: Final = ("json", "application/json")
BYTES: Final = ("bin", "application/octet-stream")
"""Suffix and content type of a payload that is JSON, and of any other."""

MOST_METADATA_BYTES: Final = 1_500
"""S3 takes 2 KB of user metadata, names and all."""

_scan: Final = msgspec.json.Decoder(msgspec.Raw).decode
_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")
_WORDS: Final = re.compile(rb"[!-~]+(?: [!-~]+)*")  # signatures squeeze blanks, and HTTP strips those at the ends
_HEADER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_TOMBSTONE: Final = b'"value":null,"tombstone":true}\n'


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload, ready to be sent."""

    offset: int
    key: str
    content: bytes
    metadata: dict[str, str]
    content_type: str


def payloads(lines: bytes, stem: str) -> Iterator[Payload]:
    """The objects of lines that `encode_lines` made, one by one; tombstones have none. `stem`: their keys' begin."""
    for record in decode_lines(lines):
        if record.value is not None:
            suffix, content_type = kind(record.value)
            key = payload_key(stem, record.offset, suffix)
            yield Payload(record.offset, key, record.value, metadata(record), content_type)


def index_lines(lines: bytes, stem: str) -> bytes:
    """The index of these lines; `stem`: what the payloads' names begin with, without the archive's prefix."""
    records = list(decode_lines(lines))
    heads = encode_lines([StoredRecord(r.offset, r.timestamp, r.key, None, r.headers) for r in records])
    found = []
    for record, head in zip(records, heads.splitlines(keepends=True), strict=True):
        if record.value is None:
            found.append(head)
            continue
        assert head.endswith(_TOMBSTONE), "a line without a value ends so"
        name = orjson.dumps(payload_key(stem, record.offset, kind(record.value)[0]))
        told = name, len(record.value), sha256(record.value).hexdigest().encode()
        found.append(head[: -len(_TOMBSTONE)] + b'"object":%b,"size":%d,"sha256":"%b"}\n' % told)
    return b"".join(found)


def kind(value: bytes) -> tuple[str, str]:
    """Suffix and content type. They depend on the bytes alone: whoever stores an offset again must name it alike."""
    return JSON if is_json(value) else BYTES


def is_json(value: bytes) -> bool:
    """Whether these bytes are a JSON value in valid UTF-8, at most 512 deep; white space anywhere is fine."""
    if is_verbatim(value):
        return True
    try:
        _scan(value)
    except (ValueError, RecursionError):
        return False
    # It is JSON, so that line ends stand between its parts and not in strings: blanks there mean the same.
    return is_verbatim(value.translate(_BLANKS).strip(b" \t"))


def metadata(record: Record) -> dict[str, str]:
    """Offset, time, key and headers as user metadata, as far as it takes them.

    Left out are values that are not printable ASCII or have blanks at an end or two in a row, header names that S3
    would not give back (capitals, other letters), all but the first header of a name, and what comes to more than 1,500
    bytes.
    """
    found = {"headrace-offset": str(record.offset)}
    if record.timestamp >= 0:
        found["headrace-timestamp"] = str(record.timestamp)
    if record.key is None and not record.headers:
        return found
    size = 100
    told = [("headrace-key", record.key)]
    told += [(f"header-{name}", value) for name, value in record.headers if _HEADER_NAME.fullmatch(name)]
    for name, value in told:
        if value is None or name in found or not _WORDS.fullmatch(value):
            continue
        size += len(name) + len(value)
        if size > MOST_METADATA_BYTES:
            break
        found[name] = value.decode()
    return found
