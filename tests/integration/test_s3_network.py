"""The way to the store: TLS by a CA of one's own, proxies, and credentials that come and go. On the real server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson
import pytest
import trustme

from headrace.local.ports import free_ports
from headrace.s3 import S3Refused, S3Unavailable, open_store
from headrace.s3.parts import LEAST_PART_BYTES
from headrace.settings import S3Settings, load
from tests.s3_proxy import Fault, s3_proxy
from tests.trial import ready, trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from headrace.s3 import ObjectStore

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]


@pytest.fixture(params=["aiobotocore", "obstore"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("S3_CLIENT", name)
    return name


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


class Tunnel:
    """Passes bytes on: to `target`, behind TLS of its own, or to wherever a CONNECT asks for."""

    def __init__(self, target: str = "", context: ssl.SSLContext | None = None) -> None:
        self._target = urlsplit(target)
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError):
            host, port = self._target.hostname, self._target.port
            if self._context is None:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.asked.append(head.split("\r\n", 1)[0])
                place = head.split(" ", 2)[1]
                host, port = place.rpartition(":")[0], int(place.rpartition(":")[2])
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            there, back = await asyncio.open_connection(host, port)
            try:
                await asyncio.gather(_pipe(reader, back), _pipe(there, writer))
            finally:
                back.transport.abort()
        writer.transport.abort()
        self._tasks.discard(task)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=self._context)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # aborted connections are told so by then


@pytest.fixture
async def tls(service_environ: dict[str, str], tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """An https endpoint in front of the real server, and the PEM file of who has signed its certificate."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    async with Tunnel(service_environ["AWS_ENDPOINT_URL_S3"], context).listening() as place:
        yield f"https://{place}", pem


async def put_and_get(store: ObjectStore, key: str) -> None:
    for size in (10, LEAST_PART_BYTES + 10):
        body = bytes(range(10)) + bytes(size - 10)
        await store.put(key, body, metadata={"headrace-records": "1"}, content_type="text/plain")
        assert await store.get(key) == body


