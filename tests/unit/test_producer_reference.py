"""What the front tells of itself: /openapi.json, /docs, the table of answers, and what browsers are told."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from headrace.management import Health
from producer.app import create_app
from producer.errors import PROBLEM_PREFIX, Kind, Problem, answer
from producer.openapi import _posts, document
from producer.reference import POLICY, page
from tests.unit.test_producer_app import Front

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

DOCS = (Path(__file__).parents[2] / "docs/HTTP.md").read_text()


def test_the_table_of_answers_is_the_codes_own() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \| (.+?) \| (.+) \|$", DOCS, re.MULTILINE)
    assert [(int(status), name, title) for status, name, title, _ in rows] == [
        (kind.value.status, kind.value.name, kind.value.title) for kind in Kind
    ]
    assert all(advice.strip() for *_, advice in rows)


def test_every_problem_has_a_name_of_its_own() -> None:
    assert len({kind.value.name for kind in Kind}) == len(Kind)


def test_who_may_try_again_is_told_when() -> None:
    for kind in Kind:
        headers = dict(answer(Problem(kind, "x")).headers)
        assert (b"retry-after" in headers) == (kind.status in {429, 503}), kind
        assert (b"www-authenticate" in headers) == (kind.status == 401), kind
    assert dict(answer(Problem(Kind.TOO_MANY, "x", retry_after=7)).headers)[b"retry-after"] == b"7"


@pytest.mark.parametrize("paths", [["/payloads"], [*_posts()]])
def test_the_document_is_openapi_3_1(paths: list[str]) -> None:
    told = document(paths)
    validate(told, cls=OpenAPIV31SpecValidator)
    assert {path for path, item in told["paths"].items() if "post" in item} == set(paths)
    types = told["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert types == [PROBLEM_PREFIX + kind.value.name for kind in Kind]
    told_statuses = set(told["paths"]["/payloads"]["post"]["responses"])
    assert {str(kind.status) for kind in Kind} - told_statuses == {"405"}


def test_an_endpoint_that_the_document_does_not_know_is_noticed() -> None:
    with pytest.raises(AssertionError, match="/other"):
        document(["/other"])


class Links(HTMLParser):
    """All that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            (tag, value) for name, value in attrs if name in {"src", "href", "style"} or name.startswith("on")
        ]
        assert tag not in {"script", "iframe", "object", "embed", "form"}

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_needs_nothing_from_anywhere_else() -> None:
    front = Front()
    async with front.client:
        got = await front.client.get("/docs")
        assert got.headers["content-type"] == "text/html; charset=utf-8"
        assert got.headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        links = Links()
        links.feed(got.text)
        assert links.found == [("a", "openapi.json")]
        for path in (await front.client.get("/openapi.json")).json()["paths"]:
            assert path in links.text


def test_nothing_in_the_document_is_taken_for_html() -> None:
    told = document(["/payloads"])
    told["info"]["description"] = "<b>"
    assert "<b>" not in page(told)


class Origins:
    def __init__(self, *origins: str) -> None:
        async def ingest(scope: Scope, receive: Receive, send: Send) -> None:
            del scope, receive
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        app: Any = create_app(ingest, Health(), origins=origins)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def preflight(self, origin: str) -> httpx.Response:
        headers = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,idempotency-key",
        }
        return await self.client.options("/payloads", headers=headers)

    async def post(self, origin: str | None) -> httpx.Response:
        return await self.client.post("/payloads", headers={} if origin is None else {"origin": origin})


async def test_pages_of_named_origins_may_publish() -> None:
    it = Origins("https://a.example", "http://b.example:81")
    for origin in ("https://a.example", "http://b.example:81"):
        asked = await it.preflight(origin)
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == origin
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type,idempotency-key"
        assert "access-control-allow-credentials" not in asked.headers
        assert "Origin" in asked.headers["vary"]
        got = await it.post(origin)
        assert got.headers["access-control-allow-origin"] == origin
        assert got.headers["access-control-expose-headers"] == "Retry-After"
    for origin in ("https://c.example", "https://a.example:444", "null"):
        asked = await it.preflight(origin)
        assert asked.status_code == 403
        got = await it.post(origin)
        assert got.status_code == 200, "it is the browser that keeps the answer from the page"
        for answered in (asked, got):
            assert "access-control-allow-origin" not in answered.headers
            assert answered.headers["vary"] == "Origin"
    assert (await it.post(None)).headers["vary"] == "Origin", "caches must not give this answer to a page"


async def test_pages_of_all_origins_may_publish_where_that_is_said() -> None:
    it = Origins("*")
    assert (await it.preflight("https://x.example")).headers["access-control-allow-origin"] == "*"
    assert (await it.post("https://x.example")).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in (await it.post(None)).headers


async def test_problems_may_be_read_by_pages_too() -> None:
    it = Origins("*")
    got = await it.client.get("/payloads", headers={"origin": "https://x.example"})
    assert (got.status_code, got.headers["access-control-allow-origin"]) == (405, "*")


async def test_without_origins_nothing_is_said_of_them() -> None:
    it = Origins()
    assert (await it.preflight("https://x.example")).status_code == 405
    assert not {"vary", "access-control-allow-origin"} & set((await it.post("https://x.example")).headers)
