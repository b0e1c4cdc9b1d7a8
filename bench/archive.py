"""The back half: what a record costs from Kafka to a stored object. `make bench`, or python -m bench.archive --help.

Starts a Kafka and an S3 server of its own. CPU time is the archiver's whole (start and ending too), utime + stime.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

import psutil

from tests import services
from tests.trial import Trial, trial


async def measure(it: Trial, records: int, size: int) -> dict[str, float | int]:
    await it.create_topic()
    await it.produce(records, noise=size, max_batch_size=256 * 1024)
    began = time.monotonic()
    archiver = it.start(CHUNK_MAX_SECONDS="2", CHUNK_MAX_RECORDS="100000", UPLOAD_TIMEOUT_SECONDS="60")
    await it.stored(600)
    seconds = time.monotonic() - began
    process = psutil.Process(archiver.popen.pid)
    used = process.cpu_times()
    status = Path(f"/proc/{archiver.popen.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    archiver.terminate()
    await archiver.ended()
    return {
        "records": records,
        "random_bytes_a_record": size,
        "partitions": it.partitions,
        "cpu_us_a_record": round((used.user + used.system) * 1e6 / records, 2),
        "seconds_to_stored": round(seconds, 1),
        "peak_rss_mib": round(peak / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--size", type=int, nargs="*", default=[0, 128, 700], help="random bytes a payload, in base64")
    parser.add_argument("--partitions", type=int, default=6)
    chosen = parser.parse_args()
    with services.own_stack() as stack:
        for size in chosen.size:
            with trial(stack.environment, chosen.partitions, "bench") as it:
                print(json.dumps(asyncio.run(measure(it, chosen.records, size))), flush=True)


if __name__ == "__main__":
    main()
