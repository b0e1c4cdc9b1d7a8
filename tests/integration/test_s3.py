"""The S3 port's contract and errors, on a real server, with each client that may be behind it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from headrace.errors import SettingsError
from headrace.local.ports import free_ports
from headrace.s3 import S3Refused, S3Store, S3Unavailable, open_store
from headrace.s3.parts import LEAST_PART_BYTES, Sent
from headrace.settings import S3Settings, load
from tests.object_store_contract import ObjectStoreContract
from tests.s3_proxy import Fault, on_objects, s3_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]


@pytest.fixture(autouse=True, params=["aiobotocore", "obstore"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("S3_CLIENT", name)
    return name


@pytest.fixture
async def store(service_environ: dict[str, str]) -> AsyncIterator[S3Store]:
    async with open_store(load(S3Settings, s3_multipart_bytes=LEAST_PART_BYTES)) as store:
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


async def test_a_silent_server_means_try_again_to_who_puts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        settings = load(S3Settings, aws_endpoint_url_s3=f"http://127.0.0.1:{port}")
        async with open_store(settings, timeout_seconds=0.2) as store:
            with pytest.raises(S3Unavailable, match="no answer"):
                await put(store, "a")


async def put(store: S3Store, key: str) -> None:
    await store.put(key, b"x", metadata={"headrace-offset": "1"}, content_type="text/plain")


@pytest.mark.parametrize(
    ("fault", "error", "told", "stored"),
    [
        (Fault.UNAVAILABLE, S3Unavailable, "503 SlowDown", False),
        (Fault.FORBIDDEN, S3Refused, "403 AccessDenied told to", False),
        (Fault.RESET, S3Unavailable, "no answer", False),
        (Fault.LOST_REPLY, S3Unavailable, "no answer", True),
        (Fault.STALL, S3Unavailable, "no answer", True),
    ],
)
async def test_a_fault_is_named_and_nobody_tries_for_longer(
    client: str,
    topic: Callable[..., str],
    service_environ: dict[str, str],
    fault: Fault,
    error: type[Exception],
    told: str,
    stored: bool,
) -> None:
    """Whoever calls has deadlines to keep: nothing tries again behind its back, but for a connection that is lost."""
    key = topic("fault")
    async with (
        s3_proxy(service_environ["AWS_ENDPOINT_URL_S3"], on_objects(fault), stall_seconds=1.0) as proxy,
        open_store(load(S3Settings, aws_endpoint_url_s3=proxy.endpoint), timeout_seconds=0.5) as store,
    ):
        with pytest.raises(error, match=told) as met:
            await put(store, key)
        assert str(met.value).startswith(f"PUT s3://{service_environ['S3_BUCKET']}/{key}: ")
        assert "\n" not in str(met.value)
        await proxy.landed()
        again = client == "aiobotocore" and fault in {Fault.RESET, Fault.LOST_REPLY}
        assert proxy.seen[fault] == (2 if again else 1)
        assert (await store.get(key) is not None) is stored


async def test_a_cancelled_put_is_given_up_at_once(topic: Callable[..., str]) -> None:
    """The connection is closed, so that nothing more of it is on its way; and the store goes on."""
    asked, ended = asyncio.Event(), asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_store(load(S3Settings, aws_endpoint_url_s3=f"http://127.0.0.1:{port}")) as store:
            putting = asyncio.create_task(put(store, topic("cancelled")))
            await asked.wait()
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
            await ended.wait()


async def test_keys_and_metadata_of_all_sorts(store: S3Store, topic: Callable[..., str]) -> None:
    """A prefix is what people choose: each byte of a key must reach the store as it is."""
    folder = topic("sorts")
    names = [
        "a b",
        "a+b",
        "a%20b",
        "ü",
        "a?b#c",
        "a~b",
        "[a]",
        "{a}",
        "a&b=c;d:e@f",
        "$a!(b),*'",
        '"<a>|^`"',
        ".a",
        "..b",
    ]
    for name in names:
        await store.put(f"{folder}/{name}", name.encode(), metadata={}, content_type="text/plain")
        assert await store.get(f"{folder}/{name}") == name.encode()
    assert {item.key async for item in store.list(f"{folder}/")} == {f"{folder}/{name}" for name in names}


@pytest.mark.parametrize("told", [{"a": "x\ny"}, {"a": "grün"}])
async def test_metadata_that_no_header_can_hold_is_refused(
    store: S3Store, topic: Callable[..., str], told: dict[str, str]
) -> None:
    with pytest.raises((S3Refused, S3Unavailable)):  # aiobotocore does not tell why
        await store.put(topic("letters"), b"x", metadata=told, content_type="text/plain")


async def test_no_credentials_is_a_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with open_store(load(S3Settings)) as store:
        with pytest.raises(S3Refused, match=r"[Cc]redentials"):
            await put(store, "a")


async def test_an_acl_is_sent_where_it_is_set(
    topic: Callable[..., str], service_environ: dict[str, str], client: str, caplog: pytest.LogCaptureFixture
) -> None:
    if client == "obstore":
        with pytest.raises(SettingsError, match="S3_ACL needs S3_CLIENT=aiobotocore"):
            load(S3Settings, s3_acl="private")
        return
    caplog.set_level(logging.DEBUG, "botocore.auth")
    for acl, sent in ((None, False), ("private", True)):
        caplog.clear()
        async with open_store(load(S3Settings, s3_acl=acl)) as store:
            await put(store, topic("acl"))
        assert ("x-amz-acl:private" in caplog.text) is sent


async def test_options_that_this_server_knows(topic: Callable[..., str], client: str) -> None:
    """In one piece and in parts."""
    told = {
        "s3_server_side_encryption": "AES256",
        "s3_tags": "cost centre=a/b+c,owner=me",
        "s3_storage_class": "STANDARD_IA",
        "s3_metadata": "team=data",
        "aws_request_checksum_calculation": "when_supported",
    }
    settings = load(S3Settings, s3_multipart_bytes=LEAST_PART_BYTES, **told)
    async with open_store(settings) as store:
        for size in (10, LEAST_PART_BYTES + 10):
            body, place = bytes(size), {"Bucket": settings.s3_bucket, "Key": topic("options")}
            await store.put(place["Key"], body, metadata={"headrace-offset": "1"}, content_type="text/plain")
            assert await store.get(place["Key"]) == body
            head = await store._client.head_object(**place)
            assert head["ServerSideEncryption"] == "AES256"
            assert head["StorageClass"] == "STANDARD_IA"
            assert head["Metadata"] == {"team": "data", "headrace-offset": "1"}
            tags = (await store._client.get_object_tagging(**place))["TagSet"]
            assert {tag["Key"]: tag["Value"] for tag in tags} == {"cost centre": "a/b+c", "owner": "me"}


async def test_a_client_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    if client == "obstore":
        with pytest.raises(SettingsError, match=r"pip install 'headrace\[obstore\]'"):
            async with open_store(load(S3Settings)):
                pass
    else:
        async with open_store(load(S3Settings)) as store:
            await store.check()


def test_a_body_on_its_way_is_held_once() -> None:
    """aiohttp asks for the buffer, and botocore reads it twice: neither may copy it."""
    body = bytes(1000)
    sent = Sent(body)
    assert sent.getbuffer().obj is body
    assert sent.read() == body
    assert sent.getvalue() is body
