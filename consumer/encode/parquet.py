"""FORMAT=parquet: records in typed columns (headrace/parquet tells which), lossless, sorted by offset.

Until their upload records wait as an Arrow record batch in IPC bytes; a row group is made of some of these without
copying, compressed column by column, and let go before the next one. A few records alone would be small beside such a
batch's own thousand bytes: they wait as MessagePack, and become a batch with their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from consumer.encode.form import Format, Packed, Place
from headrace.parquet import ENVELOPE, HEADER, LAST_KNOWN_MS, NO_TIMESTAMP, RECORD
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consumer.encode.compression import Codec
    from headrace.record import Record

LEVELS: Final[dict[Codec, range]] = {
    "zstd": range(1, 20),
    "gzip": range(1, 10),
    "snappy": range(1),
    "none": range(1),
}
DEFAULT_LEVELS: Final[dict[Codec, int]] = {"zstd": 1, "gzip": 4, "snappy": 0, "none": 0}
ROW_GROUP_ROWS: Final = 131_072
ROW_GROUP_BYTES: Final = 32 * 1024 * 1024
"""Of the waiting batches. Readers work on row groups side by side, and hold a few of them."""

FEW: Final = 32
_BATCH: Final = 0xFF
"""The first byte of IPC's; MessagePack's arrays begin with others."""

_BATCH_ROWS: Final = 1024
_WAITING: Final = pa.schema(RECORD)
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[StoredRecord]).decode
_STRINGS_THAT_REPEAT: Final = ["topic", "partition", "key", "headers.list.element.key", "headers.list.element.value"]
_RANGES: Final = ["topic", "partition", "offset", "timestamp", "timestamp_ms", "key"]
"""Nobody looks for a range of payloads, and their lowest and highest would stand in the file whole."""
_value: Final = attrgetter("value")
_key: Final = attrgetter("key")
_HEADERS: Final = _WAITING.field("headers").type
_EMPTY_HEADER: Final = pa.array([], HEADER)
_NO_HEADER: Final = pa.scalar(0, pa.int32())

pa.set_memory_pool(pa.system_memory_pool())  # what is freed goes back: consumer/memory sees to the C library's


@dataclass(frozen=True, slots=True)
class Parquet(Format):
    codec: Codec
    level: int

    @property
    def suffix(self) -> str:
        return "parquet"

    @property
    def content_type(self) -> str:
        return "application/vnd.apache.parquet"

    def encode(self, records: Sequence[Record]) -> list[bytes]:
        if len(records) < FEW:
            return [_pack([(it.offset, it.timestamp, it.key, it.value, it.headers) for it in records])]
        return [_batch(records).serialize().to_pybytes()]

    def pack(self, parts: list[bytes], place: Place) -> Packed:
        body = BytesIO()
        with self.writer(body, ENVELOPE, "offset", repeating=_STRINGS_THAT_REPEAT, ranges=_RANGES) as writer:
            writer.add_key_value_metadata(facts(place, "envelope"))
            for batches in row_groups(parts):
                rows = sum(batch.num_rows for batch in batches)
                constants = [pa.repeat(place.topic, rows), pa.repeat(pa.scalar(place.partition, pa.int32()), rows)]
                table = pa.Table.from_batches(batches)
                writer.write_table(pa.table([*constants, *table.columns], schema=ENVELOPE), row_group_size=rows)
        return Packed(body.getvalue())

    def writer(
        self, body: BytesIO, schema: Any, offset: str, *, repeating: Sequence[str], ranges: Sequence[str]
    ) -> Any:
        """Int64 timestamps with their zone, lists in the standard's three levels, no Arrow schema.

        `repeating` columns have dictionaries, `ranges` have statistics; rows are in the order of `offset`.
        """
        return pq.ParquetWriter(
            body,
            schema,
            version="2.6",
            compression=self.codec,
            compression_level=self.level if len(LEVELS[self.codec]) > 1 else None,
            use_dictionary=list(repeating),
            sorting_columns=[pq.SortingColumn(schema.names.index(offset))],
            write_statistics=list(ranges),
            write_page_index=True,
            write_page_checksum=True,
            store_schema=False,
        )


def open_parquet(codec: Codec, level: int | None) -> Parquet:
    """With the envelope's columns. Raises ValueError for a level that the codec does not have."""
    return Parquet(codec, level_of(codec, level))


