"""Parquet as headrace writes it: the schema of the envelope, and its records had back byte for byte.

Import it only where Parquet is asked for: pyarrow (the extra `parquet`) takes 60 MB and a third of a second.

    topic, partition, offset    where the record stood in Kafka
    timestamp                   milliseconds, UTC; null: there is none, or it lies beyond the years that readers know
    timestamp_ms                only of those: the number that Kafka has
    key, value                  as text, when they are UTF-8
    key_binary, value_binary    all other bytes; a tombstone has neither value
    headers                     in order: name, and a value like those above

With PARQUET_COLUMNS=payload these names begin with _, and fields of payloads that are JSON objects stand beside them:

    _exact                      the payload is its fields' columns and _rest: they give it back byte for byte
    _value, _value_binary       the payload where they don't
    _rest                       JSON text of the fields that have no column, or whose value does not fit there
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.columns import Kind, from_json, rebuild
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_TIMESTAMP: Final = -1
LAST_KNOWN_MS: Final = 253_402_300_800_000
"""The year 10000. For later ones (microseconds taken for milliseconds) many readers refuse the whole file."""
ROWS_READ: Final = 8192

HEADER: Final = pa.struct(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("value_binary", pa.binary()),
    ]
)
PLACE: Final = [pa.field("topic", pa.string(), nullable=False), pa.field("partition", pa.int32(), nullable=False)]
"""Columns that are the same in all rows of an object."""
RECORD: Final = [
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("timestamp", pa.timestamp("ms", "UTC")),
    pa.field("timestamp_ms", pa.int64()),
    pa.field("key", pa.string()),
    pa.field("key_binary", pa.binary()),
    pa.field("headers", pa.list_(pa.field("element", HEADER, nullable=False)), nullable=False),
    pa.field("value", pa.string()),
    pa.field("value_binary", pa.binary()),
]
ENVELOPE: Final = pa.schema(PLACE + RECORD)
_OURS: Final = [it.with_name(f"_{it.name}") for it in PLACE + RECORD]
OWN: Final = pa.schema(
    [*_OURS[:-2], pa.field("_exact", pa.bool_(), nullable=False), *_OURS[-2:], pa.field("_rest", pa.string())]
)
"""Our columns beside a payload's."""
PAYLOAD: Final = "payload"
"""What the file's metadata calls such columns."""
COLUMNS: Final = b"headrace.columns"
TREE: Final = "headrace.payload"
"""Name of the file's metadata that tells how payloads are had back."""


def read_rows(body: bytes) -> Iterator[StoredRecord]:
    """The records of an object. Raises pyarrow's errors and ValueError for what isn't one."""
    file = pq.ParquetFile(BytesIO(body), page_checksum_verification=True)
    told = file.metadata.metadata or {}
    of_payload = told.get(COLUMNS) == PAYLOAD.encode()
    mark = "_" if of_payload else ""
    wanted = [f"{mark}{field.name}" for field in RECORD]
    if missing := sorted(set(wanted) - set(file.schema_arrow.names)):
        raise ValueError(f"it has no column {missing[0]}")
    if not of_payload:
        for batch in file.iter_batches(ROWS_READ, columns=wanted):
            yield from _records(batch, "")
        return
    root = from_json(orjson.loads(told[TREE.encode()]))
    theirs = [name for name, node in root.fields.items() if node.kind not in {Kind.NULL, Kind.REST}]
    for batch in file.iter_batches(ROWS_READ):
        payloads = batch.select(theirs).to_pylist()
        facts = zip(batch.column("_exact").to_pylist(), batch.column("_rest").to_pylist(), strict=True)
        for record, payload, (exact, rest) in zip(_records(batch, "_"), payloads, facts, strict=True):
            yield record._replace(value=rebuild(root, payload, rest)) if exact else record


def _records(batch: Any, mark: str) -> Iterator[StoredRecord]:
    columns = {field.name: batch.column(f"{mark}{field.name}") for field in RECORD}
    columns["timestamp"] = columns["timestamp"].cast(pa.int64())
    rows = zip(*(columns[field.name].to_pylist() for field in RECORD), strict=True)
    for offset, timestamp, odd, key, key_binary, headers, value, value_binary in rows:
        yield StoredRecord(
            offset,
            next((it for it in (timestamp, odd) if it is not None), NO_TIMESTAMP),
            _bytes(key, key_binary),
            _bytes(value, value_binary),
            tuple((it["key"], _bytes(it["value"], it["value_binary"])) for it in headers),
        )


def _bytes(text: str | None, binary: bytes | None) -> bytes | None:
    return binary if text is None else text.encode()
