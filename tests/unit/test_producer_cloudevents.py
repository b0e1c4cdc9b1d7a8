"""CloudEvents come out as the Kafka binding has them, whichever way they came, and the SDK reads them back."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings import http as http_binding
from cloudevents.core.bindings import kafka as kafka_binding
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from producer.cloudevents import Event, batched_events, binary_event, is_json, structured_event
from producer.errors import Kind, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = {"id": "1", "source": "/s", "specversion": "1.0", "type": "t"}
LEAST_HEADERS: list[tuple[str, bytes | None]] = [
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_specversion", b"1.0"),
    ("ce_type", b"t"),
]


def body(**members: Any) -> bytes:
    return json.dumps({**LEAST, **members}).encode()


def read_back(event: Event) -> CloudEvent:
    message = kafka_binding.KafkaMessage(
        {name: value or b"" for name, value in event.headers}, event.key, event.value or b""
    )
    parsed = kafka_binding.from_kafka_event(message)
    assert isinstance(parsed, CloudEvent)
    return parsed


def lowered(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def test_data_is_the_very_bytes_that_came() -> None:
    data = b'{"big": 12345678901234567890.10, "a":1 ,"a":2}'
    event = structured_event(b'{"data": ' + data + b"," + body()[1:])
    assert event == Event(data, [*LEAST_HEADERS, ("content-type", b"application/json")], None, is_json=True)
    assert batched_events(b"[\n" + body() + b" , " + body(data=[1]) + b"]") == [
        Event(None, LEAST_HEADERS, None),
        Event(b"[1]", [*LEAST_HEADERS, ("content-type", b"application/json")], None, is_json=True),
    ]
    assert batched_events(b" [ ] ") == []


@pytest.mark.parametrize(
    ("members", "value"),
    [
        ({}, None),
        ({"data": None}, b"null"),
        ({"data": "text"}, b'"text"'),
        ({"data": 'te"xt\n€', "datacontenttype": "text/plain"}, 'te"xt\n€'.encode()),
        ({"data": "text", "datacontenttype": "application/xml;x=json"}, b"text"),
        ({"data": {"a": 1}, "datacontenttype": "application/xml"}, b'{"a": 1}'),
        ({"data": "text", "datacontenttype": "Text/JSON ; charset=utf-8"}, b'"text"'),
        ({"data_base64": base64.b64encode(b"\0\xff").decode()}, b"\0\xff"),
        ({"data_base64": ""}, b""),
        ({"data_base64": None, "data": 1}, b"1"),
        ({"data": 1, "data_base64": None}, b"1"),
    ],
)
def test_data_is_what_its_type_says(members: dict[str, Any], value: bytes | None) -> None:
    event = structured_event(body(**members))
    assert event.value == value
    expected = members.get("datacontenttype", "application/json" if "data" in members else None)
    assert dict(event.headers).get("content-type") == (None if expected is None else expected.encode())


def test_attributes_are_their_canonical_strings_and_unset_ones_are_not_there() -> None:
    event = structured_event(body(n=-5, yes=True, no=False, unset=None, partitionkey="k€y", subject='a"\\é'))
    assert event.headers == [
        *LEAST_HEADERS,
        ("ce_n", b"-5"),
        ("ce_yes", b"true"),
        ("ce_no", b"false"),
        ("ce_partitionkey", "k€y".encode()),
        ("ce_subject", 'a"\\é'.encode()),
    ]
    assert event.key == "k€y".encode()
    assert structured_event(body(partitionkey="")).key is None


@pytest.mark.parametrize(
    ("broken", "words", "attribute"),
    [
        (b"[]", "no JSON object", None),
        (b"{}", 'no "id"', "id"),
        (body(id=None), 'no "id"', "id"),
        (body(source=""), '"source" is empty', "source"),
        (body(subject=""), '"subject" is empty', "subject"),
        (body(id=1), "is no string", "id"),
        (body(source=True), "is no string", "source"),
        (body(type={"a": 1}), "neither a string", "type"),
        (body(n=1.5), "neither a string", "n"),
        (body(specversion="0.3"), "1.0 is what is known", "specversion"),
        (body(traceParent="x"), "no name", "traceParent"),
        (body(**{"a b": "x"}), "no name", "a b"),
        (body(x="a\nb"), "control characters", "x"),
        (body(x="\x85"), "control characters", "x"),
        (body(**{f"a{n}": 1 for n in range(253)}), "257 members", None),
        (body(data=1, data_base64="AA=="), "may have one", "data_base64"),
        (body(data_base64="AA"), "not base64", "data_base64"),
        (body(data_base64="é"), "not base64", "data_base64"),
        (body(data_base64=1), "no string", "data_base64"),
        (body(datacontenttype="", data=1), "no media type", "datacontenttype"),
        (body()[:-1] + b',"id":"2"}', 'names "id" more than once', "id"),
        (body()[:-1] + rb',"i\u0064":"2"}', 'names "id" more than once', "id"),
    ],
)
def test_what_is_no_event_is_told_with_its_index(broken: bytes, words: str, attribute: str | None) -> None:
    with pytest.raises(Problem, match=words) as alone:
        structured_event(broken)
    assert (alone.value.kind, alone.value.members) == (
        Kind.BAD_EVENT,
        {} if attribute is None else {"attribute": attribute},
    )
    with pytest.raises(Problem, match=words) as among_others:
        batched_events(b"[" + body() + b"," + broken + b"," + body() + b"]")
    assert among_others.value.members["index"] == 1


def test_a_name_that_stands_in_the_data_too_is_no_second_one() -> None:
    assert structured_event(body(data={"id": "x", "type": 'a"id"', "é": 1})).value is not None
    many = {f"a{n}": n for n in range(252)}
    assert len(structured_event(body(**many)).headers) == 256


@pytest.mark.parametrize(
    ("broken", "index"),
    [(b'[{"a":1},{"b":[1,2],"c":}]', 1), (b"[1,2,3", 2), (b"[1,]", 1), (b'[{"a":"\\ud800"}]', 0)],
)
def test_what_is_no_json_is_told_with_its_place(broken: bytes, index: int | None) -> None:
    with pytest.raises(Problem, match="The body is not JSON") as caught:
        batched_events(broken)
    assert caught.value.kind is Kind.NOT_JSON
    assert caught.value.members.get("index") == index
    with pytest.raises(Problem):
        structured_event(broken)


def test_a_batch_is_an_array_and_nothing_is_too_deep_or_empty() -> None:
    with pytest.raises(Problem, match="no array"):
        batched_events(body())
    for read, deep in ((structured_event, b'{"a":' * 100_000), (batched_events, b"[" * 100_000)):
        with pytest.raises(Problem, match="too deep"):
            read(deep)
        with pytest.raises(Problem, match="empty"):
            read(b" ")
        with pytest.raises(Problem, match="UTF-8"):
            read(b'{"id":"\xff"}')
    with pytest.raises(Problem, match="surrogate"):
        structured_event(body(x="\ud800"))
    many = b"[" + b"1," * 30_000 + b"]"
    with pytest.raises(Problem) as caught:
        batched_events(many)
    assert "index" not in caught.value.members, "a look that takes too long is not worth it"


BINARY = [(b"ce-id", b"1"), (b"ce-source", b"/s"), (b"ce-specversion", b"1.0"), (b"ce-type", b"t")]


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b'"a \\"b\\" %25"', 'a "b" %'),
        (b"100%", "100%"),
        (b"%2525", "%25"),
        ("roh é".encode(), "roh é"),
        (b" a ", "a"),
    ],
)
def test_values_of_http_headers_are_unquoted_and_decoded_once(raw: bytes, value: str) -> None:
    event = binary_event([*BINARY, (b"ce-x", raw)], b"")
    assert event == Event(None, [*LEAST_HEADERS, ("ce_x", value.encode())], None)


def test_a_binary_event_is_its_body_and_the_type_it_came_with() -> None:
    event = binary_event(
        [*BINARY, (b"host", b"x"), (b"content-type", b"image/png"), (b"ce-partitionkey", b"k")], b"\x89"
    )
    assert event == Event(
        b"\x89", [*LEAST_HEADERS, ("ce_partitionkey", b"k"), ("content-type", b"image/png")], b"k", is_json=False
    )


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (BINARY[1:], 'no "id"'),
        ([*BINARY, BINARY[0]], "twice"),
        ([*BINARY, (b"ce-datacontenttype", b"text/plain")], "Content-Type"),
        ([*BINARY, (b"ce-x", b"%C0%A0")], "not UTF-8"),
        ([*BINARY, (b"ce-x", b"%0a")], "control"),
        ([*BINARY, (b"ce-a-b", b"1")], "no name"),
    ],
)
def test_headers_that_make_no_event_are_told(headers: list[tuple[bytes, bytes]], words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        binary_event(headers, b"x")
    assert caught.value.kind is Kind.BAD_EVENT


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/json", True),
        ("text/JSON; charset=utf-8", True),
        ("application/vnd.a+json ;x", True),
        ("application/jsonp", False),
        ("text/plain; a=/json", False),
        ("json", False),
        ("", False),
    ],
)
def test_media_types_say_whether_they_are_json(media_type: str, expected: bool) -> None:
    assert is_json(media_type) is expected


NAMES = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: name not in {*LEAST, "data", "datacontenttype", "dataschema", "subject", "time", "partitionkey"}
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
)


@st.composite
def sdk_events(draw: st.DrawFn) -> CloudEvent:
    attributes: dict[str, Any] = {**LEAST, "id": draw(TEXTS), "source": draw(TEXTS), "type": draw(TEXTS)}
    attributes |= draw(st.dictionaries(NAMES, TEXTS, max_size=3))
    attributes |= draw(st.fixed_dictionaries({}, optional={"subject": TEXTS, "partitionkey": TEXTS}))
    kind = draw(st.sampled_from(["json", "text", "bytes"]))
    if kind == "json":
        return CloudEvent({**attributes, "datacontenttype": "application/json"}, {"in": draw(JSON)})
    if kind == "text":
        return CloudEvent({**attributes, "datacontenttype": "text/plain"}, draw(TEXTS))
    return CloudEvent({**attributes, "datacontenttype": "image/png"}, b"\xff" + draw(st.binary()))


WAYS: dict[str, Callable[[CloudEvent], Event]] = {
    "structured": lambda event: structured_event(http_binding.to_structured_event(event).body),
    "batched": lambda event: batched_events(b"[" + http_binding.to_structured_event(event).body + b"]")[0],
    "binary": lambda event: binary_event(
        lowered((message := http_binding.to_binary_event(event)).headers), message.body
    ),
}


@pytest.mark.parametrize("way", WAYS)
@given(event=sdk_events())
def test_what_the_sdk_makes_the_sdk_reads_back_from_the_record(way: str, event: CloudEvent) -> None:
    found = read_back(WAYS[way](event))
    assert found.get_attributes() == event.get_attributes()
    assert found.get_data() == event.get_data()


@given(st.binary(max_size=80), st.lists(st.tuples(st.binary(max_size=8).map(lambda x: b"ce-" + x), st.binary())))
def test_whatever_comes_there_is_one_kind_of_error(garbage: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    for read in (structured_event, batched_events):
        with contextlib.suppress(Problem):
            read(garbage)
    with contextlib.suppress(Problem):
        binary_event(headers, garbage)


@given(st.data())
def test_a_damaged_batch_is_a_problem_or_still_events(data: st.DataObject) -> None:
    damaged = bytearray(b"[" + body(data={"a": [1, "x"]}) + b"," + body(n=1, data_base64="AAAA") + b"]")
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(damaged)))
        damaged[where : where + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"]", b'"', b"\\", b"\xff", b",", b"N", b"{", b"\\ud800"])
        )
    try:
        events = batched_events(bytes(damaged))
    except Problem as problem:
        assert problem.kind.status == 400  # noqa: PT017
        return
    for event, came in zip(events, json.loads(bytes(damaged)), strict=True):
        if "data" in came and event.is_json:
            assert json.loads(event.value or b"") == came["data"]
