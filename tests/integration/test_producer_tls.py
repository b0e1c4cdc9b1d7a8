"""HTTPS by files: with it, without a client's certificate, and with one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.papers import Papers
from tests.producer_process import ProducerProcess

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.stack


@contextlib.asynccontextmanager
async def serving_tls(
    environment: dict[str, str], topic: str, papers: Papers, *, client: bool, **settings: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a producer that is ready."""
    with ProducerProcess(environment, KAFKA_TOPIC=topic, KAFKA_TOPIC_PARTITIONS="1", **settings) as process:
        url = (await process.address()).replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https://")
        context = papers.context(client=client)
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as found:
            await until_ready(found)
            yield found
        process.terminate()
        assert await process.ended() == 0, process.log
        assert "Traceback" not in process.log, process.log


async def until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_payloads_are_taken_by_https(
    service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path, workers: str
) -> None:
    papers = Papers(tmp_path)
    settings = {**papers.settings, "WORKERS": workers, "HTTP_HOST": "127.0.0.1"}
    async with serving_tls(service_env, topic(), papers, client=False, **settings) as client:
        for size in (1, 10_000, 900_000):
            body = b'{"data":["%s"]}' % (b"x" * size)
            assert (await client.post("/payloads", content=body)).json() == {"accepted": 1}
        refused = await client.post("/payloads", content=b'{"data":["%s"]}' % (b"x" * 2_000_000))
        assert refused.status_code == 413


async def test_a_client_without_a_certificate_is_not_let_in(
    service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    papers = Papers(tmp_path)
    settings = {**papers.settings, "HTTP_TLS_CLIENT_CA_FILE": str(papers.ca), "HTTP_HOST": "0.0.0.0"}
    async with serving_tls(service_env, topic(), papers, client=True, **settings) as client:
        assert (await client.post("/payloads", content=b'{"data":[1]}')).status_code == 200
        url = str(client.base_url)
        strangers = Papers(tmp_path_of(tmp_path))
        for context in (papers.context(client=False), with_certificate_of(strangers, papers)):
            async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False) as stranger:
                with pytest.raises(httpx.TransportError):
                    await stranger.post("/payloads", content=b'{"data":[1]}')


async def test_handshakes_that_do_not_come_end_as_slow_heads_do(
    service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    papers = Papers(tmp_path)
    settings = {**papers.settings, "HTTP_HOST": "127.0.0.1", "HEADER_TIMEOUT_SECONDS": "1", "MAX_CONNECTIONS": "8"}
    async with serving_tls(service_env, topic(), papers, client=False, **settings) as client:
        url = client.base_url
        async with asyncio.timeout(30):  # uvloop itself would let them be for 60 s
            silent = [await asyncio.open_connection(url.host, url.port) for _ in range(9)]
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
        assert (await client.post("/payloads", content=b'{"data":[1]}')).status_code == 200


def tmp_path_of(folder: Path) -> Path:
    other = folder / "strangers"
    other.mkdir()
    return other


def with_certificate_of(strangers: Papers, papers: Papers) -> ssl.SSLContext:
    context = papers.context(client=False)
    context.load_cert_chain(str(strangers.client))
    return context
