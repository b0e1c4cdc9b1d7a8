"""The scaling curves on a real Kafka and a real S3: one curve of each half, quickly, and nothing left of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from headrace.kafka import open_cluster
from headrace.s3 import open_store
from headrace.settings import KafkaSettings, S3Settings, load

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
OPTIONS = ("--only", "scaling", "--quick", "--curve", "s3-latency", "--curve", "payloads-a-request")


async def test_both_halves_are_measured_and_drawn_and_nothing_is_left(
    service_environ: dict[str, str], tmp_path: Path
) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "headrace", "bench", "--yes", "--json", "-", *OPTIONS, "--plots", str(tmp_path)],
        env={**service_environ, "S3_PREFIX": "bench"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    readings = orjson.loads(done.stdout)["scaling"]
    points = {(each["curve"], each["at"]) for each in readings}
    assert points == {("payloads-a-request", at) for at in (1, 10, 100, 1000)} | {("s3-latency", at) for at in (0, 200)}
    assert all(each["cpu_us"]["headrace"] > 0 and each["second"] > 0 for each in readings)
    assert sum(each["troubles"] for each in readings) == 0, "what is refused costs less, and would look cheap"
    at_once, late = (each for each in readings if each["curve"] == "s3-latency")
    assert at_once["objects"] >= 120, "ten chunks of each of 12 partitions"
    assert at_once["upload_ms"] > 0
    assert late["upload_ms"] >= 200, "replies were late"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "scaling-payloads-a-request.png",
        "scaling-s3-latency.png",
    ]
    run = re.search(r"headrace-bench-[0-9a-f]{8}", done.stderr)
    assert run is not None
    async with open_cluster(load(KafkaSettings)) as cluster:
        groups = [await cluster.group(f"{run[0]}-at-{number}") for number in (1, 2)]
        assert {group.state for group in groups} == {"Dead"}
    async with open_store(load(S3Settings)) as store:
        assert [item.key async for item in store.list(f"bench/{run[0]}/")] == []
