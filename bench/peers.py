"""The back half beside others, over the same topics in turn: python -m bench.peers [--bento PROGRAM] [--rounds N].

Starts a Kafka and an S3 server of its own, fills topics with two kinds of payloads of 220 and 1,024 bytes, and measures
the CPU time that each reader takes until all of a topic is committed: headrace, aiokafka's getmany with gzip (which
stores nothing), and Bento, where a program of it is given. Build one by a `main.go` that imports
github.com/warpstreamlabs/bento/public/components/{aws,io,kafka,pure} and calls `service.RunCLI`.

How well payloads pack decides much of what a record costs, so there are two kinds: `words` are headrace bench's (drawn
words, random ids: hard to pack), `lorem` have the form of events in the Go peer's load script (running ids, one text).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import yaml

from headrace.bench.back import DIFFERENT
from headrace.bench.payloads import make_payloads
from headrace.bench.place import own_place
from headrace.bench.subject import running
from headrace.bench.usage import read_usage
from headrace.bench.workspace import Workspace
from headrace.kafka import LATEST, open_cluster

if TYPE_CHECKING:
    from headrace.bench.place import Place

RECORDS = {220: 3_000_000, 1024: 1_000_000}
CHUNK_SECONDS = 8
_TEXT = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna "
    "aliqua ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat "
    "duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur "
)


def lorem(number: int, size: int) -> bytes:
    """An event of so many bytes whose ids run on."""
    time_of_day = f"2026-11-22T01:02:03.{number % 1000:03d}Z"
    begin = (
        f'{{"id":"evt-{number:06d}","user":"user-{number * 7 % 10_000:04d}","ts":"{time_of_day}","type":"page_view",'
        f'"url":"https://example.com/products/{number * 13}?ref=home","props":{{"a":{number * 17},"b":"'
    )
    end = '","c":[1,2,3],"d":true}}'
    text = _TEXT * (size // len(_TEXT) + 2)
    at = number * 37 % len(_TEXT)
    return f"{begin}{text[at : at + size - len(begin) - len(end)]}{end}".encode()


def bento_settings(topic: str, group: str) -> dict[str, Any]:
    """As its documentation has it: lines, gzip 1, uploads of 50,000 records side by side."""
    env = os.environ
    whole = [{"archive": {"format": "lines"}}, {"compress": {"algorithm": "gzip", "level": 1}}]
    return {
        "http": {"enabled": False},
        "logger": {"level": "WARN"},
        "input": {
            "kafka_franz": {
                "seed_brokers": [env["KAFKA_BOOTSTRAP_SERVERS"]],
                "topics": [topic],
                "consumer_group": group,
                "start_from_oldest": True,
                "commit_period": "1s",
                "batching": {"count": 5000, "period": "1s"},
            }
        },
        "output": {
            "aws_s3": {
                "bucket": env["S3_BUCKET"],
                "path": group + "/${! counter() }-${! timestamp_unix_nano() }.gz",
                "region": "us-east-1",
                "endpoint": env["AWS_ENDPOINT_URL_S3"],
                "force_path_style_urls": True,
                "credentials": {"id": env["AWS_ACCESS_KEY_ID"], "secret": env["AWS_SECRET_ACCESS_KEY"]},
                "max_in_flight": 16,
                "batching": {"count": 50_000, "period": "5s", "processors": whole},
            }
        },
    }


async def archived(place: Place, name: str, command: list[str], topic: str, group: str, **env: str) -> dict[str, Any]:
    """What a program takes from its start until the group's offsets are at the topic's end."""
    began = time.monotonic()
    async with running(place, f"{name}-{group}", command, env) as process, open_cluster(place.kafka) as cluster:
        partitions = (await cluster.topic(topic)).topic_partitions
        ends = await cluster.log_offsets(partitions, LATEST)
        committed = await cluster.committed(group, ends)
        while any(committed[it][0] < end for it, end in ends.items()):
            await asyncio.sleep(0.1)
            committed = await cluster.committed(group, ends)
        used = read_usage(process.pid)
    seconds = time.monotonic() - began
    return {"cpu_seconds": used.cpu_seconds, "rss_mib": used.rss_peak_mib, "seconds": seconds}


async def discarded(topic: str, records: int) -> dict[str, Any]:
    """The same of aiokafka and gzip alone."""
    command = [sys.executable, "-m", "headrace.bench.floor", "kafka", topic, str(records)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    told = json.loads(said)
    return {"cpu_seconds": told["cpu_seconds"], "rss_mib": told["rss_peak_mib"], "seconds": told["seconds"]}


async def measure(place: Place, bento: str | None, rounds: int) -> None:
    workspace = Workspace(place.kafka, place.s3, partitions=12)
    print("| payloads | reader | CPU-µs a record | RSS MiB | s |\n| :--- | :--- | ---: | ---: | ---: |")
    for size, records in RECORDS.items():
        for kind in ("words", "lorem"):
            payloads = (
                make_payloads(DIFFERENT, size) if kind == "words" else [lorem(at, size) for at in range(DIFFERENT)]
            )
            topic = await workspace.topic(f"{kind}-{size}")
            await workspace.fill(topic, payloads, records)
            for number in range(rounds):
                group = workspace.group(f"{kind}-{size}-{number}")
                own = {"KAFKA_TOPIC": topic, "KAFKA_GROUP": group, "S3_PREFIX": group}
                own["CHUNK_MAX_SECONDS"] = str(CHUNK_SECONDS)
                found = {
                    "headrace": await archived(
                        place, "headrace", [sys.executable, "-m", "consumer"], topic, group, **own
                    )
                }
                found["aiokafka + gzip, stores nothing"] = await discarded(topic, records)
                if bento is not None:
                    settings = place.folder / "bento.yaml"
                    settings.write_text(yaml.safe_dump(bento_settings(topic, f"{group}-bento")))
                    found["Bento"] = await archived(
                        place, "bento", [bento, "-c", str(settings)], topic, f"{group}-bento"
                    )
                for reader, it in found.items():
                    cost = it["cpu_seconds"] / records * 1e6
                    print(
                        f"| {kind}, {size} B | {reader} | {cost:.2f} | {it['rss_mib']:.0f} | {it['seconds']:.0f} |",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bento", help="a Bento program")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with own_place() as place:
        asyncio.run(measure(place, given.bento, given.rounds))


if __name__ == "__main__":
    main()
