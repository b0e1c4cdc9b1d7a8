"""Pages publish from browsers: what Chromium asks is answered, and where there is a Chromium, it is asked to do it.

Without one the requests are written here after what the fetch standard has browsers send, so nothing is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.producer_process import records_of, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.services import KafkaService

pytestmark = pytest.mark.stack
TOKEN = "a-token-for-pages-alone"
PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
const url = "URL/payloads", token = "TOKEN", told = {};
const post = (body, headers) => fetch(url, {method: "POST", body, headers});
const json = {"Content-Type": "application/json", "Authorization": "Bearer " + token, "Idempotency-Key": "k"};
const answer = await post(JSON.stringify({data: ["fetched"]}), json);
told.fetched = [answer.status, await answer.json()];
const refused = await post("{", json);
told.refused = [refused.status, (await refused.json()).type];
told.beacon = navigator.sendBeacon(url, JSON.stringify({token, data: ["beacon"]}));
const docs = await fetch("URL/docs");
told.docs = (await docs.text()).includes("POST /payloads");
await fetch("/told", {method: "POST", body: JSON.stringify(told)});
</script>"""


class Site:
    """A web site of another origin, with the one page, that hears what became of it."""

    def __init__(self, content: str) -> None:
        self._content = content.encode()
        self.told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            content = self._content if head.startswith(b"GET / ") else b""
            if head.startswith(b"POST /told"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.told.set_result(json.loads(await reader.readexactly(length)))
            kind = b"Content-Type: text/html\r\nConnection: close\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (kind, len(content), content))
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[tuple[str, Callable[[str], Site]]]:
    """Its origin, and how its page is put there."""
    there: list[Site] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await there[0](reader, writer)

    def put(content: str) -> Site:
        there.append(Site(content))
        return there[0]

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", put


async def browse(browser: str, url: str, folder: Path, told: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
    """What the page told."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
    process = await asyncio.create_subprocess_exec(
        browser,
        *options,
        "--remote-debugging-port=0",
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(told, 45)
    finally:
        process.terminate()
        await process.wait()


async def replay(url: str, origin: str) -> dict[str, Any]:
    """What Chromium sent for the page, and what the page would tell of the answers."""
    site = {"sec-fetch-mode": "cors", "sec-fetch-site": "same-site", "sec-fetch-dest": "empty", "referer": f"{origin}/"}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        asked = await client.options(
            "/payloads",
            headers={
                **site,
                "accept": "*/*",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,idempotency-key",
                "origin": origin,
            },
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == origin
        allowed = asked.headers["access-control-allow-headers"].split(",")
        assert {"authorization", "content-type", "idempotency-key"} <= set(allowed)
        headers = {
            **site,
            "origin": origin,
            "content-type": "application/json",
            "authorization": f"Bearer {TOKEN}",
            "idempotency-key": "k",
        }
        answer = await client.post("/payloads", content=b'{"data":["fetched"]}', headers=headers)
        refused = await client.post("/payloads", content=b"{", headers=headers)
        for one in (answer, refused):
            assert one.headers["access-control-allow-origin"] == origin, "or the page can't read it"
        beacon = await client.post(
            "/payloads",
            content=json.dumps({"token": TOKEN, "data": ["beacon"]}),
            headers={**site, "origin": origin, "content-type": "text/plain;charset=UTF-8", "sec-fetch-mode": "no-cors"},
        )
        docs = await client.get("/docs", headers={**site, "origin": origin})
        return {
            "fetched": [answer.status_code, answer.json()],
            "refused": [refused.status_code, refused.json()["type"]],
            "beacon": beacon.status_code == 200,
            "docs": "POST /payloads" in docs.text and docs.headers["access-control-allow-origin"] == origin,
        }


async def test_a_page_of_another_origin_publishes_by_fetch_and_by_beacon(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    name = topic()
    browser = shutil.which("chromium")
    async with (
        site() as (origin, put),
        serving(service_env, name, CORS_ORIGINS=origin, HTTP_TOKEN=TOKEN) as (process, url),
    ):
        page = put(PAGE.replace("URL", url).replace("TOKEN", TOKEN))
        told = await (replay(url, origin) if browser is None else browse(browser, origin, tmp_path, page.told))
        assert told == {
            "fetched": [200, {"accepted": 1}],
            "refused": [400, "urn:headrace:problem:not-json"],
            "beacon": True,
            "docs": True,
        }
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            async with asyncio.timeout(20):
                while "headrace_producer_payloads_total 2.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.05)
        process.terminate()
        assert await process.ended() == 0
    found = [record.value for records in (await records_of(kafka.bootstrap, name)).values() for record in records]
    assert sorted(found) == [b'"beacon"', b'"fetched"']


async def test_what_chromium_sends_is_answered(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    origin = "http://127.0.0.1:1234"
    async with serving(service_env, topic(), CORS_ORIGINS=origin, HTTP_TOKEN=TOKEN) as (_, url):
        assert (await replay(url, origin))["beacon"]
