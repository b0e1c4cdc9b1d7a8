"""The HTTP face, on an outlet that acknowledges at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headrace.errors import SettingsError
from headrace.management import Health
from headrace.settings import load
from producer.app import create_app
from producer.errors import Kind, Problem, answer
from producer.ingest import Ingest
from producer.intake import Intake
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from producer.batches import Batch


class QuickOutlet:
    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.batches: list[Batch] = []

    def partitions(self) -> range:
        return range(3)

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        self.batches.append(batch)
        asyncio.get_running_loop().call_soon(self.intake.landed, batch, 1.0, None)


class Front:
    def __init__(self, **values: object) -> None:
        self.settings = ProducerSettings.model_validate({"kafka_topic": "t", "linger_ms": 0, **values})
        self.intake = Intake(self.settings)
        self.outlet = QuickOutlet(self.intake)
        self.intake.open(self.outlet)
        self.ingest = Ingest(self.settings, self.intake)
        self.health = Health()
        self.app: Any = create_app(self.ingest, self.health)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    @property
    def published(self) -> list[bytes]:
        return [
            bytes(payload)
            for batch in self.outlet.batches
            for request in batch.requests
            for payload in request.payloads
        ]

    async def post(self, body: bytes, content_type: str | None = "application/json", **headers: str) -> httpx.Response:
        all_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            all_headers["content-type"] = content_type
        return await self.client.post("/payloads", content=body, headers=all_headers)


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    front = Front()
    async with front.client:
        yield front


def told(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert content["status"] == response.status_code
    assert {"type", "title", "detail"} < content.keys()
    return content


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-8",
        "application/octet-stream",
        "application/vnd.acme+json",
        "",
        None,
    ],
)
async def test_the_articles_body_is_taken_under_each_type_clients_send(front: Front, content_type: str | None) -> None:
    response = await front.post(b'{"version":"1","token":"t","data":[1, {"a": 2.50}]}', content_type)
    assert (response.status_code, response.content) == (200, b'{"accepted":2}')
    assert front.published == [b"1", b'{"a": 2.50}']


async def test_lines_are_taken(front: Front) -> None:
    response = await front.post(b'1\n{"a":1.0}\r\n', "application/x-ndjson")
    assert response.json() == {"accepted": 2}
    assert front.published == [b"1", b'{"a":1.0}']


async def test_a_body_in_many_small_pieces_takes_little_more_than_its_bytes(front: Front) -> None:
    body = random.Random(1).randbytes(100_001)
    at = highest = 0

    async def receive() -> dict[str, Any]:
        nonlocal at, highest
        piece, at = body[at : at + 2], at + 2
        highest = tracemalloc.get_traced_memory()[0]
        return {"type": "http.request", "body": piece, "more_body": at < len(body)}

    tracemalloc.start()
    try:
        assert await front.ingest.bodies.read(receive, {}) == body
    finally:
        tracemalloc.stop()
    assert highest < 2 * len(body)
    assert front.intake.budget.bytes == len(body)


async def test_an_empty_collection_is_fine_and_publishes_nothing(front: Front) -> None:
    assert (await front.post(b'{"data":[]}')).json() == {"accepted": 0}
    assert not front.outlet.batches
    assert front.intake.budget.bytes == 0


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x", "application/xml"])
async def test_other_types_are_415(front: Front, content_type: str) -> None:
    assert "is not taken" in told(await front.post(b'{"data":[1]}', content_type))["detail"]


async def test_a_body_packed_in_an_unknown_way_is_415(front: Front) -> None:
    response = await front.post(b"x", content_encoding="br")
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert (await front.post(b'{"data":[1]}', content_encoding="identity")).status_code == 200


async def test_bad_json_is_400_that_says_where(front: Front) -> None:
    content = told(await front.post(b'{"data":[1,{"a":}]}'))
    assert (content["status"], content["index"], content["byte"]) == (400, 1, 16)
    assert front.intake.budget.bytes == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_with_allow(front: Front, method: str) -> None:
    response = await front.client.request(method, "/payloads")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/payloads/", "/payload", "/%2e%2e/payloads"])
async def test_other_paths_are_404(front: Front, path: str) -> None:
    assert told(await front.client.post(path))["status"] == 404


async def test_too_long_is_413_with_the_limit_before_the_body_is_read() -> None:
    front = Front(max_length=100)

    async def unread() -> Any:
        pytest.fail("nobody may ask for the body")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/payloads", "headers": [(b"content-length", b"101")]}
    await front.app(scope, unread, send)
    assert sent[0]["status"] == 413
    assert b'"limit":100' in sent[1]["body"]


async def test_too_long_is_413_without_a_content_length_too() -> None:
    front = Front(max_length=100)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10

    async with front.client:
        response = await front.client.post("/payloads", content=endless())
    assert told(response)["limit"] == 100
    assert front.intake.budget.bytes == 0


async def test_the_idempotency_key_becomes_a_record_header(front: Front) -> None:
    assert (await front.post(b'{"data":[1]}', idempotency_key="abc-1")).status_code == 200
    assert front.outlet.batches[0].requests[0].headers == [("idempotency-key", b"abc-1")]
    assert told(await front.post(b'{"data":[1]}', idempotency_key="x" * 256))["limit"] == 255


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind.status == 503])
async def test_every_503_says_when_to_try_again(front: Front, kind: Kind) -> None:
    assert any(name == b"retry-after" and int(value) > 0 for name, value in answer(Problem(kind, "x")).headers)
    del front


async def test_without_kafka_it_is_503_before_the_body_is_read(front: Front) -> None:
    front.intake.close("Kafka is on holiday.")
    response = await front.post(b'{"data":[1]}')
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert told(response)["detail"] == "Kafka is on holiday."


def body_of(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if left:
            return left.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


async def ask(front: Front, receive: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await front.app({"type": "http", "method": "POST", "path": "/payloads", "headers": []}, receive, send)
    return sent


async def test_a_client_that_goes_away_in_the_middle_has_published_nothing(front: Front) -> None:
    part = {"type": "http.request", "body": b'{"data":[1]}', "more_body": True}
    assert await ask(front, body_of(part, {"type": "http.disconnect"})) == []
    assert not front.outlet.batches
    assert front.intake.budget.bytes == 0


async def test_a_body_that_stalls_is_408_and_the_connection_ends() -> None:
    front = Front(body_timeout_seconds=0.01)
    tick = asyncio.create_task(front.ingest.bodies.tick())
    part = {"type": "http.request", "body": b'{"data":', "more_body": True}
    start, _ = await ask(front, body_of(part))
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert front.intake.budget.bytes == 0
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "the cancellation was ours alone"
    tick.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tick


async def test_a_stalled_body_does_not_outlive_the_drain() -> None:
    front = Front(body_timeout_seconds=1000)
    tick = asyncio.create_task(front.ingest.bodies.tick())
    front.ingest.bodies.drain(asyncio.get_running_loop().time())
    start, body = await ask(front, body_of({"type": "http.request", "body": b"{", "more_body": True}))
    assert start["status"] == 503
    assert b"leaving" in body["body"]
    tick.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tick


async def test_health_is_told(front: Front) -> None:
    assert (await front.client.get("/readyz")).status_code == 200
    front.health.report("kafka", "away")
    response = await front.client.get("/readyz")
    assert (response.status_code, response.json()["problems"]) == (503, {"kafka": "away"})
    assert (await front.client.get("/healthz")).status_code == 200


async def test_metrics_count(front: Front) -> None:
    def value(text: str, name: str) -> float:
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    before = (await front.client.get("/metrics")).text
    await front.post(b'{"data":[1,2]}')
    await front.post(b"x")
    after = (await front.client.get("/metrics")).text
    for name, more in {
        'headrace_producer_requests_total{status="200"}': 1,
        'headrace_producer_requests_total{status="400"}': 1,
        "headrace_producer_payloads_total": 2,
        "headrace_producer_batches_total": 1,
    }.items():
        assert value(after, name) - value(before, name) == more, name


def test_settings_are_told_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KAFKA_TOPIC": "a/b", "MAX_LENGTH": "0", "HTTP_PORT": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(ProducerSettings)
    for name in ("KAFKA_TOPIC", "MAX_LENGTH", "HTTP_PORT"):
        assert name in str(caught.value)
    monkeypatch.setenv("KAFKA_TOPIC", "fine")
    monkeypatch.setenv("HTTP_PORT", "0")
    monkeypatch.setenv("MAX_LENGTH", "1000")
    monkeypatch.setenv("MEMORY_BUDGET_BYTES", "999")
    with pytest.raises(SettingsError, match="MEMORY_BUDGET_BYTES=999"):
        load(ProducerSettings)


class Suspicious:
    """A caller whose checks all fail, or one."""

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.asked: list[tuple[str, object]] = []

    def _ask(self, name: str, about: object) -> None:
        self.asked.append((name, about))
        if name == self.fails:
            raise Problem(Kind.BAD_HEADER, f"The {name} is not right.")

    def check_topic(self, topic: str) -> None:
        self._ask("topic", topic)

    def check_signature(self, body: bytes) -> None:
        self._ask("signature", body)

    def check_token(self, collection: bytes) -> None:
        self._ask("token", collection)


@pytest.mark.parametrize("fails", ["topic", "signature", "token", ""])
async def test_who_calls_is_looked_at_and_nothing_of_a_refused_one_stays(front: Front, fails: str) -> None:
    caller = Suspicious(fails)
    front.ingest._admit = lambda scope, headers: caller
    response = await front.post(b'{"data":[1]}')
    asked = [("topic", "t"), ("signature", b'{"data":[1]}'), ("token", b'{"data":[1]}')]
    assert caller.asked == asked[: next((n for n, ask in enumerate(asked, 1) if ask[0] == fails), 3)]
    assert response.status_code == (400 if fails else 200)
    assert front.published == ([] if fails else [b"1"])
    assert front.intake.budget.bytes == 0
