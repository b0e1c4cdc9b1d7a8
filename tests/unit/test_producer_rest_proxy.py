"""The Kafka REST proxy's v2 produce call: its bodies, its answers, its errors."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.management import Health
from producer.app import create_app
from producer.errors import Kind, Problem
from producer.ingest import Ingest
from producer.intake import open_intakes
from producer.keys import NO_TAGS, Tags
from producer.produce_requests import Embedded, answer_type, embedded_format, split_records
from producer.records import Place
from producer.rest_proxy import TOPIC_PATHS, RestProxy, offsets_answer, proxy_answer
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from producer.batches import Batch
    from producer.intake import Intake

JSON, BINARY = b"application/vnd.kafka.json.v2+json", b"application/vnd.kafka.binary.v2+json"


def problem_of(body: bytes, embedded: Embedded = Embedded.JSON, partition: int | None = None) -> Problem:
    with pytest.raises(Problem) as caught:
        split_records(body, embedded, NO_TAGS, partition)
    return caught.value


def test_json_stays_as_it_came() -> None:
    odd = b'{"records":[ {"key" : "k1","value": {"a":1.10, "a":  12345678901234567890.0} },{"value":[ ]},{"key":null}]}'
    records = split_records(odd, Embedded.JSON, Tags(None, [("h", b"1")]))
    assert [None if value is None else bytes(value) for value in records.values] == [
        b'{"a":1.10, "a":  12345678901234567890.0}',
        b"[ ]",
        None,
    ]
    assert records.keys is not None
    assert [None if key is None else bytes(key) for key in records.keys] == [b'"k1"', None, None]
    assert (records.partitions, records.headers, records.own_headers) == (None, [("h", b"1")], None)


BYTES = st.none() | st.binary(max_size=60)


@given(st.lists(st.tuples(BYTES, BYTES, st.none() | st.integers(0, 9)), min_size=1, max_size=20))
def test_base64_is_undone(rows: list[tuple[bytes | None, bytes | None, int | None]]) -> None:
    def text(value: bytes | None) -> str | None:
        return None if value is None else base64.b64encode(value).decode()

    body = {"records": [{"key": text(key), "value": text(value), "partition": where} for key, value, where in rows]}
    records = split_records(json.dumps(body).encode(), Embedded.BINARY, NO_TAGS)
    assert records.values == [value for _, value, _ in rows]
    assert list(records.keys or [None] * len(rows)) == [key for key, _, _ in rows]
    assert list(records.partitions or [None] * len(rows)) == [where for _, _, where in rows]


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
            st.lists,
            max_leaves=5,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_json_comes_through(values: list[Any]) -> None:
    texts = [json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") for value in values]
    body = b'{"records":[' + b",".join(b'{"value":%s}' % text for text in texts) + b"]}"
    found = split_records(body, Embedded.JSON, NO_TAGS).values
    assert [b"null" if value is None else bytes(value) for value in found] == texts


def test_the_requests_key_is_for_records_that_have_none() -> None:
    records = split_records(b'{"records":[{"key":"own"},{}]}', Embedded.JSON, Tags(b"all", []))
    assert records.keys is not None
    assert [key and bytes(key) for key in records.keys] == [b'"own"', b"all"]


def test_headers_as_strimzis_bridge_has_them() -> None:
    body = b'{"records":[{"value":1,"headers":[{"key":"a","value":"MQ=="},{"key":"b"}]},{"value":2}]}'
    assert split_records(body, Embedded.JSON, NO_TAGS).own_headers == [[("a", b"1"), ("b", None)], []]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", Kind.EMPTY_BODY, "empty"),
        (b'{"records":[{"value":1}', Kind.NOT_JSON, "ends too early"),
        (b'{"records":[{"value":NaN}]}', Kind.NOT_JSON, "NaN"),
        (b'{"records":[{"value":"\xff"}]}', Kind.NOT_JSON, "UTF-8"),
        (b'{"records":[{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", Kind.NOT_JSON, "deep"),
        (b"{}", Kind.BAD_RECORD, "records"),
        (b'{"records":[]}', Kind.BAD_RECORD, "no records"),
        (b'{"records":[1]}', Kind.BAD_RECORD, "$.records[0]"),
        (b'{"records":[{"value":1},{"value":1,"partition":"0"}]}', Kind.BAD_RECORD, "partition"),
        (b'{"records":[{"value":1,"timestamp":5}]}', Kind.BAD_RECORD, "Record 0 "),
        (b'{"records":[{"value":1,"headers":[{"key":"a","value":"?"}]}]}', Kind.BAD_RECORD, "no base64"),
    ],
)
def test_bad_bodies_are_told(body: bytes, kind: Kind, words: str) -> None:
    problem = problem_of(body)
    assert problem.kind is kind
    assert words in problem.detail


@pytest.mark.parametrize("value", [b'"?"', b'"YQ"', b'"Y Q=="', b"1", b"{}", b'"YQ==YQ=="'])
def test_no_base64_is_told_with_the_records_number(value: bytes) -> None:
    problem = problem_of(b'{"records":[{"value":"YQ=="},{"value":' + value + b"}]}", Embedded.BINARY)
    assert (problem.kind, problem.members) == (Kind.BAD_RECORD, {"index": 1})


def test_an_address_with_a_partition_is_for_all_records() -> None:
    assert split_records(b'{"records":[{},{"partition":3}]}', Embedded.JSON, NO_TAGS, 3).partitions == [3, 3]
    assert "names partition 4" in problem_of(b'{"records":[{"partition":4}]}', partition=3).detail


def test_content_types() -> None:
    assert embedded_format(JSON + b"; charset=utf-8") is Embedded.JSON
    for name in (BINARY, b"application/json", b"application/vnd.kafka.v2+json", b"APPLICATION/vnd.kafka+json"):
        assert embedded_format(name) is Embedded.BINARY, "what is not said is binary, as the proxy has it"
    for name, words in ((b"application/vnd.kafka.avro.v2+json", "schema registry"), (b"", "without"), (b"x/y", "x/y")):
        with pytest.raises(Problem, match=words) as caught:
            embedded_format(name)
        assert caught.value.kind is Kind.UNSUPPORTED


def test_accept() -> None:
    ours = b"application/vnd.kafka.v2+json"
    for name in (b"", b"*/*", b"text/html, application/*;q=0.5", ours, JSON, ours + b", application/json"):
        assert answer_type(name) == ours
    for name in (b"application/json", b"application/vnd.kafka+json"):
        assert answer_type(b"text/plain," + name) == name
    with pytest.raises(Problem) as caught:
        answer_type(b"text/html")
    assert caught.value.kind is Kind.NOT_ACCEPTABLE


def test_little_is_kept_of_long_headers() -> None:
    long = b"x" * 60_000
    tracemalloc.start()
    try:
        for number in range(100):
            assert embedded_format(b"%b; %d%b" % (JSON, number, long)) is Embedded.JSON
            assert answer_type(b"text/%d%b, application/json" % (number, long)) == b"application/json"
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000


def test_the_answer_is_the_proxys() -> None:
    answer = offsets_answer([Place(2, 12), Place(0, None)], b"application/json")
    assert json.loads(answer.body) == {
        "offsets": [
            {"partition": 2, "offset": 12, "error_code": None, "error": None},
            {"partition": 0, "offset": None, "error_code": None, "error": None},
        ],
        "key_schema_id": None,
        "value_schema_id": None,
    }


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (Kind.NO_TOPIC, 404, 40401),
        (Kind.NO_PARTITION, 404, 40402),
        (Kind.TOO_LONG, 413, 413),
        (Kind.BAD_RECORD, 422, 422),
        (Kind.KAFKA_AWAY, 503, 50003),
        (Kind.OUTCOME_UNKNOWN, 503, 50002),
        (Kind.QUEUE_FULL, 503, 503),
    ],
)
def test_errors_are_the_proxys(kind: Kind, status: int, code: int) -> None:
    told, headers, body = proxy_answer(Problem(kind, "Why."))
    assert told == status
    assert json.loads(body) == {"error_code": code, "message": f"{kind.value.title}. Why."}
    names = [name for name, _ in headers]
    assert len(set(names)) == len(names)
    assert (b"retry-after" in names) == (status == 503)


# The endpoint


class Outlet:
    """Acknowledges at the next turn of the loop, from offset 100 on."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.sent: list[tuple[int, bytes | None]] = []

    def partitions(self) -> range:
        return range(4)

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        for request in batch.requests:
            self.sent += [(batch.partition, value and bytes(value)) for value in request.payloads]
        asyncio.get_running_loop().call_soon(self._intake.landed, batch, 1.0, None, 100)


