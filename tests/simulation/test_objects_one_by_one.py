"""The same schedules with FORMAT=object: what an index tells of is there before the index is, and is Kafka's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from consumer.encode import open_format
from consumer.uploader import Uploader
from headrace.archive import decode_index, inflate
from headrace.objects import INDEX
from tests.simulation import oracle, run
from tests.simulation.harness import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.uploader import Body
    from headrace.record import StoredRecord
    from tests.simulation.plan import Plan
    from tests.simulation.world import World

SEEDS, BLOCKS = 300, 6
INDEXES_BYTES = 10_000
"""Those of the chunks under way: held, and counted, beside the budget. Records are tiny here, and indexes larger."""


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archiver's setting, and an oracle that follows indexes to their payloads."""
    settings, new_run, new_budget = run._settings, run.Run.__init__, oracle.WatchedBudget.__init__
    current: list[run.Run] = []

    def remember(self: run.Run, *arguments: Any) -> None:
        new_run(self, *arguments)
        current[:] = [self]

    def read(body: bytes, suffix: str) -> Iterator[StoredRecord]:
        objects = current[0].bucket.objects
        for entry in decode_index(inflate(body, suffix.removeprefix(f"{INDEX}."))):
            if entry.object is None:
                yield entry.record
            else:
                payload = objects.get(f"p/{entry.object}")
                if payload is None:
                    current[0].world.violated(f"an index tells of {entry.object}, which isn't there")
                    return
                yield entry.record._replace(value=payload.body)

    def changed(plan: Plan, **more: str) -> Any:
        return settings(plan, format="object", **more)

    def roomier(self: oracle.WatchedBudget, high: int, slack: int, world: World) -> None:
        new_budget(self, high, slack + INDEXES_BYTES, world)

    monkeypatch.setattr(oracle.WatchedBudget, "__init__", roomier)
    monkeypatch.setattr(run, "_settings", changed)
    monkeypatch.setattr(run, "open_format", lambda _, compression: open_format("object", compression))
    monkeypatch.setattr(run.Run, "__init__", remember)
    monkeypatch.setattr(oracle, "read_object", read)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS // BLOCKS))
def test_every_promise_holds(first: int) -> None:
    tallies = [simulate(seed) for seed in range(first, first + SEEDS // BLOCKS)]
    failed = [f"seed {tally.seed} ({tally.profile}): {tally.violation}" for tally in tallies if tally.violation]
    assert not failed, "\n".join(failed)


def test_payloads_are_stored() -> None:
    """Lest the setting be lost on its way."""
    tally = simulate(3, tracing=True)
    assert any("puts" in line and line.endswith(".json") for line in tally.trace)


@pytest.mark.slow
def test_an_index_before_its_payloads_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = Uploader.bodies

    async def mutant(self: Uploader, *arguments: Any) -> list[Body]:
        return (await bodies(self, *arguments))[::-1]

    monkeypatch.setattr(Uploader, "bodies", mutant)
    found = [str(simulate(seed).violation) for seed in range(5)]
    assert any("which isn't there" in violation for violation in found), found
