"""Reading an archive: the exact inverse of consumer/encode, so that every record comes back byte for byte."""

from __future__ import annotations

import asyncio
import binascii
import heapq
import random
import zlib
from hashlib import sha256
from io import BytesIO
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
import zstandard
from isal import igzip

from headrace.coverage import RECORDS, Survey, told_records
from headrace.errors import HeadraceError
from headrace.objects import INDEX, beside_keys, parse_key, payload_prefix, topic_folder
from headrace.record import StoredRecord
from headrace.s3 import S3Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from headrace.coverage import Chunk, Coverage
    from headrace.s3 import ObjectStore

Answer = TypeVar("Answer")

ATTEMPTS: Final = 6
"""How often a question to S3 is asked before a reader gives up: some 10 seconds of trouble are lived through."""
FIRST_PAUSE_SECONDS: Final = 0.4
PAYLOADS_AT_A_TIME: Final = 32
"""Payloads of one index that are asked for side by side."""


class ArchiveError(HeadraceError):
    """An object isn't what its name says, or is damaged."""


_NOTHING: Final = msgspec.Raw()


class _Header(msgspec.Struct):
    key: str
    value: msgspec.Raw = _NOTHING
    value_text: str | None = None
    value_base64: str | None = None


class _Head(msgspec.Struct):
    offset: int
    timestamp: int | None
    headers: list[_Header]
    key: msgspec.Raw = _NOTHING
    key_text: str | None = None
    key_base64: str | None = None
    tombstone: bool = False


class _Line(_Head):
    value: msgspec.Raw = _NOTHING
    value_text: str | None = None
    value_base64: str | None = None


class _IndexLine(_Head):
    object: str | None = None
    size: int | None = None
    sha256: str | None = None


class Entry(NamedTuple):
    """A line of an index. `record` lacks its value, which is an object of its own: `object`, named below the prefix.

    A tombstone has none: there `object` is None, and the record is whole.
    """

    record: StoredRecord
    object: str | None
    size: int
    sha256: str


_decode: Final = msgspec.json.Decoder(_Line).decode
_decode_index: Final = msgspec.json.Decoder(_IndexLine).decode


def decode_lines(body: bytes) -> Iterator[StoredRecord]:
    """The records of uncompressed lines, in their order. Raises ArchiveError at the first line that isn't one."""
    for number, text in enumerate(BytesIO(body), 1):
        try:
            line = _decode(text)
            if line.tombstone:
                value = None
            else:
                value = bytes(line.value) or _spelled(line.value_text, line.value_base64)
                if value is None:
                    raise ValueError("it has neither value, value_text nor value_base64")
            yield _record(line, value)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"Line {number} is no record of an archive: {error}") from error


def decode_index(body: bytes) -> Iterator[Entry]:
    """The lines of an uncompressed index, in their order. Raises ArchiveError at the first line that isn't one."""
    for number, text in enumerate(BytesIO(body), 1):
        try:
            line = _decode_index(text)
            if (line.object is None) != line.tombstone or (line.object and (line.size is None or not line.sha256)):
                raise ValueError("it has neither a tombstone nor an object with size and sha256")
            yield Entry(_record(line, None), line.object, line.size or 0, line.sha256 or "")
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"Line {number} is no line of an index: {error}") from error


def _record(line: _Line | _IndexLine, value: bytes | None) -> StoredRecord:
    return StoredRecord(
        line.offset,
        -1 if line.timestamp is None else line.timestamp,
        _optional(line.key, line.key_text, line.key_base64),
        value,
        tuple((it.key, _optional(it.value, it.value_text, it.value_base64)) for it in line.headers),
    )


def _optional(verbatim: msgspec.Raw, text: str | None, base64: str | None) -> bytes | None:
    """A key, or a header's value: null says that there is none."""
    body = bytes(verbatim)
    return None if body == b"null" else body or _spelled(text, base64)


