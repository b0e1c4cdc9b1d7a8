"""The S3 port's contract, on a real server."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from headrace.local.ports import free_ports
from headrace.s3 import S3Refused, S3Store, S3Unavailable, _Sent, open_store
from headrace.settings import S3Settings, load
from tests.object_store_contract import ObjectStoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]


@pytest.fixture
async def store(service_environ: dict[str, str]) -> AsyncIterator[S3Store]:
    async with open_store(load(S3Settings)) as store:
        yield store


class TestS3Store(ObjectStoreContract):
    """The real one."""


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


def test_a_body_on_its_way_is_held_once() -> None:
    """aiohttp asks for the buffer, and botocore reads it twice: neither may copy it."""
    body = bytes(1000)
    sent = _Sent(body)
    assert sent.getbuffer().obj is body
    assert sent.read() == body
    assert sent.getvalue() is body
