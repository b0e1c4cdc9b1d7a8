"""Lines hold every record so that it comes back byte for byte, and are JSON that others can read."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, get_args

import duckdb
import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.encode import Compression, open_format
from consumer.encode.jsonl import encode_lines, is_verbatim
from headrace.archive import ArchiveError, decode_lines, inflate, read_object
from headrace.record import StoredRecord

if TYPE_CHECKING:
    from pathlib import Path


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def nested_objects(depth: int) -> bytes:
    return b'{"\\\\\\"[{":' * depth + b"1" + b"}" * depth


VERBATIM = [
    b"null",
    b"0",
    b"-0",
    b"1" * 40,
    b"12345678901234567890.10",
    b"1E+5",
    b'""',
    b'{"a":1,"a":2}',
    b'{ "a" :\t[ 1 , 2 ] }',
    b'"\\u00e9\\/\\n\\ud83d\\ude00"',
    '"Zürich 東京 😀 \u2028 \x7f"'.encode(),
    nested(511),
    nested(512),
    nested_objects(512),
    b'["' + b"[" * 2000 + b'"]',
    b"[" + b"[]," * 600 + b"1]",
    b'"' + b"x" * 2000 + b'"',
    b"[" + b"[],{}," * 2000 + b'"\\\\"]',
]
TEXT = [
    b"",
    b" ",
    b"plain",
    b"NaN",
    b"-Infinity",
    b"01",
    b"1 ",
    b"\t1",
    b"{}\n",
    b'{"a":\r1}',
    b"{\n}",
    b"1 2",
    b"[1,]",
    b"\xef\xbb\xbf{}",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'{"\\ud800":1}',
    b'"\x00"',
    b"\x00\x1f",
    "naïve".encode(),
    nested(513),
    nested_objects(513),
    nested(100_000),
    b" " * 100_000,
]
BASE64 = [b"\xff", b'"\xff"', b'{"\xc3\x28":1}', b'"\xed\xa0\x80"', b"[1]\xfe", b"\x80" * 5, bytes(range(256))]


def only(record: StoredRecord) -> dict[str, Any]:
    line = encode_lines([record])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    found = orjson.loads(line)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("body", "suffix"),
    [(body, "") for body in VERBATIM] + [(body, "_text") for body in TEXT] + [(body, "_base64") for body in BASE64],
    ids=lambda body: repr(body[:24]),
)
def test_a_value_stands_under_the_right_name_and_comes_back(body: bytes, suffix: str) -> None:
    record = StoredRecord(7, 8, body, body, (("h", body),))
    line = encode_lines([record])
    assert list(decode_lines(line)) == [record]
    found = only(record)
    assert set(found) - {"key", "key_text", "key_base64"} == {"offset", "timestamp", "headers", f"value{suffix}"}
    if suffix == "":
        assert b'"value":' + body + b"}\n" in line
    elif suffix == "_text":
        assert found["value_text"].encode() == body
    small = "_text" if body == b"null" else suffix  # in keys and headers, null is nothing
    assert f"key{small}" in found
    assert set(found["headers"][0]) == {"key", f"value{small}"}


def test_what_is_not_there_is_told_from_the_letters_null() -> None:
    assert only(StoredRecord(1, 2, None, None)) == {
        "offset": 1,
        "timestamp": 2,
        "key": None,
        "headers": [],
        "value": None,
        "tombstone": True,
    }
    assert "tombstone" not in only(StoredRecord(1, 2, None, b"null"))
    assert only(StoredRecord(1, 2, b"null", b"1"))["key_text"] == "null"
    headers = only(StoredRecord(1, 2, None, b"1", (("a", None), ("a", b"null"))))["headers"]
    assert headers == [{"key": "a", "value": None}, {"key": "a", "value_text": "null"}]


def test_a_record_without_a_time_has_null() -> None:
    record = StoredRecord(1, -1, None, b"1")
    assert only(record)["timestamp"] is None
    assert list(decode_lines(encode_lines([record]))) == [record]


numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(
        r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True, alphabet="0123456789.eE+-"
    ),
).map(str)
spaces = st.sampled_from(["", "", "", " ", "\t", "\n", "\r\n", "  "])


def json_text() -> st.SearchStrategy[str]:
    """JSON in all spellings: escapes or not, white space or not, names twice."""
    strings = st.builds(json.dumps, st.text(), ensure_ascii=st.booleans())
    leaves = st.one_of(st.sampled_from(["null", "true", "false"]), numbers, strings)

    def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        items = st.lists(st.tuples(spaces, inner).map("".join), max_size=4)
        return items.map(lambda parts: "[" + ",".join(parts) + "]")

    def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        items = st.lists(st.tuples(strings, spaces, st.just(":"), inner, spaces).map("".join), max_size=4)
        return items.map(lambda parts: "{" + ",".join(parts) + "}")

    tree = st.recursive(leaves, lambda inner: arrays(inner) | objects(inner), max_leaves=12)
    return st.tuples(spaces, tree, spaces).map("".join)


def damage(body: bytes, at: int, byte: int) -> bytes:
    at %= len(body) + 1
    return body[:at] + bytes([byte]) + body[at + 1 :]


whole = json_text().map(lambda text: text.encode(errors="surrogatepass"))
bodies = st.one_of(
    whole,
    st.builds(damage, whole, st.integers(0, 99), st.integers(0, 255)),
    st.binary(),
    st.text().map(str.encode),
    st.sampled_from(VERBATIM + TEXT + BASE64),
)
names = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
records = st.builds(
    StoredRecord,
    st.integers(0, 2**63 - 1),
    st.integers(-1, 2**62),
    st.none() | bodies,
    st.none() | bodies,
    st.lists(st.tuples(names, st.none() | bodies), max_size=3).map(tuple),
)


@given(st.lists(records, max_size=5))
@settings(max_examples=200, deadline=None)
def test_every_record_comes_back(many: list[StoredRecord]) -> None:
    lines = encode_lines(many)
    assert list(decode_lines(lines)) == many
    assert lines.count(b"\n") == len(many)
    for line in lines.splitlines():
        json.loads(line)
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError as refused:
            assert "infinity" in str(refused)  # noqa: PT017 - a number beyond what a double holds is JSON all the same


@given(st.lists(st.none() | bodies, min_size=1, max_size=3), st.lists(st.sampled_from(VERBATIM), max_size=4), st.data())
@settings(max_examples=400, deadline=None)
def test_lines_together_are_lines_one_by_one(some: list[bytes | None], good: list[bytes], data: st.DataObject) -> None:
    values = data.draw(st.permutations([*some, *good]))
    many = [StoredRecord(offset, 5, None, value) for offset, value in enumerate(values)]
    assert encode_lines(many) == b"".join(encode_lines([one]) for one in many)
    assert list(decode_lines(encode_lines(many))) == many


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.integers(0, 10**10), st.integers(1, 5), st.data())
@settings(max_examples=200, deadline=None)
def test_offsets_that_run_on_and_offsets_that_are_left_out(
    runs: list[int], first: int, times: int, data: st.DataObject
) -> None:
    """Their last digits come from a table where none is left out: a compacted log has holes anywhere."""
    offsets: list[int] = []
    for run in runs:
        offsets += range(first, first + run)
        first += run + data.draw(st.integers(1, 900))
    many = [StoredRecord(offset, 5 + at * times // len(offsets), None, b"1") for at, offset in enumerate(offsets)]
    assert encode_lines(many) == b"".join(encode_lines([one]) for one in many)
    assert list(decode_lines(encode_lines(many))) == many


@pytest.mark.parametrize("halves", [(b'"\xc3', b'\xa9"'), (b"[1", b"2]"), (b'"a', b'b"'), (b"1", b""), (b"", b"1")])
def test_two_bad_halves_make_nothing_good(halves: tuple[bytes, bytes]) -> None:
    many = [StoredRecord(offset, 5, None, value) for offset, value in enumerate((b"1", *halves, b"2"))]
    assert encode_lines(many) == b"".join(encode_lines([one]) for one in many)
    assert list(decode_lines(encode_lines(many))) == many


@pytest.mark.parametrize("odd", [StoredRecord(2, 3, b"k", b"{}"), StoredRecord(2, 3, None, b"{}", (("h", b"1"),))])
@pytest.mark.parametrize("change", [{}, {"timestamp": -1}, {"value": None}, {"value": b"no JSON"}])
def test_one_odd_record_among_plain_ones_keeps_all_that_it_has(odd: StoredRecord, change: dict[str, Any]) -> None:
    plain = [StoredRecord(offset, 1, None, b"[1]") for offset in range(4)]
    for record in (odd._replace(**change), plain[2]._replace(**change)):
        many = [*plain[:2], record, plain[3]]
        assert encode_lines(many) == b"".join(encode_lines([one]) for one in many)
        assert list(decode_lines(encode_lines(many))) == many


@given(bodies)
@settings(max_examples=300, deadline=None)
def test_verbatim_is_what_the_promise_says(body: bytes) -> None:
    """Against the standard library's parser, which is told to be strict."""

    def strict(body: bytes) -> bool:
        def refuse(word: str) -> None:
            raise ValueError(word)

        try:
            text = body.decode()
            json.loads(text, parse_constant=refuse)
            "".join(
                json.dumps(json.loads(text, object_pairs_hook=list), ensure_ascii=False)
            ).encode()  # no half surrogates
        except (ValueError, RecursionError):
            return False
        return text.strip(" \t") == text and "\n" not in text and "\r" not in text

    too_deep = body in {nested(513), nested_objects(513)}
    assert is_verbatim(body) == (strict(body) and not too_deep)


