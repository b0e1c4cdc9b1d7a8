"""Reading a collection from a stream: verbatim, in bounded memory, and telling where it is bad."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from headrace.collection import BadCollection, Shape, read_collection
from headrace.errors import HeadraceError
from headrace.send import Group, groups, open_source, read_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
SPACE = st.sampled_from([b"", b" ", b"\n ", b"\t\r\n"])


def cut(text: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield text[at : at + size]
        at += size
    yield text[at:]


@given(st.lists(JSON, max_size=6), SPACE, st.booleans(), st.lists(st.integers(1, 9), max_size=60))
def test_however_the_stream_is_cut_payloads_are_the_same_bytes(
    values: list[object], space: bytes, ascii_only: bool, sizes: list[int]
) -> None:
    payloads = [json.dumps(value, ensure_ascii=ascii_only).encode() for value in values]
    array = space + b"[" + (space + b"," + space).join(payloads) + space + b"]" + space
    assert list(read_collection(cut(array, sizes))) == payloads
    table = b"{" + b",".join(b'"k,:]}%d" :%s' % (n, payload) for n, payload in enumerate(payloads)) + space + b"}"
    assert list(read_collection(cut(table, sizes), Shape.VALUES)) == payloads
    lines = b"\n".join(payloads) + space
    assert list(read_collection(cut(lines, sizes), Shape.LINES)) == payloads


@pytest.mark.parametrize("text", [b"", b" \n", b"\xef\xbb\xbf", b"[]", b" [ ] \n"])
def test_nothing_is_no_payloads(text: bytes) -> None:
    assert list(read_collection([text])) == []


def test_a_byte_order_mark_is_no_part_of_a_payload() -> None:
    assert list(read_collection([b"\xef\xbb", b"\xbf[1]"])) == [b"1"]
    assert list(read_collection([b"\xef\xbb\xbf", b"1\n2"])) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("text", "shape", "before", "words"),
    [
        (b"[1,2", Shape.AUTO, 1, "too early, in payload 1"),
        (b"[1,", Shape.AUTO, 1, "too early, in payload 1"),
        (b'[1,"x', Shape.AUTO, 1, "too early, in payload 1"),
        (b"[1,,2]", Shape.AUTO, 1, "Payload 1 "),
        (b"[1,2,]", Shape.AUTO, 2, "Payload 2 "),
        (b"[1,tru]", Shape.AUTO, 1, "Payload 1 "),
        (b"[1,{]}]", Shape.AUTO, 1, "Payload 1 "),
        (b"[1}", Shape.AUTO, 0, "Payload 0 "),
        (b"[1:2]", Shape.AUTO, 0, "Payload 0 "),
        (b"[1] [2]", Shape.AUTO, 1, "follows"),
        (b'[1,"\xff"]', Shape.AUTO, 1, "Payload 1 (counted from 0) is not UTF-8"),
        (b"[1,NaN]", Shape.AUTO, 1, "JSON has no NaN"),
        (b"1\n\n{", Shape.AUTO, 1, "Line 3 "),
        (b"1\n2 3", Shape.AUTO, 1, "Line 2 "),
        (b"[1]", Shape.VALUES, 0, "begin like an object"),
        (b'{"a":1,2:3}', Shape.VALUES, 1, "Payload 1 "),
        (b'{"a":1:2}', Shape.VALUES, 0, "Payload 0 "),
        (b'{"a"}', Shape.VALUES, 0, ""),
    ],
)
def test_a_bad_collection_says_where(text: bytes, shape: Shape, before: int, words: str) -> None:
    found: list[bytes] = []
    with pytest.raises(BadCollection) as caught:
        found.extend(read_collection([text], shape))
    assert len(found) == before
    assert words in str(caught.value)


def test_groups_hold_what_fits() -> None:
    assert list(groups([b"12", b"3", b"4", b"5" * 50, b"6"], 6, 2)) == [
        Group(0, [b"12", b"3"]),
        Group(2, [b"4"]),
        Group(3, [b"5" * 50]),
        Group(4, [b"6"]),
    ]
    assert Group(4, [b"1", b"2", b"3"]).halves() == (Group(4, [b"1"]), Group(5, [b"2", b"3"]))
    assert Group(0, [b"1", b"{ }"]).body() == b'{"data":[1,{ }]}'


@pytest.mark.parametrize(
    "packed", [b"[1,2]", gzip.compress(b"[1,", mtime=0) + gzip.compress(b"2]", mtime=0), zstandard.compress(b"[1,2]")]
)
def test_a_file_is_unpacked_whatever_its_name(tmp_path: Path, packed: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(packed)
    with open_source(str(file)) as (_, content):
        assert b"".join(read_chunks("file", content, lambda: None)) == b"[1,2]"


def test_a_file_that_breaks_off_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(gzip.compress(b"[1,2]" * 1000, mtime=0)[:-12])
    with open_source(str(file)) as (_, content), pytest.raises(HeadraceError, match="can't be read to its end"):
        list(read_chunks("file", content, lambda: None))
