"""Topics that are compacted while they are archived: what the log has in the end is in S3, and nothing it never had."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from headrace.objects import Range
from headrace.record import StoredRecord
from tests.s3_proxy import Fault, S3Proxy, never, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.trial import Trial

    NewTrial = Callable[..., Trial]

pytestmark = pytest.mark.stack

COMPACTED = {
    "cleanup_policy": "compact",
    "segment_ms": "50",
    "min_cleanable_dirty_ratio": "0.01",
    "delete_retention_ms": "0",
    "max_compaction_lag_ms": "50",
}
QUICK = {"UPLOAD_TIMEOUT_SECONDS": "1", "SESSION_TIMEOUT_SECONDS": "2", "CHUNK_MAX_RECORDS": "50"}

Sent = dict[tuple[int, int], StoredRecord]
"""All that was ever acknowledged, by partition and offset."""


async def keep_updating(it: Trial, sent: Sent, count: int, *, keys: int = 7, partition: int | None = None) -> None:
    """Records of a few keys, again and again; some are deleted by a tombstone."""
    first = len(sent)
    async with it.producer() as producer:
        futures = []
        for number in range(first, first + count):
            key, value = b"key-%d" % (number % keys + keys), None if number % 10 == 9 else b"%d" % number
            at = number % it.partitions if partition is None else partition
            now = int(time.time() * 1000)
            sending = await producer.send(it.topic, value, key, partition=at, timestamp_ms=now)
            futures.append((key, value, now, sending))
        for key, value, timestamp, sending in futures:
            told = await sending
            sent[told.partition, told.offset] = StoredRecord(told.offset, timestamp, key, value, ())


async def cleaned(it: Trial, sent: Sent, below: Range | None = None) -> None:
    """Wait until the log cleaner has taken records; with `below`, all of that range of partition 0.

    It leaves the segment alone that is written to: a record now and then makes it begin another.
    """

    async def fewer() -> bool:
        await keep_updating(it, sent, 10)
        log = await it.log()
        if below is not None:
            return not any(below.start <= record.offset < below.end for record in log[0])
        return sum(map(len, log.values())) < len(sent) // 2

    await it.eventually(fewer, what="the log cleaner has run")


async def assert_kept(it: Trial, sent: Sent) -> int:
    """What the log has is in S3, what is in S3 was once in the log, each offset once. Returns how many there are."""
    log, archive = await it.log(), await it.archive()
    listing = await it.survey()
    for tp, end in (await it.log_ends()).items():
        coverage = listing.coverage(tp.partition)
        assert (coverage.start, coverage.end) == (0, end), it.logs()
        records = archive[tp.partition]
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets)), "an offset came twice"
        strange = [record for record in records if sent.get((tp.partition, record.offset)) != record]
        assert not strange, f"{tp}: in S3, but never in Kafka: {strange[:3]}"
        missing = set(log[tp.partition]) - set(records)
        assert not missing, f"{tp}: in Kafka, but not in S3: {sorted(r.offset for r in missing)}\n{it.logs()}"
    return sum(map(len, archive.values()))


async def test_killed_over_and_over_while_the_log_cleaner_runs(busy_trial: NewTrial) -> None:
    """Two consumers, killed in turn with claims open, while the cleaner takes what they have still to cut again."""
    it = busy_trial(partitions=3, hint="compact")
    await it.create_topic(**COMPACTED)
    sent: Sent = {}
    done = asyncio.Event()

    def slow(method: str, path: str) -> tuple[Fault, float]:
        return Fault.PASS, 0.3 if method == "PUT" and "_headrace" not in path else 0.0

    async def load() -> None:
        while not done.is_set():
            await keep_updating(it, sent, 300)

    async def progress() -> None:
        before = await it.committed()

        async def more() -> bool:
            now = await it.committed()
            moved = all(now[tp][0] > before[tp][0] for tp in it.tps)
            return moved and any(not metadata.endswith(" -") for _, metadata in now.values())

        await it.eventually(more, what="all partitions get on, and claims are open")

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], slow) as proxy:
        settings = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, **QUICK}
        running = [it.start(**settings), it.start(**settings)]
        async with asyncio.TaskGroup() as group:
            group.create_task(load())
            for round_ in range(2):
                await progress()
                running[round_ % 2].kill()
                running[round_ % 2] = it.start(**settings)
            done.set()
        await cleaned(it, sent)
        await it.stored(90)
    kept = await assert_kept(it, sent)
    assert kept <= len(sent)
    code, text = await it.run("verify")
    assert code == 0, text


async def test_claimed_chunks_keep_names_and_ends_when_compaction_takes_their_records(busy_trial: NewTrial) -> None:
    """Of four claimed chunks the first was stored but not committed, and keeps one record in Kafka, the others none.

    The first keeps what it has: nothing stored shrinks. The others keep their ends, as empty objects.
    """
    it = busy_trial(partitions=1, hint="compact")
    await it.create_topic(**COMPACTED)
    sent: Sent = {}
    await keep_updating(it, sent, 1, keys=10**9)  # nobody updates this one
    await keep_updating(it, sent, 199)

    def first_alone(method: str, path: str) -> tuple[Fault, float]:
        if method != "PUT" or "_headrace" in path:
            return Fault.PASS, 0.0
        return (Fault.LOST_REPLY if f"{0:020d}-{50:020d}" in path else Fault.UNAVAILABLE), 0.0

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], first_alone) as proxy:
        settings = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, **QUICK}
        first = it.start(**settings)
        await _landed_and_claimed(it, proxy)
        first.kill()
        before = await it.stamps()
        assert len(before) == 1
        await keep_updating(it, sent, 200)
        await cleaned(it, sent, below=Range(1, 200))
        proxy.choose = never
        it.start(**settings)
        await it.stored()
    chunks = (await it.survey()).coverage(0).chunks
    assert [(chunk.offsets.start, chunk.offsets.end) for chunk in chunks[:4]] == [
        (0, 50),
        (50, 100),
        (100, 150),
        (150, 200),
    ]
    archive = (await it.archive())[0]
    assert [record for record in archive if record.offset < 200] == [sent[0, offset] for offset in range(50)]
    after = await it.stamps()
    assert {key: after[key] for key in before} == before, "a whole chunk was written again"
    await assert_kept(it, sent)


async def _landed_and_claimed(it: Trial, proxy: S3Proxy) -> None:
    async def true() -> bool:
        claims = (await it.committed())[it.tps[0]][1].rpartition(" ")[2]
        return proxy.seen[Fault.LOST_REPLY] > 0 and claims == "50,50,50,50"

    await it.eventually(true, what="four chunks are claimed, and the first has landed")