@given(st.lists(records, max_size=5), st.sampled_from(get_args(Compression)), st.integers(1, 3))
@settings(deadline=None)
def test_objects_come_back(many: list[StoredRecord], compression: Compression, pieces: int) -> None:
    form = open_format("jsonl", compression, None)
    body = form.compress([part for index in range(pieces) for part in form.encode(many[index::pieces])])
    back = list(read_object(body, form.suffix))
    assert back == [record for index in range(pieces) for record in many[index::pieces]]


def test_compressed_bodies_are_one_frame_or_one_member() -> None:
    parts = [b"a" * 1000, b"", b"b" * 70_000]
    zstd = open_format("jsonl", "zstd")
    body = zstd.compress([*parts])
    assert zstandard.get_frame_parameters(body).content_size == 71_000
    assert zstandard.ZstdDecompressor().decompress(body) == b"".join(parts)
    assert zstd.compress([*parts]) == body
    packed = open_format("jsonl", "gzip")
    assert gzip.decompress(packed.compress([*parts])) == b"".join(parts)
    assert packed.compress([*parts]) == packed.compress([*parts])
    for form in (zstd, packed, open_format("jsonl", "none")):
        assert inflate(form.compress([]), form.suffix) == b""


@given(st.lists(st.lists(st.binary(max_size=300).map(lambda part: part * 50), max_size=5), max_size=5), st.data())
@settings(deadline=None)
def test_a_body_that_is_compressed_as_it_comes_is_one_frame_or_one_member(many: list[list[bytes]], data: Any) -> None:
    """With its content's size in the head: without it, `decompress` of Python's zstandard refuses a frame."""
    kind = data.draw(st.sampled_from(["zstd", "gzip"]))
    form = open_format("jsonl", kind, data.draw(st.integers(1, 3)))
    coder, before = form.coder(), form.coder().held
    for parts in many:
        coder.write(given := [*parts])
        assert not given
    assert coder.held >= before
    body, whole = coder.end([]), b"".join(part for parts in many for part in parts)
    assert inflate(body, form.suffix) == whole
    if kind == "zstd":
        assert zstandard.get_frame_parameters(body).content_size == len(whole)
        assert zstandard.ZstdDecompressor().decompress(body) == whole
    else:
        assert gzip.decompress(body) == whole


