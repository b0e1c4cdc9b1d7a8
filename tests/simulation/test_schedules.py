"""Schedules of kills, pauses, rebalances, lost answers, late uploads, resets, other logs: every promise holds.

A failing seed replays exactly: `python -m tests.simulation SEED --trace`. A million: `make simulate SEEDS=1000000`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.harness import simulate
from tests.simulation.profiles import PROFILES, profile_of

SCHEDULES = 2000
BLOCK = 100
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SCHEDULES, BLOCK))
def test_every_promise_holds(first: int) -> None:
    tallies = [simulate(seed) for seed in range(first, first + BLOCK)]
    failed = [f"seed {tally.seed} ({tally.profile}): {tally.violation}" for tally in tallies if tally.violation]
    assert not failed, "\n".join([*failed, "python -m tests.simulation SEED --trace shows how it came"])


@pytest.mark.slow
def test_the_schedules_meet_what_they_are_about() -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    counts: Counter[str] = Counter()
    for seed in range(150):
        counts += simulate(seed).counts
    wanted = (
        *("killed", "paused", "resumed", "terminated", "rebalances", "session", "sprung"),
        *("commit-refused", "request-lost", "answer-lost", "request-late", "unconnected", "offsets-refused"),
        *("put-late", "put-answer-lost", "put-refused", "put-unanswered", "landed-late", "landed-after-death"),
        *("resets", "removes", "deletes", "compacts", "fetch-failed", "out-of-range"),
        *("cancelled", "ended-cancelled", "jumps", "replays-whole", "changes-layout", "halted"),
        *("deletes-topic", "makes-topic", "cuts-short"),
    )
    assert [name for name in wanted if not counts[name]] == []


def test_every_kind_of_schedule_has_its_turn() -> None:
    assert {profile_of(seed) for seed in range(BLOCK)} == set(PROFILES)


def test_a_seed_replays_exactly() -> None:
    """In this process and in another, where sets have another order."""
    code = "from tests.simulation.harness import simulate; print(*simulate({}, tracing=True).trace, sep='\\n')"
    for seed in (2, 45):
        told = subprocess.run(
            [sys.executable, "-c", code.format(seed)],
            env={**os.environ, "PYTHONHASHSEED": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert _bare(told.splitlines()) == _bare("\n".join(simulate(seed, tracing=True).trace).splitlines())


def _bare(trace: list[str]) -> list[str]:
    """Without aiokafka's prints of sets."""
    return [line for line in trace if "aiokafka" not in line]