def _spelled(text: str | None, base64: str | None) -> bytes | None:
    if text is not None:
        return text.encode()
    return None if base64 is None else binascii.a2b_base64(base64, strict_mode=True)


def inflate(body: bytes, suffix: str) -> bytes:
    """An object's lines, by its name's suffix. Raises ArchiveError when they are damaged, or cut off."""
    try:
        if suffix.endswith(".zst"):
            coder = zstandard.ZstdDecompressor().decompressobj()
            content = coder.decompress(body)
            if not coder.eof or coder.unused_data:
                raise ValueError("not one whole zstd frame")
            return content
        if suffix.endswith(".gz"):
            if not body:
                raise EOFError("it is empty")
            content = igzip.decompress(body)  # type: ignore[no-untyped-call]
            assert isinstance(content, bytes)
            return content
    except (zstandard.ZstdError, zlib.error, EOFError, OSError, ValueError) as error:
        raise ArchiveError(f"Can't be decompressed as {suffix}: {error}") from error
    return body


def join_lines(lines: bytes, beside: bytes) -> Iterator[StoredRecord]:
    """The records of bare payloads, a line each, and of what stands beside them. Raises ArchiveError."""
    values = iter(lines.split(b"\n"))
    for number, text in enumerate(BytesIO(beside), 1):
        try:
            line = _decode(text)
            value = bytes(line.value) or _spelled(line.value_text, line.value_base64)
            if value is None:
                value = next(values, b"")
            yield _record(line, None if line.tombstone else value)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"Line {number} beside it is no record of an archive: {error}") from error
    if list(values) != [b""]:
        raise ArchiveError("It has other lines than what stands beside it tells of.")


def read_object(body: bytes, suffix: str) -> Iterator[StoredRecord]:
    """The records of one object's body; `suffix` is its name's, `jsonl.zst` for instance.

    An index does not hold its payloads, and bare lines are payloads alone: for these `read_chunk` fetches the rest.
    """
    kind = suffix.partition(".")[0]
    if kind == "jsonl":
        return decode_lines(inflate(body, suffix))
    if suffix.endswith("parquet"):
        return _rows(body)
    raise ArchiveError(f"This version of headrace can't read {suffix} objects.")


def _rows(body: bytes) -> Iterator[StoredRecord]:
    try:
        from headrace.parquet import read_rows
    except ImportError:
        raise ArchiveError("Reading Parquet needs pyarrow: pip install 'headrace[parquet]'") from None
    try:
        yield from read_rows(body)
    except (ValueError, OSError) as error:  # pyarrow's own are of these kinds
        raise ArchiveError(f"It is no Parquet of an archive, or damaged: {error}") from error


async def survey(
    store: ObjectStore, *, prefix: str, topic: str, progress: Callable[[int], None] = lambda _: None
) -> Survey:
    """LIST a topic's objects. `progress` is told the number of keys seen so far, page by page or so."""

    async def attempt() -> Survey:
        found, seen = Survey(topic), 0
        async for item in store.list(topic_folder(prefix, topic)):
            found.add(item.key, item.size)
            seen += 1
            if seen % 1000 == 0:
                progress(seen)
        progress(seen)
        return found

    return await patiently(attempt)


async def read_chunk(store: ObjectStore, chunk: Chunk) -> list[StoredRecord]:
    """A chunk's records by offset, out of all its objects; those that an index tells of, too."""
    parts = []
    for key in chunk.keys:
        name = parse_key(key)
        assert name is not None, "a chunk's keys are objects' names"
        if name.is_index:
            parts.append(await _payloads_of(store, key, await read_index(store, key)))
            continue
        body = await _body(store, key)
        try:
            if name.is_lines:
                beside = await _beside(store, key)
                records = await asyncio.to_thread(_joined, body, beside, name.suffix)
            else:
                records = await asyncio.to_thread(
                    lambda body, suffix: list(read_object(body, suffix)), body, name.suffix
                )
            parts.append(records)
        except ArchiveError as error:
            raise ArchiveError(f"{key}: {error}") from error
    return list(heapq.merge(*parts, key=attrgetter("offset")))


