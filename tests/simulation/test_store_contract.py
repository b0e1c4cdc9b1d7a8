"""The simulation's S3 keeps what the real one keeps: the same suite as tests/integration/test_s3.py."""

from __future__ import annotations

import pytest

from tests.object_store_contract import ObjectStoreContract
from tests.simulation.store import Bucket, Store
from tests.simulation.virtual import Process
from tests.simulation.world import World

CASES = sorted(name for name in vars(ObjectStoreContract) if name.startswith("test_"))


@pytest.mark.parametrize("name", CASES)
def test_as_s3_does(name: str) -> None:
    world = World(1)
    store = Store(Bucket(world, 60, lambda *_: None), Process("w"), most_uploads=16)
    try:
        world.loop.run_until_complete(getattr(ObjectStoreContract(), name)(store, lambda hint: f"p/{hint}"))
    finally:
        world.loop.close()
    assert world.violation is None


def test_there_are_cases() -> None:
    assert len(CASES) >= 8
