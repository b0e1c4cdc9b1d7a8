"""What must hold: at every moment while everything breaks (Watch), and in the end (judge)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from headrace.archive import read_chunk, survey
from headrace.coverage import is_complete, told_objects
from headrace.errors import HeadraceError
from tests.chaos.ledger import digest
from tests.chaos.load import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.coverage import Chunk, Coverage
    from headrace.s3 import S3Store
    from tests.chaos.ledger import Ledger
    from tests.chaos.load import HttpLoad, NativeLoad
    from tests.trial import Trial

SAMPLE_SECONDS: Final = 0.5
READERS: Final = 8
SHOWN: Final = 5


class Watch:
    """Samples the group's offsets and the bucket: nothing may be committed past what is stored without a hole."""

    def __init__(self, trial: Trial, store: S3Store) -> None:
        self._trial = trial
        self._store = store
        self.frontier = dict.fromkeys(range(trial.partitions), 0)
        """Of each partition: everything below is stored, in whole chunks."""
        self.samples = 0
        self._ahead: set[int] = set()
        self.complaints: list[str] = []

    @property
    def stored(self) -> int:
        """Offsets that are stored without a hole, of all partitions."""
        return sum(self.frontier.values())

    async def run(self) -> None:
        """Until cancelled. A sample that can't be had, because Kafka or S3 are away, is left out."""
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(20):
                    await self.sample()
            except (HeadraceError, OSError):  # TimeoutError is an OSError
                pass
            # At most half of the time: a LIST of everything takes longer and longer.
            await asyncio.sleep(max(SAMPLE_SECONDS, time.monotonic() - began))

    async def sample(self) -> None:
        # In this order: what is stored only grows, so what was committed before the LIST must be in it.
        committed = await self._trial.committed()
        found = await survey(self._store, prefix=self._trial.prefix, topic=self._trial.topic)
        for tp, (offset, metadata) in committed.items():
            await self._advance(found.coverage(tp.partition))
            # Without metadata it is the reset of a fault, not a commit of ours.
            if metadata and offset > self.frontier[tp.partition] and tp.partition not in self._ahead:
                self._ahead.add(tp.partition)  # one complaint a partition: it mostly stays so
                self.complaints.append(
                    f"{tp.topic}/{tp.partition} is committed at {offset} ({metadata}), "
                    f"but stored without a hole only up to {self.frontier[tp.partition]}"
                )
        self.samples += 1

    async def _advance(self, coverage: Coverage) -> None:
        at = self.frontier[coverage.partition]
        for chunk in coverage.chunks:
            if chunk.offsets.end <= at:
                continue
            if chunk.offsets.start > at or not await self._is_whole(chunk):
                break
            at = chunk.offsets.end
        self.frontier[coverage.partition] = at

    async def _is_whole(self, chunk: Chunk) -> bool:
        head = await self._store.head(chunk.keys[0])
        assert head is not None, "it was listed"
        return is_complete(len(chunk.keys), [told_objects(head.metadata)]) is True


@dataclass
class Verdict:
    """What was found in the end. `findings` say what is wrong, a sentence each."""

    records: int = 0
    chunks: int = 0
    objects: int = 0
    copies: int = 0
    missing: int = 0
    different: int = 0
    accepted: int = 0
    """Payloads that got a 200."""
    accepted_missing: int = 0
    """Of these, not in S3."""
    unknown_present: int = 0
    """Attempts with an unknown outcome that are in Kafka, whole."""
    torn: int = 0
    """Attempts that are in Kafka in part, twice, or not together."""
    refused_present: int = 0
    """Attempts that were refused, and are in Kafka all the same."""
    native_missing: int = 0
    """Records that Kafka acknowledged to the native publisher, and that are not in it."""
    native_twice: int = 0
    findings: list[str] = field(default_factory=list)

    def find(self, number: int, what: str) -> None:
        if number:
            self.findings.append(f"{number} {what}")