@pytest.mark.usefixtures("client")
async def test_a_ca_of_ones_own(
    tls: tuple[str, Path], topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the setting, which is the AWS chain's own variable, or by the chain's file."""
    endpoint, pem = tls
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    told = {"aws_endpoint_url_s3": endpoint, "s3_multipart_bytes": LEAST_PART_BYTES}
    async with open_store(load(S3Settings, **told)) as store:
        with pytest.raises(S3Unavailable, match="AWS_CA_BUNDLE names the PEM file"):
            await put_and_get(store, topic("tls"))
    async with open_store(load(S3Settings, aws_ca_bundle=pem, **told)) as store:
        await put_and_get(store, topic("tls"))
    config = tmp_path / "config"
    config.write_text(f"[default]\nca_bundle = {pem}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    async with open_store(load(S3Settings, **told)) as store:
        await put_and_get(store, topic("tls"))


@pytest.mark.usefixtures("client")
async def test_checksums_over_tls(tls: tuple[str, Path], topic: Callable[..., str]) -> None:
    """Where they are sent behind the body."""
    endpoint, pem = tls
    settings = load(
        S3Settings,
        aws_endpoint_url_s3=endpoint,
        aws_ca_bundle=pem,
        aws_request_checksum_calculation="when_supported",
        s3_multipart_bytes=LEAST_PART_BYTES,
    )
    async with open_store(settings) as store:
        await put_and_get(store, topic("sums"))


@pytest.mark.usefixtures("client")
async def test_a_proxy_by_its_usual_variable(
    tls: tuple[str, Path], topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, pem = tls
    tunnel = Tunnel()
    settings = load(S3Settings, aws_endpoint_url_s3=endpoint, aws_ca_bundle=pem, s3_multipart_bytes=LEAST_PART_BYTES)
    async with tunnel.listening() as place:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{place}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with open_store(settings) as store:
            await put_and_get(store, topic("proxy"))
        assert set(tunnel.asked) == {f"CONNECT {endpoint.removeprefix('https://')} HTTP/1.1"}
        tunnel.asked.clear()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with open_store(settings) as store:
            await put_and_get(store, topic("proxy"))
        assert not tunnel.asked


# Credentials that come and go


class Issuer:
    """A `credential_process`: a program that the AWS chain asks for credentials, which expire in a minute."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._right = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        self._answer = folder / "answer.json"
        self.config = folder / "config"
        program = f"import sys; sys.stdout.write(open({str(self._answer)!r}).read())"
        script = folder / "issue.py"
        script.write_text(program)
        self.config.write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")

    def issue(self, *, right: bool) -> None:
        key, secret = self._right
        answer = {
            "Version": 1,
            "AccessKeyId": key,
            "SecretAccessKey": secret if right else "expired",
            "Expiration": (datetime.now(UTC) + timedelta(seconds=60)).isoformat(),
        }
        part = self._answer.with_suffix(".part")
        part.write_bytes(orjson.dumps(answer))
        part.replace(self._answer)


async def test_credentials_that_expire_are_asked_for_again(
    client: str,
    service_environ: dict[str, str],
    topic: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    issuer = Issuer(tmp_path, service_environ)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(issuer.config))
    if client == "obstore":
        monkeypatch.setattr("headrace.s3_obstore.CREDENTIALS_SECONDS", 0.0)
    key = topic("expiring")
    issuer.issue(right=True)
    async with open_store(load(S3Settings)) as store:
        for right in (True, False, True):
            issuer.issue(right=right)
            if right:
                await store.put(key, b"x", metadata={}, content_type="text/plain")
                assert await store.get(key) == b"x"
            else:
                with pytest.raises(S3Refused, match="403"):
                    await store.put(key, b"y", metadata={}, content_type="text/plain")


async def test_an_archive_bears_credentials_that_go_and_come_back(service_env: dict[str, str], tmp_path: Path) -> None:
    """Wrong at the start, right, wrong in the middle, right: it waits, loudly, and no offset moves without S3."""
    issuer = Issuer(tmp_path, service_env)
    issuer.issue(right=False)
    own = {name: value for name, value in service_env.items() if not name.startswith("AWS_") or "URL" in name}
    own |= {"AWS_REGION": service_env["AWS_REGION"], "AWS_CONFIG_FILE": str(issuer.config)}
    with trial(service_env, 2, "keys") as it:
        await it.create_topic()
        await it.produce(1000)
        it.environment = own
        (port,) = free_ports(1)
        consumer = it.start(MANAGEMENT_PORT=str(port))
        it.environment = service_env

        async def told() -> bool:
            return "S3 does not take these credentials" in consumer.text

        await it.eventually(told)
        status, text = await ready(port)
        assert status == 503
        assert "AWS_SECRET_ACCESS_KEY" in text
        assert consumer.popen.poll() is None
        assert "generation" not in consumer.text  # it has not joined: it takes partitions from nobody
        issuer.issue(right=True)
        await it.stored()
        issuer.issue(right=False)
        before = await it.committed()
        await it.produce(500, first=1000)

        async def refused() -> bool:
            return "upload failed" in consumer.text

        await it.eventually(refused)
        assert {tp: offset for tp, (offset, _) in (await it.committed()).items()} == {
            tp: offset for tp, (offset, _) in before.items()
        }
        issuer.issue(right=True)
        await it.stored()
        assert await it.assert_exactly_once() == 1500


async def test_a_store_that_does_not_tell_unfinished_uploads(service_env: dict[str, str]) -> None:
    """It is said once, and nothing else changes."""

    def choose(method: str, path: str) -> tuple[Fault, float]:
        return (Fault.FORBIDDEN if method == "GET" and "uploads" in path else Fault.PASS), 0.0

    with trial(service_env, 1, "mute") as it:
        await it.create_topic()
        await it.produce(300)
        async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], choose) as proxy:
            consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint)
            await it.stored()

            async def told() -> bool:
                return "s3:ListBucketMultipartUploads" in consumer.text

            await it.eventually(told)
            assert proxy.seen[Fault.FORBIDDEN] == 1
        assert await it.assert_exactly_once() == 300