class Front:
    def __init__(self, **settings: object) -> None:
        told = ProducerSettings.model_validate(
            {"kafka_topic": "t", "kafka_topics_allowed": ("u",), "linger_ms": 0, **settings}
        )
        self.intakes = open_intakes(told)
        self.outlets = {name: Outlet(intake) for name, intake in self.intakes.items()}
        for name, intake in self.intakes.items():
            intake.partition_count = 4
            intake.open(self.outlets[name])
        ingest = Ingest(told, self.intakes["t"])
        self.app = create_app(ingest, Health(), dict.fromkeys(TOPIC_PATHS, RestProxy(told, self.intakes)))

    async def post(self, path: str, body: bytes, type_: bytes = JSON, **headers: bytes) -> tuple[int, Any]:
        told: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "root_path": "",
            "headers": [
                (b"content-type", type_),
                (b"content-length", b"%d" % len(body)),
                *((name.replace("_", "-").encode(), value) for name, value in headers.items()),
            ],
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            told.append(dict(message))

        await self.app(scope, receive, send)
        assert self.intakes["t"].budget.bytes == 0
        return told[0]["status"], json.loads(told[1]["body"])


async def test_records_go_where_they_are_to_go() -> None:
    front = Front()
    status, told = await front.post("/topics/u", b'{"records":[{"value":1,"partition":2},{"value":"x"}]}')
    assert status == 200
    assert [(row["partition"], row["offset"]) for row in told["offsets"]] == [(2, 100), (2, 101)]
    status, told = await front.post("/topics/u/partitions/3", b'{"records":[{"value":"eA=="}]}', BINARY)
    assert (status, told["offsets"][0]["partition"]) == (200, 3)
    assert front.outlets["u"].sent == [(2, b"1"), (2, b'"x"'), (3, b"x")]
    assert front.outlets["t"].sent == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/topics/other", 404, 40401),
        ("/topics/..", 404, 40401),
        ("/topics/u/partitions/4", 404, 40402),
        ("/topics/u/partitions/-1", 404, 40402),
        ("/topics/u/partitions/\u0664", 404, 40402),
        ("/topics/u/partitions/" + "9" * 30, 404, 40402),
    ],
)
async def test_what_is_not_there_is_404_and_publishes_nothing(path: str, status: int, code: int) -> None:
    front = Front()
    told, body = await front.post(path, b'{"records":[{"value":1}]}')
    assert (told, body["error_code"]) == (status, code)
    assert not any(outlet.sent for outlet in front.outlets.values())


