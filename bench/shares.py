"""How processes of `consume` share a topic when each has its own share of the machine: python -m bench.shares --help.

On a machine of two cores that Kafka and S3 share, a second process has no core to itself. Here each process gets the
same share of one (cgroup v1's cpu controller, Linux, root), small enough that all fit: what is left is what they cost
each other. Records stay hidden in a transaction until all are up and have their partitions, so that no start is in the
figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.bench.back import DIFFERENT
from headrace.bench.payloads import make_payloads
from headrace.bench.place import own_place
from headrace.bench.subject import running
from headrace.bench.usage import read_usage
from headrace.bench.workspace import Workspace
from headrace.kafka import LATEST, open_cluster

if TYPE_CHECKING:
    from headrace.bench.place import Place

PARTITIONS = 12
CHUNKS = 6
"""Of each partition."""
CPU = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 100_000


def confine(pid: int, number: int, share: float) -> None:
    """Give a process this share of a core."""
    group = CPU / f"headrace-bench-{number}"
    group.mkdir(exist_ok=True)
    (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
    (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD_US)))
    (group / "cgroup.procs").write_text(str(pid))


async def measure(place: Place, processes: int, share: float, records: int) -> tuple[float, float]:
    """Records a second over the first nine tenths, and CPU-µs a record."""
    workspace = Workspace(place.kafka, place.s3, partitions=PARTITIONS)
    topic, group = await workspace.topic(f"shares-{processes}"), workspace.group(f"shares-{processes}")
    settings = {
        "KAFKA_TOPIC": topic,
        "KAFKA_GROUP": group,
        "S3_PREFIX": group,
        # All chunks are full: none waits for its age, which would look the same however many processes there are.
        "CHUNK_MAX_RECORDS": str(-(-records // (PARTITIONS * CHUNKS))),
        "CHUNK_MAX_SECONDS": "3",
    }
    async with (
        workspace.hidden(topic, make_payloads(DIFFERENT, 220), records) as reveal,
        contextlib.AsyncExitStack() as stack,
        open_cluster(place.kafka) as cluster,
    ):
        command = [sys.executable, "-m", "consumer"]
        started = [
            await stack.enter_async_context(running(place, f"shares-{processes}-{number}", command, settings))
            for number in range(processes)
        ]
        dealt = f"{PARTITIONS // processes} partitions"
        while not all(dealt in process.log.read_text().rpartition("generation")[2] for process in started):
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)  # takeovers and first commits
        for number, process in enumerate(started):
            confine(process.pid, number, share)
        before = sum(read_usage(process.pid).cpu_seconds for process in started)
        await reveal()
        began, most = time.monotonic(), None
        partitions = (await cluster.topic(topic)).topic_partitions
        while True:
            ends = await cluster.log_offsets(partitions, LATEST)
            committed = await cluster.committed(group, ends)
            done = sum(max(0, committed[it][0]) for it in ends)
            if most is None and done >= records * 0.9:
                most = done / (time.monotonic() - began)
            if all(committed[it][0] == end for it, end in ends.items()):
                break
            await asyncio.sleep(0.05)
        used = sum(read_usage(process.pid).cpu_seconds for process in started) - before
    assert most is not None
    return most, used / records * 1e6


async def run(place: Place, counts: list[int], share: float, records: int, rounds: int) -> None:
    print("| processes | cores each | records/s | times one | CPU-µs a record |\n| ---: | ---: | ---: | ---: | ---: |")
    for _ in range(rounds):
        one = 0.0
        for count in counts:
            speed, cost = await measure(place, count, share, records)
            one = one or speed / count
            print(f"| {count} | {share:g} | {speed:,.0f} | {speed / one:.2f} | {cost:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,3", help="how many, in turn")
    parser.add_argument("--share", type=float, default=0.3, help="of a core, for each")
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with own_place() as place:
        counts = [int(count) for count in given.processes.split(",")]
        asyncio.run(run(place, counts, given.share, given.records, given.rounds))


if __name__ == "__main__":
    main()
