"""FORMAT=object, its pure parts: names, kinds, metadata, and an index out of which all of a record comes back."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.encode import open_format
from consumer.encode.jsonl import encode_lines
from consumer.encode.objects import MOST_METADATA_BYTES, index_lines, is_json, metadata, payloads
from consumer.settings import ConsumerSettings
from headrace.archive import ArchiveError, decode_index, read_object
from headrace.errors import SettingsError
from headrace.objects import (
    Range,
    object_key,
    parse_key,
    payload_folder,
    payload_key,
    payload_prefix,
    payload_stem,
    topic_folder,
)
from headrace.record import StoredRecord
from headrace.settings import load

if TYPE_CHECKING:
    from pathlib import Path

STEM = payload_stem(prefix="p", topic="t", partition=3, bucket="dt=2026-11-22")
BELOW = payload_stem(prefix="", topic="t", partition=3, bucket="dt=2026-11-22")

bodies = st.one_of(
    st.binary(max_size=40), st.text(max_size=20).map(str.encode), st.sampled_from([b"null", b"{}", b"1"])
)
records = st.builds(
    StoredRecord,
    st.integers(0, 2**62),
    st.integers(-1, 2**52),
    st.none() | bodies,
    st.none() | bodies,
    st.lists(st.tuples(st.text(max_size=8), st.none() | bodies), max_size=3).map(tuple),
)


@given(st.lists(records, max_size=6, unique_by=lambda record: record.offset))
def test_all_of_a_record_comes_back_from_index_and_payload(some: list[StoredRecord]) -> None:
    lines = encode_lines(some)
    stored = {payload.key: payload.content for payload in payloads(lines, STEM)}
    back = []
    for entry in decode_index(index_lines(lines, BELOW)):
        if entry.object is None:
            back.append(entry.record)
            continue
        value = stored[f"p/{entry.object}"]
        assert (entry.size, entry.sha256) == (len(value), sha256(value).hexdigest())
        back.append(entry.record._replace(value=value))
    assert back == some
    assert len(stored) == sum(record.value is not None for record in some)


def test_an_index_line_is_what_people_read() -> None:
    lines = encode_lines([StoredRecord(7, 5, b"k", b'{"a":1}', (("h", b"x"),)), StoredRecord(8, -1, None, None)])
    first, second = index_lines(lines, BELOW).splitlines()
    assert orjson.loads(first) == {
        "offset": 7,
        "timestamp": 5,
        "key_text": "k",
        "headers": [{"key": "h", "value_text": "x"}],
        "object": "_payloads/t/dt=2026-11-22/t-00003-00000000000000000007.json",
        "size": 7,
        "sha256": sha256(b'{"a":1}').hexdigest(),
    }
    assert orjson.loads(second) == {
        "offset": 8,
        "timestamp": None,
        "key": None,
        "headers": [],
        "value": None,
        "tombstone": True,
    }


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"offset":1,"timestamp":1,"headers":[]}',
        b'{"offset":1,"timestamp":1,"headers":[],"object":"x"}',
        b'{"offset":1,"timestamp":1,"headers":[],"object":"x","size":1,"sha256":"y","tombstone":true}',
        b'{"offset":1,"timestamp":1,"headers":[],"object":"x","size":1}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_index_is_told(line: bytes) -> None:
    with pytest.raises(ArchiveError, match="Line 1 is no line of an index"):
        list(decode_index(line))


def test_an_index_is_not_read_as_lines() -> None:
    with pytest.raises(ArchiveError, match="can't read index"):
        list(read_object(b"", "index.jsonl.zst"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"a":1}', True),
        (b' {\r\n "a": [1,\n2]\t}\n', True),
        (b'"text"', True),
        (b"12345678901234567890.10", True),
        (b"", False),
        (b" \n", False),
        (b"text", False),
        (b'"a\nb"', False),
        (b'{"a":"\xff"}', False),
        (b'\n{"a":"\xff"}', False),
        (b"NaN", False),
        (b"{}{}", False),
        (b"{}\n{}", False),
        (b"\xef\xbb\xbf{}", False),
        (b"[" * 512 + b"]" * 512, True),
        (b"[" * 513 + b"]" * 513, False),
        (b"\n" + b"[" * 513 + b"]" * 513, False),
        (b"\n" + b"[" * 100_000 + b"]" * 100_000, False),
    ],
)
def test_what_counts_as_json(value: bytes, expected: bool) -> None:
    assert is_json(value) is expected
    (found,) = payloads(encode_lines([StoredRecord(1, 1, None, value)]), STEM)
    assert found.content == value
    assert found.key.endswith(".json" if expected else ".bin")
    assert found.content_type == ("application/json" if expected else "application/octet-stream")


def record(key: bytes | None, *headers: tuple[str, bytes | None]) -> StoredRecord:
    return StoredRecord(9, 77, key, b"{}", headers)


def test_metadata_tells_what_any_client_can_sign() -> None:
    plain = {"headrace-offset": "9", "headrace-timestamp": "77"}
    assert metadata(record(None)) == plain
    assert metadata(record(None)._replace(timestamp=-1)) == {"headrace-offset": "9"}
    assert metadata(record(b"k y", ("trace", b"1"), ("trace", b"2"))) == plain | {
        "headrace-key": "k y",
        "header-trace": "1",
    }
    for key in (b"", b" k", b"k ", b"a  b", b"a\tb", b"a\nb", "ü".encode(), b"\xff", b"\x00"):
        assert metadata(record(key, ("h", key))) == plain, key
    for name in ("", "Trace", "a_b", "a b", "ü", "-a", "a\n"):
        assert metadata(record(None, (name, b"x"))) == plain, name
    assert metadata(record(None, ("gone", None))) == plain


@given(records)
@example(record(b"k" * 4000, ("h", b"x")))
@example(record(None, *((f"h{number}", b"x" * 100) for number in range(40))))
def test_metadata_always_fits(some: StoredRecord) -> None:
    found = metadata(some)
    assert sum(len(name) + len(value) for name, value in found.items()) <= MOST_METADATA_BYTES
    for name, value in found.items():
        assert name == name.lower()
        assert (name + value).isascii()
        assert value.isprintable()
        assert value == " ".join(value.split())


def test_payloads_lie_beside_the_topics_folder_and_are_no_chunks() -> None:
    key = payload_key(STEM, 7, "json")
    assert key == "p/_payloads/t/dt=2026-11-22/t-00003-00000000000000000007.json"
    assert key.startswith(payload_folder("p", "t"))
    assert not key.startswith(topic_folder("p", "t"))
    assert parse_key(key) is None
    assert payload_folder("", "t") == "_payloads/t/"
    assert payload_stem(prefix="", topic="t", partition=0, bucket="") == "_payloads/t/t-00000-"


@pytest.mark.parametrize("prefix", ["", "p", "p/q", "dt=2026-11-22"])
@pytest.mark.parametrize("bucket", ["", "dt=2026-11-22", "dt=2026-11-22/hour=01"])
def test_an_archive_may_be_copied_elsewhere(prefix: str, bucket: str) -> None:
    """The index tells names below the prefix, whatever that is by now."""
    index = object_key(
        prefix=prefix, topic="t", partition=3, offsets=Range(0, 9), bucket=bucket, suffix="index.jsonl.zst"
    )
    name = parse_key(index)
    assert name is not None
    assert name.is_index
    told = payload_key(payload_stem(prefix="", topic="t", partition=3, bucket=bucket), 7, "json")
    found = payload_prefix(index, told)
    assert found == (f"{prefix}/" if prefix else "")
    assert found + told == payload_key(payload_stem(prefix=prefix, topic="t", partition=3, bucket=bucket), 7, "json")
    other = payload_key(payload_stem(prefix="", topic="other", partition=3, bucket=bucket), 7, "json")
    assert payload_prefix(index, other) is None


def test_the_format_names_indexes() -> None:
    form = open_format("object", "zstd")
    assert (form.suffix, form.content_type, form.one_by_one) == ("index.jsonl.zst", "application/zstd", True)
    assert open_format("object", "none").suffix == "index.jsonl"
    assert not open_format("jsonl", "zstd").one_by_one


def test_chunks_of_objects_are_small_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A successor repeats what was claimed, a PUT a payload."""
    file = tmp_path / "headrace.toml"
    monkeypatch.setenv("HEADRACE_CONFIG", str(file))
    for name in ("FORMAT", "CHUNK_MAX_RECORDS"):
        monkeypatch.delenv(name, raising=False)

    def most() -> int:
        return load(ConsumerSettings, kafka_topic="t", s3_bucket="bucket").chunk_max_records

    assert most() == 100_000
    file.write_text('format = "object"\n')
    assert most() == 1_000
    file.write_text('format = "object"\nchunk_max_records = 70\n')
    assert most() == 70
    monkeypatch.setenv("CHUNK_MAX_RECORDS", "100000")
    assert most() == 100_000
    monkeypatch.setenv("FORMAT", "jsonl")
    file.write_text("")
    monkeypatch.delenv("CHUNK_MAX_RECORDS")
    assert most() == 100_000


def test_no_topic_may_lie_where_payloads_do() -> None:
    with pytest.raises(SettingsError, match="KAFKA_TOPIC must not be _payloads"):
        load(ConsumerSettings, kafka_topic="a,_payloads", s3_bucket="bucket")
