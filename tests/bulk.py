"""Much data, and how much memory it takes: topics filled by the batch, a process's RSS over time, archives counted."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from headrace.archive import patiently, survey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.coverage import Chunk
    from headrace.s3 import S3Store
    from tests.trial import Trial

MIB = 1024 * 1024
BATCH_BYTES = 200_000
SAMPLE_SECONDS = 0.1


async def fill(it: Trial, records: int, size: int, *, only: int | None = None, noisy: bool = True) -> None:
    """Records of about `size` bytes, most of it random if `noisy`, as many to each partition (or all to one)."""
    dice = random.Random(size)
    noise = base64.b64encode(dice.randbytes(3 * MIB) if noisy else bytes(3 * MIB))
    overhead = len(b'{"n":1234567,"pad":""}')
    pad = max(1, size - overhead)
    partitions = range(it.partitions) if only is None else [only]
    each = records // len(partitions)
    batch = max(1, min(each, BATCH_BYTES // size))
    number = 0
    async with it.producer(enable_idempotence=False, max_batch_size=2 * BATCH_BYTES + size, linger_ms=0) as producer:
        sent: list[asyncio.Future[object]] = []
        for begin in range(0, each, batch):
            for partition in partitions:
                builder = producer.create_batch()
                for _ in range(min(batch, each - begin)):
                    at = number * 331 % (len(noise) - pad)
                    value = b'{"n":%d,"pad":"%b"}' % (number, noise[at : at + pad])
                    builder.append(timestamp=int(time.time() * 1000), key=None, value=value)
                    number += 1
                builder.close()
                sent.append(await producer.send_batch(builder, it.topic, partition=partition))
                if len(sent) >= 64:
                    await asyncio.gather(*sent)
                    sent.clear()
        await asyncio.gather(*sent)


@dataclass
class Memory:
    """A process's resident memory, from /proc (Linux): the kernel's own high-water mark, and samples beside it."""

    pid: int
    samples: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the first, MiB)."""

    def now(self) -> float:
        return self._status("VmRSS")

    def peak(self) -> float:
        """MiB at most, since the start or the last `forget`."""
        return self._status("VmHWM")

    def forget(self) -> None:
        """The high-water mark begins anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024

    @contextlib.asynccontextmanager
    async def sampled(self) -> AsyncIterator[None]:
        began = time.monotonic()

        async def sample() -> None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):
                while True:
                    self.samples.append((round(time.monotonic() - began, 1), round(self.now(), 1)))
                    await asyncio.sleep(SAMPLE_SECONDS)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def count_exactly_once(it: Trial) -> int:
    """Chunks join from 0 to each log's end, and each holds every offset of its range once. Returns how many."""
    ends = await it.log_ends()
    async with it.store() as store:
        coverage = (await survey(store, prefix=it.prefix, topic=it.topic)).partitions()
        total = 0
        for tp, end in ends.items():
            if end == 0:
                continue
            found = coverage[tp.partition]
            assert not found.holes, f"{tp}: {found.holes}"
            assert not found.overlaps, f"{tp}: {found.overlaps}"
            assert (found.start, found.end) == (0, end), f"{tp}: {found.start}, {found.end}, the log ends at {end}"
            for chunk in found.chunks:
                offsets = await _offsets(store, chunk)
                assert offsets == list(range(chunk.offsets.start, chunk.offsets.end)), f"{chunk.keys} lacks records"
                total += len(offsets)
    return total


async def _offsets(store: S3Store, chunk: Chunk) -> list[int]:
    found: list[int] = []
    for key in chunk.keys:
        body = await patiently(lambda key=key: store.get(key))  # type: ignore[misc]
        assert body is not None, key
        lines = zstandard.ZstdDecompressor().decompress(body).splitlines()
        found += [int(line[10 : line.index(b",")]) for line in lines]  # {"offset":7,…
    return sorted(found)
