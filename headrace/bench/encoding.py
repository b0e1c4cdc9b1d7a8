"""One format, or a library alone, turns records into an object: the child that `formats` measures.

Only what is the format's own work counts: records are made in between, unseen by the clock.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from headrace.bench.payloads import make_payloads
from headrace.objects import Range
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A_FETCH: Final = 500
"""Records that come at a time, as out of a fetch."""
_FIRST_MS: Final = 1_795_219_200_000


FORMATS: Final[dict[str, tuple[Any, ...]]] = {
    # subject: arguments of open_format
    "jsonl, zstd": ("jsonl", "zstd"),
    "jsonl, gzip": ("jsonl", "gzip"),
    "jsonl, none": ("jsonl", "none"),
    "raw, zstd": ("raw", "zstd"),
    "raw, gzip": ("raw", "gzip"),
    "parquet, zstd": ("parquet", "zstd"),
    "parquet, snappy": ("parquet", "snappy"),
    "parquet of payloads, zstd": ("parquet", "zstd", None, "payload"),
    "object: index, zstd": ("object", "zstd"),
}


class Stopwatch:
    """CPU seconds of what happens in its context, all threads."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began


def batches(records: int, size: int) -> Iterator[list[StoredRecord]]:
    """Records of payloads without keys or headers, as fetches give them."""
    for first in range(0, records, A_FETCH):
        payloads = make_payloads(min(A_FETCH, records - first), size, seed=first)
        yield [StoredRecord(first + at, _FIRST_MS + (first + at) // 3, None, it) for at, it in enumerate(payloads)]


def format_alone(name: str, records: int, size: int, watch: Stopwatch) -> int:
    """Encode and pack one chunk; returns the bytes of all that would be stored of it."""
    from consumer.encode import Place, open_format

    form = open_format(*FORMATS[name])
    parts: list[bytes] = []
    for batch in batches(records, size):
        with watch:
            parts += form.encode(batch)
    with watch:
        packed = form.pack(parts, Place("", "bench", 0, Range(0, records), "dt=2026-11-22", records))
    return len(packed.content) + len(packed.lines) + sum(len(it.content) for it in packed.beside)


def compressor_alone(kind: str, records: int, size: int, watch: Stopwatch) -> int:
    """The payloads joined by line ends, through the compressor that headrace uses, at its level."""
    import zstandard
    from isal import isal_zlib

    coder: Any = zstandard.ZstdCompressor(1).compressobj() if kind == "zstd" else isal_zlib.compressobj(2, wbits=31)
    stored = 0
    for batch in batches(records, size):
        lines = b"\n".join([record.value or b"" for record in batch]) + b"\n"
        with watch:
            stored += len(coder.compress(lines))
    with watch:
        stored += len(coder.flush())
    return stored


def pyarrow_alone(kind: str, records: int, size: int, watch: Stopwatch) -> int:
    """A table of offset, timestamp and value out of Python's objects; or of payloads' fields, by its JSON reader."""
    import pyarrow as pa
    import pyarrow.json as pa_json
    import pyarrow.parquet as pq

    tables = []
    for batch in batches(records, size):
        values = [record.value for record in batch]
        with watch:
            if kind == "json":
                tables.append(pa_json.read_json(BytesIO(b"\n".join([value or b"" for value in values]))))
                continue
            columns = {
                "offset": pa.array([record.offset for record in batch], pa.int64()),
                "timestamp": pa.array([record.timestamp for record in batch], pa.timestamp("ms", "UTC")),
                "value": pa.array(values, pa.binary()).cast(pa.string()),
            }
            tables.append(pa.table(columns))
    body = BytesIO()
    with watch:
        pq.write_table(
            pa.concat_tables(tables, promote_options="permissive"), body, compression="zstd", compression_level=1
        )
    return body.getbuffer().nbytes


ALONE: Final[dict[str, tuple[Callable[[str, int, int, Stopwatch], int], str]]] = {
    "zstd alone, of lines": (compressor_alone, "zstd"),
    "gzip (isal) alone, of lines": (compressor_alone, "gzip"),
    "pyarrow alone: 3 columns, zstd": (pyarrow_alone, "table"),
    "pyarrow alone: read_json, zstd": (pyarrow_alone, "json"),
}


def main() -> None:
    """Arguments: subject, records, bytes of a payload. Prints what it took, as JSON."""
    name, records, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    gc.freeze()
    watch = Stopwatch()
    work, kind = ALONE.get(name, (format_alone, name))
    work(kind, A_FETCH, size, Stopwatch())  # imports and first calls are not what a record costs
    stored = work(kind, records, size, watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"cpu_us_record": watch.seconds * 1e6 / records, "stored_bytes": stored, "rss_peak_mib": peak}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