def _joined(body: bytes, beside: bytes | None, suffix: str) -> list[StoredRecord]:
    lines = inflate(body, suffix)
    return list(join_lines(lines, b"" if beside is None else inflate(beside, suffix)))


async def _beside(store: ObjectStore, key: str) -> bytes | None:
    """What stands beside the lines of an object: its name tells of how many records, as does the object's metadata.

    None where there is no record.
    """
    head = await patiently(lambda: store.head(key))
    records = None if head is None else told_records(head.metadata)
    if records is None:
        raise ArchiveError(f"No metadata ({RECORDS}) tells how many records it is of.")
    if records == 0:
        return None
    keys = beside_keys(key, records)
    for other in keys:
        body = await patiently(lambda other=other: store.get(other))  # type: ignore[misc]
        if body is not None:
            return body
    raise ArchiveError(f"What belongs beside it is gone: {' or '.join(keys) or 'it lies in no folder of its topic'}.")


async def read_index(store: ObjectStore, key: str) -> list[Entry]:
    """What an index tells of its payloads, by offset."""
    body = await _body(store, key)
    try:
        return await asyncio.to_thread(lambda: list(decode_index(index_lines(key, body))))
    except ArchiveError as error:
        raise ArchiveError(f"{key}: {error}") from error


def index_lines(key: str, body: bytes) -> bytes:
    """The lines of an index as it is stored. Raises ArchiveError when they are damaged."""
    name = parse_key(key)
    assert name is not None, "an index has an object's name"
    return inflate(body, name.suffix.removeprefix(f"{INDEX}."))


async def _payloads_of(store: ObjectStore, index_key: str, entries: list[Entry]) -> list[StoredRecord]:
    """The whole records of an index: each payload is fetched, and must be what the index says of it."""
    found: list[StoredRecord] = [entry.record for entry in entries]
    waiting = iter(enumerate(entries))

    async def work() -> None:
        for place, entry in waiting:
            if entry.object is not None:
                found[place] = entry.record._replace(value=await _payload(store, index_key, entry))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(PAYLOADS_AT_A_TIME, len(entries))):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return found


async def _payload(store: ObjectStore, index_key: str, entry: Entry) -> bytes:
    assert entry.object is not None
    prefix = payload_prefix(index_key, entry.object)
    if prefix is None:
        raise ArchiveError(f"{index_key}: it tells of {entry.object}, which is of another topic or time bucket.")
    value = await _body(store, prefix + entry.object, f"{index_key} tells of {prefix}{entry.object}, but it is gone.")
    if len(value) != entry.size or sha256(value).hexdigest() != entry.sha256:
        raise ArchiveError(f"{prefix}{entry.object} is not what {index_key} says of it: it was changed since.")
    return value


async def _body(store: ObjectStore, key: str, gone: str = "") -> bytes:
    body = await patiently(lambda: store.get(key))
    if body is None:
        raise ArchiveError(gone or f"{key} was listed, but is gone now.")
    return body


async def read_partition(
    store: ObjectStore, coverage: Coverage, *, start: int = 0, end: int | None = None
) -> AsyncIterator[StoredRecord]:
    """A partition's records by offset, those in [start, end); chunk by chunk, so that memory holds one at a time.

    Where chunks overlap, their records come twice.
    """
    for chunk in coverage.chunks:
        if chunk.is_gap or chunk.offsets.end <= start or (end is not None and chunk.offsets.start >= end):
            continue
        for record in await read_chunk(store, chunk):
            if record.offset >= start and (end is None or record.offset < end):
                yield record


async def patiently(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until S3 answers, at most ATTEMPTS times, with growing pauses. Raises the last S3Unavailable."""
    for number in range(1, ATTEMPTS):
        try:
            return await attempt()
        except S3Unavailable:
            pause = FIRST_PAUSE_SECONDS * 2 ** (number - 1)
            await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - spreads the load, hides nothing
    return await attempt()
