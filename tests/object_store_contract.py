"""What every ObjectStore keeps: run on the real server and on the fake, so that tests on the fake mean something."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from headrace.s3 import S3Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.s3 import ObjectStore


LARGE_BYTES = 11 * 1024 * 1024 + 3


class ObjectStoreContract:
    """Inherit it where a fixture `store` gives an open, shared store."""

    async def test_what_is_put_is_had_back(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        key = f"{topic('s3')}/dt=2026-11-22/ü +%?.jsonl.zst"
        body = bytes(range(256)) * 1000
        await store.put(key, body, metadata={"Headrace-Chunk-Objects": "2"}, content_type="application/zstd")
        assert await store.get(key) == body
        found = await store.head(key)
        assert found is not None
        assert (found.key, found.size, found.metadata) == (key, len(body), {"headrace-chunk-objects": "2"})
        assert [(item.key, item.size) async for item in store.list(key)] == [(key, len(body))]

    async def test_a_later_put_replaces_all_of_an_object(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        key = topic("again")
        await store.put(key, b"first", metadata={"a": "1"}, content_type="text/plain")
        await store.put(key, b"", metadata={"b": "2"}, content_type="text/plain")
        assert await store.get(key) == b""
        found = await store.head(key)
        assert found is not None
        assert (found.size, found.metadata) == (0, {"b": "2"})

    async def test_names_of_metadata_are_lower_case_and_values_stay(
        self, store: ObjectStore, topic: Callable[..., str]
    ) -> None:
        key = topic("told")
        told = {"Headrace-LOST": "5-9", "headrace-layout": 'Mixed Case, "quoted"; a=b & <c>', "headrace-records": "0"}
        await store.put(key, b"x", metadata=told, content_type="text/plain")
        found = await store.head(key)
        assert found is not None
        assert found.metadata == {name.lower(): value for name, value in told.items()}

    async def test_metadata_is_ascii_or_refused(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        key = topic("letters")
        with pytest.raises(S3Refused):
            await store.put(key, b"x", metadata={"headrace-layout": "grün"}, content_type="text/plain")
        assert await store.get(key) is None

    async def test_what_is_put_is_listed_at_once(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        folder = topic("at-once")
        for number in range(20):
            await store.put(f"{folder}/{number:02d}", b"x", metadata={}, content_type="text/plain")
            assert len([item async for item in store.list(f"{folder}/")]) == number + 1
            await store.put(f"{folder}/00", b"x" * number, metadata={}, content_type="text/plain")
            assert [item.size async for item in store.list(f"{folder}/00")] == [number]

    async def test_a_listing_is_in_the_order_of_utf_8(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        """Not in that of UTF-16, where the last two change places; and a prefix is no folder.

        Left out: SeaweedFS lists `t/1` before `t-1`, which is not the order of the letters. Nobody relies on it.
        """
        prefix = f"{topic('order')}/t"
        names = ["-1", "0", "A", "_", "a", "a/1", "aé", "b", "é", "\uff5a", "\U00010000"]
        for name in reversed(names):
            await store.put(f"{prefix}{name}", b"", metadata={}, content_type="text/plain")
        assert [item.key.removeprefix(prefix) async for item in store.list(prefix)] == names
        assert [item.key.removeprefix(prefix) async for item in store.list(f"{prefix}a")] == ["a", "a/1", "aé"]

    async def test_a_large_body_is_had_back(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        """Larger than what goes in one piece, where the store is opened so: it is one object all the same."""
        key = f"{topic('large')}/dt=2026-11-22/ü +%?.jsonl.zst"
        body = random.Random(key).randbytes(LARGE_BYTES)
        for content in (body, body[: -5 * 1024 * 1024 - 7], b"small"):
            told = {"headrace-records": str(len(content)), "headrace-layout": "a b=c"}
            await store.put(key, content, metadata=told, content_type="application/zstd")
            assert await store.get(key) == content
            found = await store.head(key)
            assert found is not None
            assert (found.size, found.metadata) == (len(content), told)
            assert [(item.key, item.size) async for item in store.list(key)] == [(key, len(content))]

    async def test_what_is_not_there_is_none(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        key = topic("nothing")
        assert await store.get(key) is None
        assert await store.head(key) is None
        assert [item async for item in store.list(key)] == []

    async def test_a_listing_has_all_pages_in_order(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        folder = topic("pages")
        slots = asyncio.Semaphore(16)

        async def put(number: int) -> None:
            async with slots:
                await store.put(f"{folder}/{number:05d}", b"x", metadata={}, content_type="text/plain")

        async with asyncio.TaskGroup() as group:
            for number in range(2_050):
                group.create_task(put(number))
        await store.put(f"{folder}-beside/1", b"x", metadata={}, content_type="text/plain")
        found = [item.key async for item in store.list(f"{folder}/")]
        assert found == [f"{folder}/{number:05d}" for number in range(2_050)]
