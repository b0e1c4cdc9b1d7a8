"""Payloads are slices of the body; what is no collection of JSON is told, never thrown about."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import payloads as module
from producer.errors import Kind, Problem
from producer.payloads import split_lines


def split_envelope(body: bytes) -> list[bytes]:
    return list(map(bytes, module.split_envelope(body)))


SPACE = st.text(" \t\r\n", max_size=3).map(str.encode)
NUMBERS = st.from_regex(rb"-?(0|[1-9][0-9]{0,45})(\.[0-9]{1,45})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
ESCAPES = st.sampled_from(
    [rb"\"", rb"\\", rb"\/", rb"\n", rb"\u00e9", rb"\ud83d\ude00", rb"\ud800", rb"\uDFFF", b"\xc3\xa9"]
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=["Cc"]), max_size=5).map(
    str.encode
)
STRINGS = st.lists(PLAIN | ESCAPES, max_size=4).map(lambda parts: b'"' + b"".join(parts) + b'"')
KEYS = STRINGS | st.just(b'"data"')


@st.composite
def spaced(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    return draw(SPACE) + draw(inner) + draw(SPACE)


def containers(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    members = st.tuples(spaced(KEYS), spaced(values)).map(b":".join)
    arrays = st.lists(spaced(values), min_size=1, max_size=3).map(lambda parts: b"[" + b",".join(parts) + b"]")
    objects = st.lists(members, min_size=1, max_size=3).map(lambda parts: b"{" + b",".join(parts) + b"}")
    return arrays | objects


SCALARS = NUMBERS | STRINGS | st.sampled_from([b"true", b"false", b"null", b"{}", b"[]", b"[ ]"])
VALUES = st.recursive(SCALARS, containers, max_leaves=8)


@st.composite
def envelopes(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    payloads = draw(st.lists(VALUES, max_size=5))
    array = b"[" + b",".join(draw(SPACE) + payload + draw(SPACE) for payload in payloads) + b"]"
    members = [(b'"data"', array)]
    members += [(key, draw(VALUES)) for key in draw(st.sets(st.sampled_from([b'"version"', b'"token"', rb'"\n"'])))]
    members = draw(st.permutations(members))
    text = b",".join(
        draw(SPACE) + key + draw(SPACE) + b":" + draw(SPACE) + value + draw(SPACE) for key, value in members
    )
    return draw(SPACE) + b"{" + text + b"}" + draw(SPACE), payloads


@given(envelopes())
def test_an_envelopes_payloads_come_out_as_the_bytes_that_went_in(case: tuple[bytes, list[bytes]]) -> None:
    body, payloads = case
    assert split_envelope(body) == payloads


@given(st.lists(st.tuples(st.sampled_from([b'"data"', b'"x"', rb'"d\u0061ta"']), VALUES), max_size=4))
def test_data_that_is_named_twice_is_seen_wherever_it_hides(members: list[tuple[bytes, bytes]]) -> None:
    body = b"{" + b",".join(map(b":".join, members)) + b"}"
    named = [value for key, value in json.loads(body, object_pairs_hook=list) if key == "data"]
    if len(named) == 1 and isinstance(json.loads(body)["data"], list):
        assert [json.loads(payload) for payload in split_envelope(body)] == json.loads(body)["data"]
    else:
        with pytest.raises(Problem):
            split_envelope(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[1],"data":[2]}',
        b'{"data":[1],"x":[],"data":[2]}',
        b'{"data":1,"y":"[","data":[2]}',
        b'{"data":[],"data":[2]}',
        b'{"data":[2],"z":"]","data":[]}',
        b'{"data":[[1],"data",[2]],"data":[[1]]}',
    ],
)
def test_what_looks_like_one_array_from_outside_is_looked_into(body: bytes) -> None:
    with pytest.raises(Problem, match='"data"'):
        split_envelope(body)


@given(st.lists(VALUES.map(lambda value: value.replace(b"\n", b" ").replace(b"\r", b" ")), min_size=1), SPACE)
def test_lines_come_out_as_the_bytes_that_went_in(payloads: list[bytes], space: bytes) -> None:
    assert split_lines((b"\n" + space).join(payloads)) == payloads


@given(envelopes(), st.data())
def test_a_damaged_envelope_is_a_problem_or_still_json(case: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    body = bytearray(case[0])
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(body)))
        body[where : where + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"]", b'"', b"\\", b"\xff", b",", b"N"])
        )
    try:
        payloads = split_envelope(bytes(body))
    except Problem as problem:
        refused: Problem | None = problem
    else:
        refused = None
        assert json.loads(bytes(body))["data"] == [json.loads(payload) for payload in payloads]
    assert refused is None or refused.kind.status == 400


@given(st.binary(max_size=60))
def test_whatever_comes_there_is_one_kind_of_error(body: bytes) -> None:
    for split in (split_envelope, split_lines):
        with contextlib.suppress(Problem):
            split(body)


@pytest.mark.parametrize(
    "payload",
    [
        b"1234567890123456789012345678901234567890",
        b"12345678901234567890.10",
        b"1e99999",
        b'{"a":1,"a":2}',
        rb'"\ud800"',
        rb'"\\ud800 \\\ud800"',
        rb'{"\uDC00":"\/"}',
        b'"\xe2\x80\xa8"',
        b"[" * 400 + b"]" * 400,
    ],
)
def test_strange_but_right_payloads_are_taken_verbatim(payload: bytes) -> None:
    assert split_envelope(b'{"data":[0, ' + payload + b" ,1]}") == [b"0", payload, b"1"]
    assert split_lines(b"0\r\n" + payload + b"\r\n\n1") == [b"0", payload, b"1"]


@pytest.mark.parametrize(
    ("body", "kind", "members", "words"),
    [
        (b"", Kind.EMPTY_BODY, {}, "empty"),
        (b" \r\n\t", Kind.EMPTY_BODY, {}, "empty"),
        (b"\xef\xbb\xbf{}", Kind.NOT_JSON, {"byte": 0}, "byte order mark"),
        (b'{"data":[1,"\xff"]}', Kind.NOT_JSON, {"byte": 12, "index": 1}, "UTF-8"),
        (b'{"data":["\xed\xa0\x80"]}', Kind.NOT_JSON, {"byte": 10, "index": 0}, "UTF-8"),
        (b'{"data":[1,NaN]}', Kind.NOT_JSON, {"byte": 11, "index": 1}, "JSON has no NaN"),
        (b'{"data":[-Infinity]}', Kind.NOT_JSON, {"byte": 10, "index": 0}, "JSON has no -Infinity"),
        (b'{"version":nan,"data":[]}', Kind.NOT_JSON, {"byte": 12}, "not JSON"),
        (b'{"token":{"data":[1,2,', Kind.NOT_JSON, {"byte": 22}, "ends too early"),
        (b'{"data":[{"a":[1,2]},{"b":}]}', Kind.NOT_JSON, {"byte": 26, "index": 1}, "payload 1"),
        (b'{"data":[1', Kind.NOT_JSON, {"byte": 10, "index": 0}, "ends too early"),
        (b'{"data":["]', Kind.NOT_JSON, {"byte": 11, "index": 0}, "ends too early"),
        (b'{"data":[1]}x', Kind.NOT_JSON, {"byte": 12}, "trailing"),
        (b'{"data":[1,]}', Kind.NOT_JSON, {"byte": 11, "index": 1}, "trailing comma"),
        (rb'{"data":["\ud800", x]}', Kind.NOT_JSON, {"byte": 19, "index": 1}, "invalid character"),
        (b'{"data":{}}', Kind.NOT_A_COLLECTION, {}, "type object, where an array"),
        (b'{"data":null}', Kind.NOT_A_COLLECTION, {}, "type null, where an array"),
        (b"[1]", Kind.NOT_A_COLLECTION, {}, "type array, where an object"),
        (b'"data"', Kind.NOT_A_COLLECTION, {}, "type str, where an object"),
        (b'{"Data":[1]}', Kind.NOT_A_COLLECTION, {}, 'no "data"'),
        (b'{"data":[1],"data":[2]}', Kind.NOT_A_COLLECTION, {}, "more than once"),
        (b'{"data":[1],"data":[1]}', Kind.NOT_A_COLLECTION, {}, "more than once"),
        (rb'{"data":[1],"d\u0061ta":[2]}', Kind.NOT_A_COLLECTION, {}, "more than once"),
        (rb'{"data":["\ud800"],"data":[2]}', Kind.NOT_A_COLLECTION, {}, "more than once"),
    ],
)
def test_a_bad_envelope_says_where_and_what(body: bytes, kind: Kind, members: dict[str, int], words: str) -> None:
    with pytest.raises(Problem) as caught:
        split_envelope(body)
    assert caught.value.kind is kind
    assert words in caught.value.detail
    assert {name: caught.value.members.get(name) for name in ("byte", "index")} == {
        "byte": None,
        "index": None,
        **members,
    }


@pytest.mark.parametrize("inner", ['{"data":[1],"token":2}', '["data"]'])
def test_a_data_that_is_not_the_envelopes_own_does_not_count(inner: str) -> None:
    assert split_envelope(f'{{"token":{inner},"data":[7],"version":{inner}}}'.encode()) == [b"7"]


def test_the_same_text_elsewhere_does_not_confuse() -> None:
    body = rb'{"token":["\ud800"],"data":["\ud801"]}'
    assert split_envelope(body) == [rb'"\ud801"']


@pytest.mark.parametrize(
    "body", [b'{"data":[0,' + b"[" * 100_000 + b"]" * 100_000 + b"]}", b'{"data":[0,' + b'{"a":' * 100_000]
)
def test_depth_is_refused_cleanly(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        split_envelope(body)
    assert caught.value.kind is Kind.NOT_JSON
    assert "nested too deep" in caught.value.detail
    assert caught.value.members == {"index": 1}
    with pytest.raises(Problem) as caught:
        split_lines(b"0\n" + body)
    assert caught.value.members == {"index": 1, "line": 2}


@pytest.mark.parametrize(
    ("body", "members"),
    [
        (b"1\n\nx", {"index": 1, "line": 3}),
        (b"1 2", {"index": 0, "line": 1}),
        (b"1\n{\n}", {"index": 1, "line": 2}),
        (b"\x0c1", {"index": 0, "line": 1}),
    ],
)
def test_a_bad_line_is_named(body: bytes, members: dict[str, int]) -> None:
    with pytest.raises(Problem) as caught:
        split_lines(body)
    assert caught.value.kind is Kind.NOT_JSON
    assert caught.value.members == members


def test_finding_an_error_in_a_hostile_body_is_no_work() -> None:
    body = b'{"data":[' + b"0," * 500_000
    with pytest.raises(Problem) as caught:
        split_envelope(body)
    assert "index" not in caught.value.members, "so many commas are not counted"


def test_a_key_with_a_lone_surrogate_beside_data() -> None:
    body = b'{"\\ud800":[1],"data":["\\ud800", 2]}'
    assert split_envelope(body) == [b'"\\ud800"', b"2"]
