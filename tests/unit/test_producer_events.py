"""POST /events: a request is a record, or a batch of CloudEvents; keys and headers go along here and at /payloads."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headrace.management import Health
from producer.app import create_app
from producer.events import EVENT_BYTES, Events
from producer.ingest import Ingest
from producer.intake import Intake
from producer.records import Each
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from producer.batches import Batch

EVENT = {"id": "1", "source": "/s", "specversion": "1.0", "type": "t"}
ATTRIBUTES = [("ce_id", b"1"), ("ce_source", b"/s"), ("ce_specversion", b"1.0"), ("ce_type", b"t")]


class Outlet:
    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = []
        self.reserved: list[int] = []

    def partitions(self) -> range:
        return range(3)

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        for request in batch.requests:
            self.reserved.append(request.reserved)
            each = request.headers if isinstance(request.headers, Each) else Each(None, request.headers, None)
            for index, value in enumerate(request.payloads):
                key = None if each.keys is None else each.keys[index]
                own = [] if each.own_headers is None else each.own_headers[index]
                self.records.append((key, None if value is None else bytes(value), [*each.headers, *own]))
        asyncio.get_running_loop().call_soon(self.intake.landed, batch, 1.0, None)


class Front:
    def __init__(self, **values: object) -> None:
        settings = ProducerSettings.model_validate({"kafka_topic": "t", "linger_ms": 0, **values})
        self.intake = Intake(settings)
        self.outlet = Outlet(self.intake)
        self.intake.open(self.outlet)
        self.intake.partition_count = 3
        self.events = Events(settings, self.intake)
        app: Any = create_app(Ingest(settings, self.intake), Health(), {"/events": self.events})
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def post(self, body: bytes, media_type: str | None = None, path: str = "/events", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if media_type is not None:
            named["content-type"] = media_type
        response = await self.client.post(path, content=body, headers=named)
        assert self.intake.budget.bytes == 0
        if response.status_code != 200:
            assert response.headers["content-type"] == "application/problem+json"
        return response


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    front = Front()
    async with front.client:
        yield front


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b' {"a": 1.50}\n', "application/json"),
        (rb'"\ud800"', "application/json; charset=utf-8"),
        (b"12345678901234567890.10", "application/vnd.a+json"),
        (b"\0\xff\xfe", "application/octet-stream"),
        (b"{no json", "text/plain;charset=UTF-8"),
        (b"\x89PNG", "image/png"),
        (b"a=1&b=2", "application/x-www-form-urlencoded"),
    ],
)
async def test_one_event_is_the_bytes_that_came_and_their_type(front: Front, body: bytes, media_type: str) -> None:
    response = await front.post(body, media_type)
    assert (response.status_code, response.content) == (200, b'{"accepted":1}')
    assert front.outlet.records == [(None, body, [("content-type", media_type.encode())])]


async def test_without_a_type_it_is_bytes(front: Front) -> None:
    assert (await front.post(b"{what")).status_code == 200
    assert front.outlet.records == [(None, b"{what", [])]


@pytest.mark.parametrize(
    ("body", "media_type", "status", "words"),
    [
        (b"{", "application/json", 400, "ends too early"),
        (b"NaN", "application/json", 400, "JSON has no NaN"),
        (b'"\xff"', "application/json", 400, "UTF-8"),
        (b"\xef\xbb\xbf1", "application/json", 400, "byte order mark"),
        (b"[" * 100_000, "application/json", 400, "too deep"),
        (b"", "application/json", 400, "empty"),
        (b"", "image/png", 400, "empty"),
        (b"1\n2\n", "application/x-ndjson", 415, "/payloads"),
        (b"{}", "application/cloudevents+avro", 415, "is not taken"),
        (b"{}", "application/cloudevents+json", 400, 'no "id"'),
        (b"[1]", "application/cloudevents-batch+json", 400, "Event 0"),
    ],
)
async def test_what_is_not_what_it_says_is_refused(
    front: Front, body: bytes, media_type: str, status: int, words: str
) -> None:
    response = await front.post(body, media_type)
    assert (response.status_code, words in response.json()["detail"]) == (status, True), response.text
    assert not front.outlet.records


async def test_cloudevents_are_taken_in_each_mode(front: Front) -> None:
    one, other = json.dumps({**EVENT, "data": [1]}), json.dumps({**EVENT, "data_base64": "AA=="})
    assert (await front.post(one.encode(), "application/cloudevents+json")).json() == {"accepted": 1}
    batch = f"[{one},{other}]".encode()
    assert (await front.post(batch, "Application/CloudEvents-Batch+JSON; charset=utf-8")).json() == {"accepted": 2}
    headers = {f"ce-{name}": value for name, value in EVENT.items()}
    assert (await front.post(b"[1]", "application/json", **headers)).json() == {"accepted": 1}
    json_type = ("content-type", b"application/json")
    assert front.outlet.records == [
        (None, b"[1]", [*ATTRIBUTES, json_type]),
        (None, b"[1]", [*ATTRIBUTES, json_type]),
        (None, b"\0", ATTRIBUTES),
        (None, b"[1]", [*ATTRIBUTES, json_type]),
    ]
    assert front.outlet.reserved[1] == len(batch) + 2 * EVENT_BYTES
    assert (await front.post(b"[]", "application/cloudevents-batch+json")).json() == {"accepted": 0}
    assert (await front.post(b"[1", "application/json", **headers)).status_code == 400
    assert (await front.post(b"", **headers)).status_code == 200
    assert front.outlet.records[4:] == [(None, None, ATTRIBUTES)]


async def test_many_small_events_are_held_by_the_budget() -> None:
    front = Front(max_length=10_000, memory_budget_bytes=20_000)
    batch = b"[" + b",".join([json.dumps(EVENT).encode()] * 50) + b"]"
    response = await front.post(batch, "application/cloudevents-batch+json")
    assert response.status_code == 503
    assert (await front.post(json.dumps(EVENT).encode(), "application/cloudevents+json")).status_code == 200


async def test_keys_come_from_request_event_and_payload_in_this_order() -> None:
    front = Front(key_pointer="/k", key_query="key", headers_kept=["x-kept"])
    event = json.dumps({**EVENT, "partitionkey": "own", "data": {"k": "inner"}}).encode()
    without = json.dumps({**EVENT, "data": {"k": "inner"}}).encode()
    plain = json.dumps({**EVENT, "datacontenttype": "text/plain", "data": '{"k":1}'}).encode()
    for body, path, headers in (
        (event, "/events?key=asked", {}),
        (event, "/events", {"x_kafka_key": "told"}),
        (event, "/events", {}),
        (without, "/events", {}),
        (plain, "/events", {}),
    ):
        assert (await front.post(body, "application/cloudevents+json", path, **headers)).status_code == 200
    assert (await front.post(b'{"k":5}', "application/json", x_kept="1", traceparent="00")).status_code == 200
    assert (await front.post(b'{"k":5}', "text/plain")).status_code == 200
    assert [record[0] for record in front.outlet.records] == [b"asked", b"told", b"own", b"inner", None, b"5", None]
    assert front.outlet.records[5][2] == [
        ("x-kept", b"1"),
        ("traceparent", b"00"),
        ("content-type", b"application/json"),
    ]


async def test_payloads_have_keys_too() -> None:
    front = Front(key_pointer="/k")
    body = b'{"data":[{"k":"a"},{"n":1},{"k":"a"}]}'
    assert (await front.post(body, "application/json", "/payloads")).json() == {"accepted": 3}
    assert (await front.post(body, "application/json", "/payloads", x_kafka_key="b", idempotency_key="i")).json() == {
        "accepted": 3
    }
    assert (await front.post(b'{"k":"a"}\n{"k":"a"}', "application/x-ndjson", "/payloads")).json() == {"accepted": 2}
    assert [record[0] for record in front.outlet.records] == [b"a", None, b"a", b"b", b"b", b"b", b"a", b"a"]
    assert front.outlet.records[3][2] == [("idempotency-key", b"i")]
    refused = await front.post(b'{"data":[{"k":[]}]}', "application/json", "/payloads")
    assert (refused.status_code, refused.json()["index"]) == (400, 0)


async def test_the_client_that_goes_away_has_published_nothing(front: Front) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError

    await front.events({"type": "http", "path": "/events", "headers": []}, gone, send)
    assert not front.outlet.records


class Asked:
    def __init__(self) -> None:
        self.about: list[object] = []

    def check_topic(self, topic: str) -> None:
        self.about.append(topic)

    def check_signature(self, body: bytes) -> None:
        self.about.append(body)

    def check_token(self, collection: bytes) -> None:
        self.about.append(collection)


async def test_who_calls_is_looked_at(front: Front) -> None:
    caller = Asked()
    front.events._admit = lambda scope, headers: caller
    assert (await front.post(b'{"token":"x"}', "application/json")).status_code == 200
    assert caller.about == ["t", b'{"token":"x"}', b""], "an event's own token is no credential"
