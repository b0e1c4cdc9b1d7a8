"""What a record costs on its way from a fetch to a chunk's lines, counted and not timed.

The ceilings are a tenth above what there was when they were set. A change that makes a record cost a call more goes
through them at once; one that is worth its cost raises them, and says why in docs/PERFORMANCE.md.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from consumer.batches import take
from consumer.chunk import Limits, OpenChunk
from consumer.encode import open_format
from consumer.layout import Layout

if TYPE_CHECKING:
    from types import FrameType

RECORDS = 4_000
A_BATCH = 500
ROOT = Path(__file__).parents[2]
LAYOUT, ENCODE = Layout("p", "dt=%Y-%m-%d/hour=%H", "jsonl.zst"), open_format("jsonl", "zstd").encode

CALLS_A_RECORD = 0.04
"""Of Python functions, for records that have a JSON value and nothing else: they go by the hundred."""
CALLS_A_KEYED_RECORD = 9.9
"""For records with a key and a header, whose lines are made one by one."""
BLOCKS_HELD_A_RECORD = 0.02
"""Python's memory blocks that a record in an open chunk holds: its line is a piece of a long one."""


def fetched(*, keyed: bool) -> Any:
    raw = b""
    for base in range(0, RECORDS, A_BATCH):
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=1 << 24,
        )
        for number in range(A_BATCH):
            value = b'{"id":"evt-%d","text":"%b"}' % (base + number, b"x" * 150)
            key, headers = (b"user-%d" % number, [("trace", b"abc")]) if keyed else (None, [])
            builder.append(number, timestamp=1_795_219_200_000 + number, key=key, value=value, headers=headers)
        batch = bytearray(builder.build())
        batch[0:8] = base.to_bytes(8, "big")
        raw += batch
    return PartitionRecords(TopicPartition("t", 0), MemoryRecords(raw), [], 0, None, None, True, READ_COMMITTED)


def fill(chunk: OpenChunk, source: Any) -> None:
    """What a consumer does with a fetch."""
    records = take(source, RECORDS, check=False)
    limits = Limits(max_records=100_000, max_bytes=1 << 26, max_seconds=60)
    assert chunk.take(records, layout=LAYOUT, encode=ENCODE, limits=limits, now=0.0) == RECORDS


@pytest.mark.parametrize(("keyed", "most"), [(False, CALLS_A_RECORD), (True, CALLS_A_KEYED_RECORD)])
def test_a_record_costs_so_many_calls(keyed: bool, most: float) -> None:
    source, chunk = fetched(keyed=keyed), OpenChunk(0)
    found: Counter[str] = Counter()

    def notice(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found[frame.f_code.co_qualname] += 1

    gc.disable()  # hypothesis, where another test has loaded it, is called at each collection
    sys.setprofile(notice)
    try:
        fill(chunk, source)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert found.total() / RECORDS <= most, found.most_common(10)


def test_a_record_that_waits_is_a_piece_of_a_long_line() -> None:
    source, chunk = fetched(keyed=False), OpenChunk(0)
    gc.collect()
    before = sys.getallocatedblocks()
    fill(chunk, source)
    del source
    gc.collect()
    assert (sys.getallocatedblocks() - before) / RECORDS <= BLOCKS_HELD_A_RECORD
    assert chunk.cargo.size == sum(len(part) for bucket in chunk.close()[1].buckets for part in bucket.parts)


def test_consume_loads_nothing_that_it_does_not_need() -> None:
    heavy = {"duckdb", "jgo", "matplotlib", "numpy", "obstore", "pandas", "producer", "psutil", "pyarrow", "requests"}
    code = "import sys, consumer.process; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert heavy.intersection(told.split()) == set()