def test_a_coder_is_for_what_takes_more_memory_than_itself() -> None:
    assert open_format("jsonl", "none").press_bytes == 0
    for name in ("raw", "object", "parquet"):
        assert open_format(name, "zstd").press_bytes == 0, "its objects are not its parts in order"
    quick, thorough = open_format("jsonl", "zstd"), open_format("jsonl", "zstd", 19)
    assert 0 < 2 * quick.coder().held <= quick.press_bytes + 100 < 5_000_000 < 64 * 1024 * 1024 < thorough.press_bytes


def test_names_and_types() -> None:
    forms = [open_format("jsonl", kind) for kind in get_args(Compression)]
    assert [(form.suffix, form.content_type) for form in forms] == [
        ("jsonl.zst", "application/zstd"),
        ("jsonl.gz", "application/gzip"),
        ("jsonl", "application/x-ndjson"),
    ]
    with pytest.raises(ValueError, match="gzip has no level 9; it has 0 to 3"):
        open_format("jsonl", "gzip", 9)


@pytest.mark.parametrize("suffix", ["jsonl.zst", "jsonl.gz"])
def test_damage_is_told(suffix: str) -> None:
    form = open_format("jsonl", "zstd" if suffix.endswith("zst") else "gzip")
    body = form.compress([b'{"offset":1}\n' * 100])
    for wrong in (b"", body[:-1], body[:-4] + b"\x00\x00\x00\x00", b"nonsense"):
        with pytest.raises(ArchiveError, match="Can't be decompressed"):
            inflate(wrong, suffix)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}",
        b'{"offset":1,"timestamp":2,"key":null,"headers":[],"value_base64":"!!!!"}',
        b"[]",
        b'{"offset":1,"timestamp":2,"key":null,"headers":[]}',
        b'{"offset":1,"timestamp":2,"headers":[]',
    ],
)
def test_a_line_that_is_no_record_is_told(line: bytes) -> None:
    good = encode_lines([StoredRecord(1, 2, None, b"{}")])
    found = decode_lines(good + line)
    assert next(found).offset == 1
    with pytest.raises(ArchiveError, match="Line 2"):
        list(found)


def test_other_suffixes_are_refused() -> None:
    with pytest.raises(ArchiveError, match="can't read avro"):
        list(read_object(b"", "avro"))


def test_duckdb_reads_the_lines(tmp_path: Path) -> None:
    """Counts, names and depth of what people query; the digits of numbers are not DuckDB's strength."""
    many = [StoredRecord(offset, 5, b"k", body) for offset, body in enumerate(VERBATIM + TEXT + BASE64)]
    form = open_format("jsonl", "zstd")
    file = tmp_path / f"x.{form.suffix}"
    coder = form.coder()  # as objects of many lines are made
    coder.write(form.encode(many[:5]))
    file.write_bytes(coder.end(form.encode(many[5:])))
    columns = "{'offset': 'BIGINT', value: 'JSON', value_text: 'VARCHAR', value_base64: 'VARCHAR'}"
    query = (
        f"select \"offset\", value, value_text, from_base64(value_base64) from read_ndjson('{file}', columns={columns})"
    )
    rows = duckdb.connect().execute(query).fetchall()
    assert [row[0] for row in rows] == list(range(len(many)))
    texts = [row[2].encode() for row in rows if row[2] is not None]
    assert texts == TEXT
    assert [row[3] for row in rows if row[3] is not None] == BASE64
