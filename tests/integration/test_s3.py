"""The S3 port's contract, on a real server."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from headrace.local.ports import free_ports
from headrace.s3 import S3Refused, S3Store, S3Unavailable, open_store
from headrace.settings import S3Settings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]


@pytest.fixture
async def store(service_environ: dict[str, str]) -> AsyncIterator[S3Store]:
    async with open_store(load(S3Settings)) as store:
        yield store


async def test_what_is_put_is_had_back(store: S3Store, topic: Callable[..., str]) -> None:
    key = f"{topic('s3')}/dt=2026-11-22/ü +%?.jsonl.zst"
    body = bytes(range(256)) * 1000
    await store.put(key, body, metadata={"Headrace-Chunk-Objects": "2"}, content_type="application/zstd")
    assert await store.get(key) == body
    found = await store.head(key)
    assert found is not None
    assert (found.size, found.metadata) == (len(body), {"headrace-chunk-objects": "2"})
    assert [(item.key, item.size) async for item in store.list(key)] == [(key, len(body))]
    await store.put(key, b"", metadata={}, content_type="application/zstd")
    assert await store.get(key) == b""


async def test_what_is_not_there_is_none(store: S3Store, topic: Callable[..., str]) -> None:
    key = topic("nothing")
    assert await store.get(key) is None
    assert await store.head(key) is None
    assert [item async for item in store.list(key)] == []


async def test_a_listing_has_all_pages_in_order(store: S3Store, topic: Callable[..., str]) -> None:
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


async def test_no_such_bucket_is_a_refusal(topic: Callable[..., str]) -> None:
    """Not asked of PUT: SeaweedFS makes the bucket. HEAD cannot tell: its 404 has no words."""
    async with open_store(load(S3Settings, s3_bucket=topic("nobody"))) as store:
        for call in (
            lambda: store.get("a"),
            lambda: anext(store.list("")),
            store.check,
        ):
            with pytest.raises(S3Refused, match="NoSuchBucket"):
                await call()


async def test_wrong_keys_are_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with open_store(load(S3Settings)) as store:
        with pytest.raises(S3Refused, match="403"):
            await store.put("a", b"", metadata={}, content_type="text/plain")
        with pytest.raises(S3Refused, match="403"):
            await store.head("a")


async def test_no_server_means_try_again() -> None:
    (port,) = free_ports(1)
    async with open_store(load(S3Settings, aws_endpoint_url_s3=f"http://127.0.0.1:{port}")) as store:
        for call in (
            lambda: store.put("a", b"", metadata={}, content_type="text/plain"),
            lambda: store.get("a"),
            lambda: store.head("a"),
            lambda: anext(store.list("")),
            store.check,
        ):
            with pytest.raises(S3Unavailable, match="no answer"):
                await call()


async def test_a_silent_server_means_try_again() -> None:
    """The connection stands, and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        settings = load(S3Settings, aws_endpoint_url_s3=f"http://127.0.0.1:{port}")
        async with open_store(settings, timeout_seconds=0.2) as store:
            with pytest.raises(S3Unavailable, match="no answer"):
                await store.get("a")
