"""The short form of chaos in every run of the tests, and that it can fail."""

from __future__ import annotations

import itertools
import shutil

import pytest

from tests.chaos.plan import ODDS, SHORT, Kind, draw_setting, draw_steps
from tests.chaos.run import Options, chaos

GROUP_HARM = frozenset({Kind.KILL_CONSUMER, Kind.KILL_ALL_CONSUMERS, Kind.END_CONSUMER})


def test_a_seed_is_a_plan() -> None:
    """The same seed, the same harm; another seed, another; and each kind comes in every deck."""
    one, again, other = (list(itertools.islice(draw_steps(seed, 200), 200)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert {step.kind for step in one} == set(Kind)
    assert draw_setting(1) == draw_setting(1)
    for step in one:
        odds = ODDS[step.kind]
        assert odds.least <= step.seconds <= odds.most
    short = list(itertools.islice(draw_steps(1, 25, short=True), 25))
    assert {step.kind for step in short} == SHORT


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_nothing_is_lost_and_nothing_is_twice() -> None:
    report = await chaos(Options(seed=20261122, faults=25, short=True, names={}))
    assert not report.violations, report.as_text() + report.tails
    assert sum(report.faults.values()) == 25
    assert report.verdict is not None
    assert report.verdict.accepted > 1000
    assert report.stored_before_healing > 1000, "most of it happened under harm"


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_it_notices_consumers_that_ignore_claims() -> None:
    """An S3 that answers at once would hide it: the harness is worth what it finds."""
    report = await chaos(Options(seed=3, faults=5, short=True, mutant="ignore-claims", only=GROUP_HARM, names={}))
    shutil.rmtree(report.logs)
    assert report.verdict is not None
    assert report.verdict.copies > 0, report.as_text()
    assert report.violations
