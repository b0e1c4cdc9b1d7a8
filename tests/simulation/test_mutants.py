"""The harness finds every deliberate mistake; one that it misses fails the build."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from tests.simulation.harness import simulate
from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.mutants_of_claims import BARRIERS

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
        run = partial(simulate, seed, profile=mutant.profile, kind=mutant.kind)
        with mutated(name):
            found = run().violation
        if found is not None:
            assert run().violation is None, "the code as it is breaks there, too"
            return
    pytest.fail(f"{mutant.seeds} schedules ({mutant.profile}) did not find {name}")


@pytest.mark.slow
@pytest.mark.parametrize("missing", BARRIERS)
def test_either_barrier_against_late_commits_is_enough(missing: str) -> None:
    with BARRIERS[missing]():
        found = [tally for seed in range(60) if (tally := simulate(seed, profile="takeovers")).violation]
    assert not found


@pytest.mark.parametrize("name", ["no-op"])
def test_a_mutant_that_is_not_found_fails_the_build(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MUTANTS, name, Mutant(name, contextlib.nullcontext, seeds=20))
    with pytest.raises(pytest.fail.Exception, match="did not find no-op"):
        test_the_harness_finds(name)