async def judge(trial: Trial, store: S3Store, ledger: Ledger, http: HttpLoad, native: NativeLoad) -> Verdict:
    """Compare S3 with all that Kafka has ever held, and Kafka with what its publishers know."""
    verdict = Verdict(records=sum(ledger.ends().values()))
    stored = await _read_all(trial, store, ledger, verdict)
    _judge_requests(stored, ledger, http, verdict)
    verdict.native_missing = len(native.acknowledged - ledger.natives.keys())
    verdict.native_twice = sum(count > 1 for count in ledger.natives.values())
    verdict.find(verdict.native_missing, "records that Kafka acknowledged to the native publisher are not in it")
    return verdict


async def _read_all(trial: Trial, store: S3Store, ledger: Ledger, verdict: Verdict) -> Mapping[int, Counter[int]]:
    found = await survey(store, prefix=trial.prefix, topic=trial.topic)
    stored: dict[int, Counter[int]] = {}
    limit = asyncio.Semaphore(READERS)

    async def read(partition: int, chunk: Chunk) -> None:
        async with limit:
            records = await read_chunk(store, chunk)
        for record in records:
            stored[partition][record.offset] += 1
            known = ledger.digests[partition]
            content = digest(record.timestamp, record.key, record.value, record.headers)
            if record.offset >= len(known) or known[record.offset] != content:
                verdict.different += 1
                if verdict.different <= SHOWN:
                    verdict.findings.append(f"{chunk.keys}: {record} is not what Kafka had")

    async with asyncio.TaskGroup() as group:
        for partition, end in ledger.ends().items():
            coverage = found.coverage(partition)
            stored[partition] = Counter()
            verdict.chunks += len(coverage.chunks)
            verdict.objects += coverage.objects
            verdict.findings += [f"{trial.topic}/{partition}: hole {hole}" for hole in coverage.holes]
            verdict.findings += [f"{trial.topic}/{partition}: gap {lost}" for lost in coverage.lost]
            for left, right in coverage.overlaps[:SHOWN]:
                verdict.findings.append(f"{right.keys[0]} overlaps {left.keys[0]}")
            if end and (coverage.start, coverage.end) != (0, end):
                verdict.findings.append(
                    f"{trial.topic}/{partition}: S3 has [{coverage.start}, {coverage.end}), Kafka [0, {end})"
                )
            for chunk in coverage.chunks:
                if not chunk.is_gap:
                    group.create_task(read(partition, chunk))
    for partition, end in ledger.ends().items():
        verdict.copies += stored[partition].total() - len(stored[partition])
        verdict.missing += sum(offset not in stored[partition] for offset in range(end))
    verdict.find(verdict.copies, "extra copies of records are in S3")
    verdict.find(verdict.missing, "records of Kafka are not in S3")
    verdict.find(verdict.different, "records in S3 are not what Kafka had")
    return stored


def _judge_requests(stored: Mapping[int, Counter[int]], ledger: Ledger, http: HttpLoad, verdict: Verdict) -> None:
    for attempt, (outcome, count) in http.outcomes.items():
        placed = ledger.attempts.get(attempt)
        if outcome is Outcome.ACCEPTED:
            verdict.accepted += count
            there = {n for partition, offset, n in placed.places if offset in stored[partition]} if placed else set()
            verdict.accepted_missing += count - len(there)
        if placed is None:
            continue
        if not placed.whole_and_together:
            verdict.torn += 1
            if verdict.torn <= SHOWN:
                verdict.findings.append(f"attempt {attempt} ({outcome.value}) of {count}: {placed.places}")
        elif outcome is Outcome.UNKNOWN:
            verdict.unknown_present += 1
        verdict.refused_present += outcome is Outcome.REFUSED
    strangers = ledger.attempts.keys() - http.outcomes.keys()
    verdict.find(len(strangers), "requests are in Kafka that nobody has sent")
    verdict.find(verdict.accepted_missing, "payloads that got a 200 are not in S3")
    verdict.find(verdict.torn, "requests are in Kafka in part, twice or not together")
    verdict.find(verdict.refused_present, "requests were refused, and are in Kafka")
