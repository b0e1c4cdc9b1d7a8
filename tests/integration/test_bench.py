"""`headrace bench` on a real Kafka and a real S3: small, but all of it, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from headrace.s3 import open_store
from headrace.settings import KafkaSettings, S3Settings, load

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--rounds", "1", "--seconds", "1", "--warmup", "0", "--payloads", "1,3", "--connections", "4"),
    *("--records", "5000", "--record-bytes", "220", "--partitions", "3"),
    *("--rate", "50", "--steady-seconds", "2", "--flush-seconds", "0.5"),
)


def bench(environment: Mapping[str, str], *options: str) -> tuple[dict[str, Any], str]:
    """What it measured, and the name of its run."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "bench", "--yes", "--json", "-", *SMALL, *options],
        env={**environment, "S3_PREFIX": "bench"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"headrace-bench-[0-9a-f]{8}", done.stderr)
    assert found is not None
    return orjson.loads(done.stdout), found[0]


async def left_of(run: str) -> tuple[list[str], list[str], list[str]]:
    """Topics, groups and objects of a run."""
    admin = AIOKafkaAdminClient(**load(KafkaSettings).kafka_options())
    await admin.start()
    try:
        topics = [name for name in await admin.list_topics() if run in name]
        groups = [name for name, *_ in await admin.list_consumer_groups() if run in name]
    finally:
        await admin.close()
    async with open_store(load(S3Settings)) as store:
        objects = [item.key async for item in store.list("") if run in item.key]
    return topics, groups, objects


async def test_all_parts_are_measured_and_nothing_is_left(service_environ: dict[str, str]) -> None:
    figures, run = await asyncio.to_thread(bench, service_environ)
    front = {(each["subject"], each["payloads"]): each for each in figures["front"]}
    assert front.keys() == {(name, size) for name in ("headrace", "uvicorn alone") for size in (1, 3)}
    for each in front.values():
        assert each["answers"]["requests"] > 0
        assert (each["answers"]["failures"], each["answers"]["errors"]) == (0, 0)
        assert each["cpu_us_request"]["server"] > 0
    ours, reader = figures["back"]
    assert [ours["subject"], reader["subject"]] == ["headrace", "aiokafka + gzip"]
    assert ours["cpu_us_record"]["consumer"] > 0
    assert 0 < ours["start_cpu_seconds"] < ours["used"]["consumer"]["cpu_seconds"]
    assert 0 < ours["stored_bytes"] < 5000 * 220
    (together,) = figures["together"]
    assert together["unseen"] == 0
    assert together["answers"]["requests"] == pytest.approx(100, abs=2)
    assert len(together["to_s3"]) >= 5
    assert together["used"]["consumer"]["cpu_seconds"] > 0
    assert await left_of(run) == ([], [], [])


async def test_keep_leaves_it_all(service_environ: dict[str, str]) -> None:
    figures, run = await asyncio.to_thread(bench, service_environ, "--keep", "--only", "back", "--no-reference")
    assert (figures["front"], figures["together"], len(figures["back"])) == ([], [], 1)
    topics, groups, objects = await left_of(run)
    assert topics == [f"{run}-back-220"]
    assert groups == [f"{run}-back-220-1"]
    assert objects
    assert all(key.startswith(f"bench/{run}/") for key in objects)
