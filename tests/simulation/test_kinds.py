"""All pairs of formats and layouts have their schedules, and are really in force there."""

from __future__ import annotations

import pytest

from tests.simulation.harness import simulate
from tests.simulation.kinds import FORMATS, KINDS, LAYOUTS, OWN, kind_of
from tests.simulation.profiles import PROFILES, profile_of
from tests.simulation.test_schedules import SCHEDULES


def test_every_pair_meets_every_kind_of_schedule() -> None:
    assert len(KINDS) == len(FORMATS) * len(LAYOUTS)
    met = {(kind_of(seed), profile_of(seed)) for seed in range(SCHEDULES)}
    assert {kind for kind, _ in met} == {OWN, *KINDS}
    directed = {profile for kind, profile in met if kind == OWN}
    assert directed == set(PROFILES)
    for kind in KINDS:
        assert len({profile for each, profile in met if each == kind}) > len(PROFILES) // 2, kind


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("object/hours", ".json"),
        ("raw/flat", ".txt"),
        ("parquet/hours", "parquet"),
        ("columns/flat", "parquet"),
        ("jsonl/key", "key=b%2F../partition=0"),
        ("jsonl/field", "c=de"),
        ("jsonl/zone", "45"),
    ],
)
def test_its_settings_are_in_force(kind: str, sign: str) -> None:
    """Lest one be lost on its way."""
    tally = simulate(3, kind=kind, profile="any", tracing=True)
    assert tally.violation is None
    assert any(" landed " in line and sign in line for line in tally.trace)
