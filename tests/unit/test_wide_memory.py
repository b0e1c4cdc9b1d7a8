"""1,000 partitions with 24 open hours each, and S3 dead: memory grows by no more than what the budget counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.wide_memory import BUDGET

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("size", [40, 1000])
def test_open_buckets_stay_within_the_byte_budget(size: int) -> None:
    command = [sys.executable, "-m", "tests.wide_memory", "1000", "24", str(size)]
    told = orjson.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert told["rounds"] >= 24, "each partition has all its hours open"
    assert told["puts"] > 100, "chunks were closed, compressed and tried"
    assert told["held"] <= told["held_open"] <= BUDGET * 1.05
    assert told["open"] <= BUDGET * 1.05, told
    assert told["highest"] <= BUDGET * 1.15, told
