"""The fakes are as good as the real thing: MemoryStore keeps the store's contract, virtual time keeps order."""

from __future__ import annotations

import asyncio

import pytest

from headrace.s3 import S3Unavailable
from tests.fakes import Fault, MemoryStore, in_virtual_time
from tests.object_store_contract import ObjectStoreContract


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class TestMemoryStore(ObjectStoreContract):
    """The same suite as tests/integration/test_s3.py."""


async def test_faults_are_met_once_each_in_order(store: MemoryStore) -> None:
    error = S3Unavailable("gone")
    store.faults.extend(
        [
            Fault("put", error, key="a"),
            Fault("put", error, key="b", stored=True),
            Fault("put", error, key="c", lands_later=True),
            Fault("head", error),
            Fault("get", error),
            Fault("list", error),
        ]
    )
    for key in "abc":
        with pytest.raises(S3Unavailable):
            await store.put(key, b"x", metadata={}, content_type="text/plain")
    assert set(store.objects) == {"b"}
    store.land()
    assert set(store.objects) == {"b", "c"}
    with pytest.raises(S3Unavailable):
        await store.head("b")
    with pytest.raises(S3Unavailable):
        await store.get("b")
    with pytest.raises(S3Unavailable):
        await anext(store.list(""))
    assert not store.faults
    assert await store.get("b") == b"x"


async def test_a_gate_holds_a_call(store: MemoryStore) -> None:
    fault = Fault("put", gate=asyncio.Event())
    store.faults.append(fault)
    put = asyncio.create_task(store.put("a", b"x", metadata={}, content_type="text/plain"))
    await fault.asked.wait()
    assert not store.objects
    assert fault.gate is not None
    fault.gate.set()
    await put
    assert set(store.objects) == {"a"}


@in_virtual_time
async def test_an_hour_passes_at_once() -> None:
    loop, seen = asyncio.get_running_loop(), []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((seconds, round(loop.time(), 6)))

    async with asyncio.TaskGroup() as group:
        for seconds in (3600.0, 0.5, 60.0):
            group.create_task(sleep(seconds))
    assert seen == [(0.5, 0.5), (60.0, 60.0), (3600.0, 3600.0)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Event().wait()
    assert await asyncio.to_thread(lambda: 7) == 7
