"""Keys and headers come from where the settings say, in their order, and nothing else becomes one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SettingsError
from headrace.settings import load
from producer.errors import Kind, Problem
from producer.keys import NO_TAGS, KeyPointer, Tagging, Tags
from producer.settings import ProducerSettings


def tags(*headers: tuple[bytes, bytes], query: bytes = b"", **settings: Any) -> Tags:
    tagging = Tagging(ProducerSettings.model_validate({"kafka_topic": "t", **settings}))
    return tagging.tags({"headers": list(headers), "query_string": query}, dict(headers))


def test_most_requests_have_none() -> None:
    assert tags((b"host", b"x"), (b"content-type", b"a/b")) is NO_TAGS


def test_traces_and_chosen_headers_go_along_in_their_order() -> None:
    assert tags(
        (b"tracestate", b"a=1"),
        (b"host", b"x"),
        (b"traceparent", b"00-1-2-01"),
        (b"idempotency-key", b"i"),
        (b"x-kept", b"1"),
        (b"tracestate", b"b=2"),
        headers_kept=["X-Kept"],
    ) == Tags(
        None,
        [
            ("tracestate", b"a=1"),
            ("traceparent", b"00-1-2-01"),
            ("idempotency-key", b"i"),
            ("x-kept", b"1"),
            ("tracestate", b"b=2"),
        ],
    )


def test_the_query_goes_before_the_header() -> None:
    assert tags((b"x-kafka-key", "é".encode())) == Tags("é".encode(), [])
    assert tags((b"x-kafka-key", b"")) == Tags(None, [])
    assert tags((b"x-me", b"k"), key_header="X-Me") == Tags(b"k", [])
    assert tags((b"x-kafka-key", b"h"), query=b"a=1&key=q%20%C3%A9", key_query="key") == Tags("q é".encode(), [])
    assert tags((b"x-kafka-key", b"h"), query=b"key=", key_query="key") == Tags(b"h", [])
    assert tags((b"x-kafka-key", b"h"), query=b"key=q") == Tags(b"h", []), "nobody asked for it"
    assert tags((b"x-kept", b"k"), key_header="X-Kept", headers_kept=["x-kept"]) == Tags(b"k", [("x-kept", b"k")])


@pytest.mark.parametrize(
    ("headers", "query", "kind", "words"),
    [
        ([(b"x-kafka-key", b"x" * 1025)], b"", Kind.BAD_KEY, "1025 bytes"),
        ([(b"x-kafka-key", b"\xff")], b"", Kind.BAD_KEY, "not UTF-8"),
        ([(b"x-kafka-key", b"a\tb")], b"", Kind.BAD_KEY, "control"),
        ([(b"x-kafka-key", b"a"), (b"x-kafka-key", b"a")], b"", Kind.BAD_HEADER, "more than once"),
        ([(b"idempotency-key", b"a"), (b"idempotency-key", b"b")], b"", Kind.BAD_HEADER, "more than once"),
        ([(b"idempotency-key", b"x" * 256)], b"", Kind.BAD_HEADER, "256 bytes"),
        ([], b"key=a&key=a", Kind.BAD_KEY, "more than one"),
        ([], b"key=%FF", Kind.BAD_KEY, "not UTF-8"),
        ([], b"key=%00", Kind.BAD_KEY, "control"),
        ([], b"key=" + b"x" * 1025, Kind.BAD_KEY, "1025 bytes"),
        ([], b"key=\xff", Kind.BAD_KEY, "not UTF-8"),
    ],
)
def test_what_can_be_no_key_is_400(headers: list[tuple[bytes, bytes]], query: bytes, kind: Kind, words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        tags(*headers, query=query, key_query="key")
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KEY_POINTER", "user", "no JSON pointer"),
        ("KEY_POINTER", "/a~2", "no JSON pointer"),
        ("KEY_HEADER", "a b", "no name of a header"),
        ("HEADERS_KEPT", "x-fine,Authorization", "credential"),
    ],
)
def test_settings_that_make_no_sense_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "t")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        load(ProducerSettings)


PAYLOAD = rb'{"a":{"b~/":[1,"x\u00e9",12345678901234567890.10,null,true,{},[]]},"":{"":"e"},"s":""}'


@pytest.mark.parametrize(
    ("pointer", "key"),
    [
        ("/a/b~0~1/0", b"1"),
        ("/a/b~0~1/1", "xé".encode()),
        ("/a/b~0~1/2", b"12345678901234567890.10"),
        ("/a/b~0~1/3", None),
        ("/a/b~0~1/4", b"true"),
        ("/a/b~0~1/7", None),
        ("/a/b~0~1/99999999999999999999", None),
        ("/a/b~0~1/00", None),
        ("/a/b~0~1/-", None),
        ("/a/b~0~1/0/1", None),
        ("/nowhere/x", None),
        ("//", b"e"),
        ("/s", None),
    ],
)
def test_a_pointer_finds_a_key(pointer: str, key: bytes | None) -> None:
    assert KeyPointer(pointer).keys([PAYLOAD, PAYLOAD]) == [key, key]
    lonely = PAYLOAD.replace(b'{"a"', rb'{"lone":"\ud800","a"')
    assert KeyPointer(pointer).keys([lonely]) == [key]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b'{"k":{}}', "an object"),
        (b'{"k":[1]}', "an array"),
        (b'{"k":"' + b"x" * 1025 + b'"}', "1025 bytes"),
        (rb'{"k":"\ud800"}', "surrogate"),
        (rb'{"k":{"x":"\ud800"}}', "surrogate"),
        (rb'{"k":{},"x":"\ud800"}', "an object"),
    ],
)
def test_what_a_pointer_finds_and_is_no_key_is_told_with_its_index(payload: bytes, words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        KeyPointer("/k").keys([b'{"k":1}', payload])
    assert (caught.value.kind, caught.value.members["index"]) == (Kind.BAD_KEY, 1)


@pytest.mark.parametrize("inner", ["1", r'"\ud800"'])
def test_what_is_nested_too_deep_for_a_pointer_is_told(inner: str) -> None:
    payload = b'{"x":' + b"[" * 100_000 + inner.encode() + b"]" * 100_000 + b"}"
    with pytest.raises(Problem, match="too deep"):
        KeyPointer("/k").keys([payload])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
)


@given(VALUES, st.lists(st.sampled_from(["a", "b", "0", "1"]), min_size=1, max_size=3))
def test_a_pointer_finds_what_a_plain_walk_finds(value: Any, steps: list[str]) -> None:
    found = value
    for step in steps:
        if isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = found.get(step) if isinstance(found, dict) else None
    expected = found if isinstance(found, str) else None if found is None else json.dumps(found)
    payload = json.dumps(value).encode()
    pointer = KeyPointer("/" + "/".join(steps))
    if isinstance(found, dict | list):
        with pytest.raises(Problem):
            pointer.keys([payload])
    else:
        assert pointer.keys([payload]) == [expected.encode() if expected else None]