async def test_keys_apart_are_refused_where_that_is_set() -> None:
    front = Front(keyed_requests="refuse")
    body = b'{"records":[' + b",".join(b'{"key":%d,"value":1}' % number for number in range(9)) + b"]}"
    status, told = await front.post("/topics/t", body)
    assert (status, told["error_code"]) == (422, 422)
    assert "KEYED_REQUESTS=refuse" in told["message"]
    assert (await front.post("/topics/t", b'{"records":[{"key":1,"value":1},{"key":1}]}'))[0] == 200


async def test_a_long_idempotency_key_is_refused_and_a_short_one_goes_along() -> None:
    front = Front()
    body = b'{"records":[{"value":1}]}'
    assert (await front.post("/topics/t", body, idempotency_key=b"x" * 256))[0] == 400
    assert (await front.post("/topics/t", body, idempotency_key=b"x"))[0] == 200


async def test_closed_topics_say_why_and_others_go_on() -> None:
    front = Front()
    front.intakes["u"].close("Topic u does not exist.")
    status, told = await front.post("/topics/u", b'{"records":[{"value":1}]}')
    assert (status, told["error_code"]) == (503, 50003)
    assert "Topic u does not exist" in told["message"]
    assert (await front.post("/topics/t", b'{"records":[{"value":1}]}'))[0] == 200
