"""The archiver's memory while S3 is dead, slow and well, at full input. python -m bench.bounds --help.

Starts a Kafka and an S3 server of its own, and a proxy that refuses or delays PUTs. For each shape of topic: S3 dead
for a while, then back with replies of 1-3 s until all is stored and committed; then the same topic once more with S3
well. Peaks are the kernel's (VmHWM), begun anew for each phase. In the end every offset is counted in the objects.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from headrace.local.ports import free_ports
from tests import services
from tests.bulk import Memory, count_exactly_once, fill
from tests.s3_proxy import Fault, never, on_objects, s3_proxy
from tests.trial import Trial, trial

if TYPE_CHECKING:
    from tests.s3_proxy import Choose

SHAPES = {
    # name: records, bytes a record, partitions
    "220 B": (3_000_000, 220, 12),
    "1 KB": (700_000, 1000, 12),
    "50 KB": (14_000, 50_000, 12),
    "220 B, 1,000 partitions": (2_000_000, 220, 1000),
}
COLUMNS = ("S3 dead", "draining, S3 slow", "S3 well")


@dataclass
class Run(Trial):
    """A topic archived from its start by a group of its own."""

    name: str = ""

    @property
    def group(self) -> str:
        return f"{super().group}-{self.name}"


def slow_replies() -> Choose:
    dice = random.Random(1)

    def choose(method: str, path: str) -> tuple[Fault, float]:
        return Fault.PASS, dice.uniform(1, 3) if method == "PUT" and "_headrace" not in path else 0.0

    return choose


async def archive(it: Trial, records: int, choose: Choose, dead_seconds: float, name: str) -> dict[str, Any]:
    """One archiver from its start until all is stored, counted; with S3 dead at first where seconds are given."""
    run = Run(**vars(it) | {"prefix": f"{it.prefix}-{name}"}, name=name)
    (port,) = free_ports(1)
    first = on_objects(Fault.UNAVAILABLE) if dead_seconds else choose
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], first) as proxy:
        archiver = run.start(
            AWS_ENDPOINT_URL_S3=proxy.endpoint,
            MANAGEMENT_PORT=str(port),
            CHUNK_MAX_SECONDS="3",
            CHUNK_MAX_RECORDS="100000",
            UPLOAD_TIMEOUT_SECONDS="60",
            SESSION_TIMEOUT_SECONDS="10",
        )
        memory = Memory(archiver.popen.pid)
        found: dict[str, Any] = {}
        async with memory.sampled():
            if dead_seconds:
                await asyncio.sleep(dead_seconds)
                found["dead_peak_mib"] = round(memory.peak())
                memory.forget()
                proxy.choose = choose
            began = time.monotonic()
            await run.stored(900)
            found["seconds_to_stored"] = round(time.monotonic() - began, 1)
            found["peak_mib"] = round(memory.peak())
            found["idle_mib"] = round(memory.now())
        used = psutil.Process(archiver.popen.pid).cpu_times()
        found["cpu_us_a_record"] = round((used.user + used.system) * 1e6 / records, 2)
        found["rss_mib"] = [sample for sample in memory.samples if round(sample[0] * 10) % 10 == 0]
        archiver.terminate()
        await archiver.ended(60)
    found["exactly_once"] = await count_exactly_once(run) == records
    return found


async def measure(it: Trial, shape: str, dead_seconds: float) -> dict[str, Any]:
    records, size, partitions = SHAPES[shape]
    records = records // partitions * partitions
    await it.create_topic()
    await fill(it, records, size)
    dead = await archive(it, records, slow_replies(), dead_seconds, "dead")
    well = await archive(it, records, never, 0, "well")
    return {"shape": shape, "records": records, "dead_then_slow": dead, "well": well}


def row(result: dict[str, Any]) -> str:
    dead, well = result["dead_then_slow"], result["well"]
    once = "yes" if dead["exactly_once"] and well["exactly_once"] else "NO"
    return (
        f"| {result['shape']} | {result['records']:,} | {dead['dead_peak_mib']} | {dead['peak_mib']} | "
        f"{well['peak_mib']} | {well['idle_mib']} | {well['cpu_us_a_record']} | {once} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--dead-seconds", type=float, default=25)
    parser.add_argument("--json", type=Path, help="write all figures there, RSS by the second too")
    chosen = parser.parse_args()
    results = []
    print(f"| records of | how many | {' | '.join(COLUMNS)} | idle after | CPU-µs a record, S3 well | exactly once |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in chosen.shape:
        with services.own_stack() as stack, trial(stack.environment, SHAPES[shape][2], "bounds") as it:
            results.append(asyncio.run(measure(it, shape, chosen.dead_seconds)))
        print(row(results[-1]), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