def level_of(codec: Codec, level: int | None) -> int:
    """The level, or the codec's default. Raises ValueError for one that it does not have."""
    chosen = DEFAULT_LEVELS[codec] if level is None else level
    if chosen not in LEVELS[codec]:
        known = LEVELS[codec]
        raise ValueError(f"{codec} has no level {chosen} in Parquet; it has {known.start} to {known.stop - 1}")
    return chosen


def facts(place: Place, columns: str) -> dict[str, str]:
    """The file's own metadata."""
    return {
        "headrace.columns": columns,
        "headrace.topic": place.topic,
        "headrace.partition": str(place.partition),
        "headrace.start": str(place.offsets.start),
        "headrace.end": str(place.offsets.end),
        "headrace.sorted_by": "offset",
    }


def batch_of(part: bytes) -> Any:
    """A waiting part as a batch with RECORD's columns."""
    if part[0] == _BATCH:
        return pa.ipc.read_record_batch(pa.py_buffer(part), _WAITING)
    return _batch(_unpack(part))


def row_groups(parts: list[bytes], most_bytes: int | None = None) -> Iterator[list[Any]]:
    """The waiting batches, as many at a time as make a row group. The parts are let go as it comes to them."""
    most = ROW_GROUP_BYTES if most_bytes is None else most_bytes
    parts.reverse()
    while parts:
        batches: list[Any] = []
        rows = size = 0
        while parts and size < most and rows < ROW_GROUP_ROWS:
            few: list[StoredRecord] = []
            while parts and parts[-1][0] != _BATCH and len(few) < _BATCH_ROWS:
                size += len(parts[-1])
                few += _unpack(parts.pop())
            if few:
                batches.append(_batch(few))
            else:
                size += len(parts[-1])
                batches.append(batch_of(parts.pop()))
            rows += batches[-1].num_rows
        yield batches


def _batch(records: Sequence[Record]) -> Any:
    times, odd_times = _times([record.timestamp for record in records])
    keys, binary_keys = _texts(list(map(_key, records)))
    values, binary_values = _texts(list(map(_value, records)))
    columns = [
        pa.array([record.offset for record in records], pa.int64()),
        pa.array(times, pa.timestamp("ms", "UTC")),
        odd_times,
        keys,
        binary_keys,
        _headers(records),
        values,
        binary_values,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_WAITING)


def _times(times: list[int]) -> tuple[list[int | None] | list[int], Any]:
    if min(times) >= 0 and max(times) < LAST_KNOWN_MS:
        return times, pa.nulls(len(times), pa.int64())
    known = [0 <= time < LAST_KNOWN_MS for time in times]
    odd = [None if fits or time == NO_TIMESTAMP else time for time, fits in zip(times, known, strict=True)]
    return [time if fits else None for time, fits in zip(times, known, strict=True)], pa.array(odd, pa.int64())


def _texts(bodies: list[bytes | None]) -> tuple[Any, Any]:
    """What is UTF-8 as text, and what is not as bytes: each is in one of both, or there is none."""
    binary = pa.array(bodies, pa.binary())
    try:
        return binary.cast(pa.string()), pa.nulls(len(bodies), pa.binary())
    except pa.ArrowInvalid:  # checks all of it; now one by one
        texts = [_text(body) for body in bodies]
    rest = [body if text is None else None for body, text in zip(bodies, texts, strict=True)]
    return pa.array(texts, pa.string()), pa.array(rest, pa.binary())


def _text(body: bytes | None) -> str | None:
    try:
        return None if body is None else body.decode()
    except UnicodeDecodeError:
        return None


def _headers(records: Sequence[Record]) -> Any:
    at, names, bodies = [0], [], []
    for record in records:
        for name, body in record.headers:
            names.append(name)
            bodies.append(body)
        at.append(len(names))
    if not names:
        return pa.ListArray.from_arrays(pa.repeat(_NO_HEADER, len(at)), _EMPTY_HEADER, _HEADERS)
    fields = [pa.array(names, pa.string()), *_texts(bodies)]
    elements = pa.StructArray.from_arrays(fields, fields=list(HEADER))
    return pa.ListArray.from_arrays(pa.array(at, pa.int32()), elements, _HEADERS)
