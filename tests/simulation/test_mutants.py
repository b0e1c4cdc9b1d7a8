"""The harness finds every deliberate mistake; one that it misses fails the build."""

from __future__ import annotations

import pytest

from tests.simulation.harness import simulate
from tests.simulation.mutants import MUTANTS, mutated

DESIGNED = {
    *("put-before-ack", "ignore-claims", "late-generation", "commit-before-store", "end-from-last-record"),
    *("cancelled-upload-counted", "lost-answer-as-ack", "coverage-ignored", "resend-after-timeout", "error-as-empty"),
    *("commit-minus-one", "no-quiet-period", "forget-fill-until", "covered-by-one-object", "shrinking-overwrite"),
}


def test_all_mutants_of_the_design_are_there() -> None:
    assert set(MUTANTS) >= DESIGNED


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_harness_finds(name: str) -> None:
    mutant = MUTANTS[name]
    for seed in range(mutant.seeds):
        with mutated(name):
            found = simulate(seed, profile=mutant.profile).violation
        if found is not None:
            assert simulate(seed, profile=mutant.profile).violation is None, "the code as it is breaks there, too"
            return
    pytest.fail(f"{mutant.seeds} schedules ({mutant.profile}) did not find {name}")
