"""What goes over the wire with an object: recorded by a server that takes everything."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from headrace.errors import SettingsError
from headrace.s3 import S3Refused, S3Unavailable, open_store
from headrace.s3.multipart import Multipart
from headrace.s3.parts import LEAST_PART_BYTES, SMALL_BYTES
from headrace.settings import S3Settings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

Sent = tuple[str, dict[str, str]]
"""Request line without its version, and headers in lower case."""
BEGUN = b"<?xml version='1.0'?><InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
COMPLETED = b"<?xml version='1.0'?><CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
FAILED = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>too late</Message></Error>"


class Recorder:
    """Answers 200 to each request, and remembers its head."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.completed = COMPLETED
        self.open: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = self.open[writer] = asyncio.Event()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self._exchange(reader, writer)
        writer.close()
        ended.set()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        line = head[0].rsplit(" ", 1)[0]
        self.sent.append((line, headers))
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        if line.startswith("POST"):
            body = BEGUN if "uploads" in line else self.completed
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n%b' % (len(body), body))
        await writer.drain()


@pytest.fixture
async def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    server = await asyncio.start_server(recorder.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    told = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "S3_BUCKET": "bucket",
        "NO_PROXY": "127.0.0.1",
        "HEADRACE_CONFIG": str(tmp_path / "none.toml"),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield recorder
    server.close()
    for writer, ended in recorder.open.items():
        writer.transport.abort()
        await ended.wait()


@pytest.mark.parametrize(("size", "asks"), [(0, False), (SMALL_BYTES, False), (SMALL_BYTES + 1, True)])
async def test_a_small_body_waits_for_one_answer(recorder: Recorder, size: int, asks: bool) -> None:
    """A client that asks "may I" first takes twice as long where a store is far away."""
    async with open_store(load(S3Settings)) as store:
        await store.put("p/t/object", bytes(size), metadata={}, content_type="application/zstd")
    ((line, headers),) = recorder.sent
    assert (line, headers["content-length"]) == ("PUT /bucket/p/t/object", str(size))
    assert ("expect" in headers) is asks


KMS = {
    "s3_server_side_encryption": "aws:kms",
    "s3_sse_kms_key_id": "key-1",
    "s3_bucket_key_enabled": True,
    "s3_storage_class": "GLACIER_IR",
    "s3_tags": "cost centre=a/b,owner=me",
    "s3_metadata": "Team=data lake",
}
CONTEXT = {"s3_sse_kms_encryption_context": "team=data,stage=live", "s3_acl": "bucket-owner-full-control"}


@pytest.mark.parametrize("client", ["aiobotocore", "obstore"])
@pytest.mark.parametrize("size", [10, LEAST_PART_BYTES + 10], ids=["one piece", "parts"])
async def test_all_that_is_set_is_sent_and_signed(recorder: Recorder, client: str, size: int) -> None:
    told: dict[str, Any] = KMS | (CONTEXT if client == "aiobotocore" else {})
    settings = load(S3Settings, s3_client=client, s3_multipart_bytes=LEAST_PART_BYTES, **told)
    async with open_store(settings) as store:
        for key in ("p/t/object", "p/_headrace/t/marker"):
            recorder.sent.clear()
            await store.put(key, bytes(size), metadata={"headrace-records": "3"}, content_type="application/zstd")
            line, headers = recorder.sent[0]
            assert line == (f"PUT /bucket/{key}" if size == 10 else f"POST /bucket/{key}?uploads")
            assert headers["content-type"] == "application/zstd"
            expected = {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
                "x-amz-server-side-encryption-bucket-key-enabled": "true",
                "x-amz-tagging": headers["x-amz-tagging"],
                "x-amz-meta-team": "data lake",
                "x-amz-meta-headrace-records": "3",
            }
            assert parse_qs(headers["x-amz-tagging"]) == {"cost centre": ["a/b"], "owner": ["me"]}
            if "_headrace" not in key:
                expected["x-amz-storage-class"] = "GLACIER_IR"
            if client == "aiobotocore":
                context = base64.b64encode(json.dumps({"team": "data", "stage": "live"}).encode()).decode()
                expected["x-amz-server-side-encryption-context"] = context
                expected["x-amz-acl"] = "bucket-owner-full-control"
            found = {name: value for name, value in headers.items() if name.startswith("x-amz-")}
            for name in ("x-amz-date", "x-amz-content-sha256"):
                del found[name]
            assert found == expected
            signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
            assert set(found) <= set(signed)


@pytest.mark.parametrize("client", ["aiobotocore", "obstore"])
async def test_by_default_nothing_is_sent_that_old_stores_refuse(recorder: Recorder, client: str) -> None:
    for how, many in (("when_required", 0), ("when_supported", 1)):
        recorder.sent.clear()
        settings = load(S3Settings, s3_client=client, aws_request_checksum_calculation=how)
        async with open_store(settings) as store:
            await store.put("k", b"x", metadata={}, content_type="text/plain")
        ((_, headers),) = recorder.sent
        assert len([name for name in headers if name.startswith("x-amz-checksum-")]) == many
        assert "x-amz-server-side-encryption" not in headers
        assert "x-amz-tagging" not in headers


async def test_each_step_of_an_upload_in_parts(recorder: Recorder) -> None:
    async with open_store(load(S3Settings, s3_multipart_bytes=LEAST_PART_BYTES)) as store:
        await store.put("k", bytes(2 * LEAST_PART_BYTES + 1), metadata={}, content_type="text/plain")
    lines = [line for line, _ in recorder.sent]
    assert lines[0] == "POST /bucket/k?uploads"
    assert sorted(lines[1:4]) == [f"PUT /bucket/k?uploadId=u1&partNumber={number}" for number in (1, 2, 3)]
    assert lines[4:] == ["POST /bucket/k?uploadId=u1"]


async def test_an_error_in_the_body_of_a_200_is_one(recorder: Recorder) -> None:
    """S3 answers a Complete with 200 at once and says later how it ended."""
    recorder.completed = FAILED
    async with open_store(load(S3Settings, s3_multipart_bytes=LEAST_PART_BYTES)) as store:
        with pytest.raises(S3Unavailable, match="InternalError"):
            await store.put("k", bytes(LEAST_PART_BYTES + 1), metadata={}, content_type="text/plain")
    assert recorder.sent[-1][0] == "DELETE /bucket/k?uploadId=u1"


class Calls:
    """A client that writes down what it is asked for."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(**_: Any) -> dict[str, str]:
            self.made.append(name)
            return {"UploadId": "u", "ETag": "e"}

        return call


@contextlib.contextmanager
def unnamed(_what: str, _key: str) -> Iterator[None]:
    yield


async def test_cancelled_while_a_part_fails() -> None:
    """Who is cancelled ends as that, or whoever waits for it would wait for ever."""

    class Failing(Calls):
        async def upload_part(self, **_: Any) -> dict[str, str]:
            asyncio.get_running_loop().call_soon(putting.cancel)
            raise S3Refused("403")

    calls = Failing()
    deadline = asyncio.get_running_loop().time() + 60
    upload = Multipart(calls, {"Bucket": "b", "Key": "k"}, unnamed)
    putting = asyncio.create_task(upload.send(bytes(10), 5, deadline=deadline, parameters={}))
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert calls.made == ["create_multipart_upload", "abort_multipart_upload"]


async def test_no_complete_is_sent_past_the_deadline() -> None:
    """As when the process was paused between the last part and the Complete."""
    calls = Calls()
    upload = Multipart(calls, {"Bucket": "b", "Key": "k"}, unnamed)
    with pytest.raises(TimeoutError):
        await upload.send(bytes(10), 5, deadline=asyncio.get_running_loop().time() - 0.001, parameters={})
    assert calls.made == ["create_multipart_upload", "upload_part", "abort_multipart_upload"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("AWS_PROFILE", "nobody", r"The config profile \(nobody\) could not be found"),
        ("AWS_ENDPOINT_URL_S3", "no address", "Invalid endpoint: no address"),
    ],
)
async def test_a_chain_that_can_not_be_read_is_a_wrong_setting(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=sentence):
        async with open_store(load(S3Settings)):
            pass
    told = {**os.environ, "KAFKA_TOPIC": "t", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    command = (sys.executable, "-m", "consumer")
    process = await asyncio.create_subprocess_exec(*command, env=told, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert re.search(sentence, said.decode())
    assert "Traceback" not in said.decode()


async def test_credentials_that_can_not_be_had_now_are_a_refusal(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody mends it, and the archiver goes on: it does not end."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "none").write_text(f"[default]\ncredential_process = {sys.executable} {tmp_path}/no-such-program\n")
    with pytest.raises(S3Refused, match="No credentials: ") as met:
        async with open_store(load(S3Settings)):
            pass
    assert met.value.code == "CredentialRetrievalError"
