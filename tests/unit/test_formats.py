"""FORMAT=raw and FORMAT=parquet: every record comes back byte for byte, and readers find what they expect."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, get_args

import pyarrow.parquet as pq
import pytest
from aiokafka import TopicPartition
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.chunk import Bucket, Cargo
from consumer.encode import Codec, FormatName, Place, open_format, parquet
from consumer.encode.raw import stands_on_a_line
from consumer.layout import Layout
from consumer.packer import Packer
from consumer.settings import ConsumerSettings
from consumer.uploader import Uploader
from headrace.archive import ArchiveError, decode_lines, inflate, join_lines, read_chunk, read_object, survey
from headrace.errors import SettingsError
from headrace.management import Health
from headrace.objects import Range, beside_key, beside_keys, object_key, parse_key
from headrace.record import StoredRecord
from headrace.settings import load
from headrace.verify import inspect_topic
from tests.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consumer.encode import Format, Packed

TP = TopicPartition("t", 3)
PLACE = Place("p", "t", 3, Range(0, 100), "dt=2026-11-22", 0)
BIG = b'{"id":12345678901234567890.10}'
ODD = [
    StoredRecord(0, 1700000000000, None, BIG),
    StoredRecord(1, -1, b"k", None),
    StoredRecord(2, 0, b"", b""),
    StoredRecord(3, 1, None, b"two\nlines"),
    StoredRecord(4, 2, b"\xff", b"\r", (("h", b"x"), ("h", None), ("", b"\xfe"))),
    StoredRecord(5, 2**62, None, b"\xff\x00", (("", b""),)),
    StoredRecord(6, 253_402_300_800_000, None, b"null"),
    StoredRecord(7, -5, b"null", "\ufeffüñ\x00".encode()),
]

bodies = st.one_of(
    st.binary(max_size=40), st.text(max_size=20).map(str.encode), st.sampled_from([b"null", b"{}", b"1", b"\n", b"\r"])
)
times = st.integers(-1, 2**52) | st.sampled_from([-1, -2, 0, 253_402_300_799_999, 253_402_300_800_000, 2**62])
records = st.builds(
    StoredRecord,
    st.integers(0, 2**62),
    times,
    st.none() | bodies,
    st.none() | bodies,
    st.lists(st.tuples(st.text(max_size=8), st.none() | bodies), max_size=3).map(tuple),
)
batches = st.lists(st.lists(records, min_size=1, max_size=40), max_size=4)


def packed(form: Format, batches: Sequence[Sequence[StoredRecord]]) -> Packed:
    parts = [part for batch in batches for part in form.encode(batch)]
    count = sum(map(len, batches))
    found = form.pack(parts, Place("p", "t", 3, Range(0, 100), "dt=2026-11-22", count))
    assert not parts, "they are let go"
    return found


def read(form: Format, found: Packed) -> list[StoredRecord]:
    if not form.suffix.startswith("txt"):
        return list(read_object(found.content, form.suffix))
    (beside,) = found.beside or (None,)
    return list(join_lines(inflate(found.content, form.suffix), inflate(beside.content, beside.key) if beside else b""))


def forms() -> Iterator[Format]:
    for name in ("raw", "parquet"):
        for codec in get_args(Codec):
            if (name, codec) != ("raw", "snappy"):
                yield open_format(name, codec)


@pytest.mark.parametrize("form", list(forms()), ids=lambda form: form.suffix)
def test_odd_records_come_back_in_every_compression(form: Format) -> None:
    assert read(form, packed(form, [ODD[:3], ODD[3:]])) == ODD
    assert read(form, packed(form, [])) == []


@given(batches)
@example([ODD * 5, ODD, ODD * 5])
def test_raw_gives_all_of_every_record_back(some: list[list[StoredRecord]]) -> None:
    form = open_format("raw", "none")
    found = packed(form, some)
    sent = [record for batch in some for record in batch]
    assert read(form, found) == sent
    whole = [record.value for record in sent if stands_on_a_line(record.value)]
    assert found.content == b"".join([(value or b"") + b"\n" for value in whole])
    assert found.odd == len(sent) - len(whole)


@given(batches)
@example([ODD * 5, ODD, ODD * 5])
def test_parquet_gives_all_of_every_record_back(some: list[list[StoredRecord]]) -> None:
    form = open_format("parquet", "none")
    assert read(form, packed(form, some)) == [record for batch in some for record in batch]


def test_plain_payloads_are_lines_and_what_is_beside_them_is_small_lines_of_jsonl() -> None:
    sent = [StoredRecord(offset, 1700000000000, None, b'{"n":%d}' % offset) for offset in range(600)]
    found = packed(open_format("raw", "none"), [sent])
    assert found.content.splitlines() == [record.value for record in sent]
    (beside,) = found.beside
    assert beside.content.splitlines()[599] == b'{"offset":599,"timestamp":1700000000000,"key":null,"headers":[]}'
    assert beside.content_type == "application/x-ndjson"
    assert found.odd == 0
    odd = packed(open_format("raw", "none"), [[*sent[:3], StoredRecord(3, 5, b"k", b"a\nb")]])
    assert odd.beside[0].content.splitlines()[3] == (
        b'{"offset":3,"timestamp":5,"key_text":"k","headers":[],"value_text":"a\\nb"}'
    )
    assert list(decode_lines(odd.beside[0].content.splitlines(keepends=True)[3])) == [StoredRecord(3, 5, b"k", b"a\nb")]


def test_payloads_without_a_timestamp_are_lines_too() -> None:
    sent = [StoredRecord(offset, -1, None, b"x") for offset in range(3)]
    found = packed(open_format("raw", "none"), [sent])
    assert found.beside[0].content.splitlines()[2] == b'{"offset":2,"timestamp":null,"key":null,"headers":[]}'
    assert read(open_format("raw", "none"), found) == sent


def test_the_object_beside_is_found_from_the_name() -> None:
    offsets = Range(5, 9)
    for prefix, bucket in (("", ""), ("a/b", "dt=2026-11-22/hour=01"), ("t", ""), ("t/t", "t/x")):
        key = object_key(prefix=prefix, topic="t", partition=1, offsets=offsets, bucket=bucket, suffix="txt.zst")
        other = beside_key(
            prefix=prefix, topic="t", partition=1, offsets=offsets, bucket=bucket, records=4, suffix="jsonl.zst"
        )
        assert other in beside_keys(key, 4)
        assert "_beside/" in other
        name = parse_key(other)
        assert name is not None
        assert (name.range, name.suffix) == (offsets, "4.jsonl.zst")
    assert beside_keys("t-00001-00000000000000000005-00000000000000000009.txt", 1) == []


@pytest.mark.parametrize(
    ("lines", "beside", "what"),
    [
        (b"", b'{"offset":1,"timestamp":1,"key":null,"headers":[]}\n', "other lines"),
        (b"x\n", b"", "other lines"),
        (b"x\ny\n", b'{"offset":1,"timestamp":1,"key":null,"headers":[]}\n', "other lines"),
        (b"x\n", b"nonsense\n", "Line 1 beside it"),
    ],
)
def test_lines_that_do_not_fit_are_told(lines: bytes, beside: bytes, what: str) -> None:
    with pytest.raises(ArchiveError, match=what):
        list(join_lines(lines, beside))


def test_parquet_has_the_types_that_spark_and_others_take() -> None:
    form = open_format("parquet", "zstd")
    file = pq.ParquetFile(io.BytesIO(packed(form, [ODD]).content))
    schema = {file.schema.column(at).path: file.schema.column(at) for at in range(len(file.schema))}
    assert set(schema) == {
        *("topic", "partition", "offset", "timestamp", "timestamp_ms", "key", "key_binary", "value", "value_binary"),
        *(f"headers.list.element.{name}" for name in ("key", "value", "value_binary")),
    }
    time = schema["timestamp"]
    assert (time.physical_type, time.logical_type.type) == ("INT64", "TIMESTAMP")  # no INT96
    assert '"isAdjustedToUTC":true,"timeUnit":"milliseconds"' in time.logical_type.to_json()  # no nanoseconds
    assert {schema[name].logical_type.type for name in ("topic", "key", "value")} == {"STRING"}
    assert {schema[name].physical_type for name in ("offset", "timestamp_ms")} == {"INT64"}
    assert schema["partition"].physical_type == "INT32"
    required = {name for name, column in schema.items() if column.max_definition_level == 0}
    assert required == {"topic", "partition", "offset"}
    assert file.metadata.format_version == "2.6"
    assert b"ARROW:schema" not in file.metadata.metadata
    assert file.metadata.metadata[b"headrace.sorted_by"] == b"offset"
    assert file.metadata.metadata[b"headrace.topic"] == b"t"
    group = file.metadata.row_group(0)
    (sorting,) = group.sorting_columns
    assert group.column(sorting.column_index).path_in_schema == "offset"
    assert group.column(2).statistics.max == 7
    assert group.column(3).statistics.min is not None
    encodings = {name for at in range(group.num_columns) for name in group.column(at).encodings}
    assert encodings <= {"PLAIN", "RLE", "RLE_DICTIONARY"}
    assert {group.column(at).compression for at in range(group.num_columns)} == {"ZSTD"}


def test_row_groups_have_a_size_that_suits_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    form = open_format("parquet", "zstd")
    sent = [StoredRecord(offset, 5, None, b"x" * 100) for offset in range(1000)]
    few = [sent[at : at + 10] for at in range(0, 300, 10)]
    many = [*few, sent[300:700], sent[700:]]
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 400)
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 100)
    file = pq.ParquetFile(io.BytesIO(packed(form, many).content))
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [700, 300]
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 40_000)
    body = packed(form, many).content
    file = pq.ParquetFile(io.BytesIO(body))
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [700, 300]
    assert list(read_object(body, form.suffix)) == sent


def test_damaged_parquet_is_told() -> None:
    body = packed(open_format("parquet", "zstd"), [ODD]).content
    other = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(body), columns=["value"]), other)
    for bad in (b"", b"PAR1", body[:-9], body[:4] + bytes(500) + body[504:], other.getvalue()):
        with pytest.raises(ArchiveError, match="no Parquet of an archive, or damaged"):
            list(read_object(bad, "parquet"))


def test_the_same_records_make_the_same_bytes() -> None:
    for name in ("raw", "parquet"):
        form = open_format(name, "zstd")
        assert packed(form, [ODD]) == packed(form, [ODD])


def test_settings_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: FormatName, codec: Codec, level: int | None = None) -> str:
        with pytest.raises(SettingsError) as refused:
            load(
                ConsumerSettings,
                kafka_topic="t",
                s3_bucket="bucket",
                format=name,
                compression=codec,
                compression_level=level,
            )
        return str(refused.value)

    assert "COMPRESSION=snappy is for FORMAT=parquet alone" in told("jsonl", "snappy")
    assert "gzip has no level 10 in Parquet; it has 1 to 9" in told("parquet", "gzip", 10)
    assert "snappy has no level 3" in told("parquet", "snappy", 3)
    assert "gzip has no level 9; it has 0 to 3" in told("raw", "gzip", 9)
    monkeypatch.setattr("consumer.encode.find_spec", lambda name: None)
    assert "pip install 'headrace[parquet]'" in told("parquet", "zstd")


class Rig:
    """An uploader of FORMAT=raw, and a dispatcher's way through its bodies."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.form = open_format("raw", "zstd")
        self.packer = Packer(layout=Layout("p", "n=%M", self.form.suffix), form=self.form)
        self.uploader = Uploader(
            store=self.store,
            timeout_seconds=60,
            alive_for=lambda: 0.0,
            health=Health(),
        )

    async def store_all(self, *buckets: tuple[str, Sequence[StoredRecord]], most: int = 99, **more: Any) -> list[str]:
        """The keys in the order in which they are stored, up to `most`."""
        found = [Bucket(path, self.form.encode(some), len(some), 5, 5) for path, some in buckets]
        cargo = Cargo(found, sum(bucket.records for bucket in found), **more)
        bodies = await self.packer.bodies(TP, PLACE.offsets, cargo)
        assert [body.before for body in bodies] == sorted([body.before for body in bodies], reverse=True)
        for body in bodies[:most]:
            assert await self.uploader.upload(TP, body)
        return [body.key for body in bodies[:most]]

    async def read(self) -> list[StoredRecord]:
        (chunk,) = (await survey(self.store, prefix="p", topic="t")).coverage(3).chunks
        return await read_chunk(self.store, chunk)


async def test_what_stands_beside_lines_is_stored_before_any_of_them() -> None:
    rig = Rig()
    keys = await rig.store_all(("n=00", ODD[::2]), ("n=01", ODD[1::2]))
    assert [key.split("/")[1] for key in keys] == ["_beside", "_beside", "t", "t"]
    assert await rig.read() == ODD
    report = await inspect_topic(rig.store, prefix="p", topic="t")
    assert report.whole
    assert report.strangers == 0


async def test_verify_names_what_is_gone_from_beside_lines() -> None:
    rig = Rig()
    gone, *_ = await rig.store_all(("n=00", ODD[::2]), ("n=01", ODD[1::2]))
    assert "/_beside/t/n=00/" in gone
    del rig.store.objects[gone]
    report = await inspect_topic(rig.store, prefix="p", topic="t")
    assert not report.whole
    (partition,) = report.partitions
    assert partition.alone == partition.as_json()["beside_gone"] == [gone]
    assert [gone in problem for problem in partition.problems()] == [True]
    assert (await inspect_topic(rig.store, prefix="p", topic="t", names_only=True)).whole


async def test_a_chunk_without_records_has_an_object_and_nothing_beside_it() -> None:
    rig = Rig()
    assert len(await rig.store_all()) == 1
    assert await rig.read() == []
    assert (await inspect_topic(rig.store, prefix="p", topic="t")).whole


async def test_two_cuts_of_a_chunk_are_never_mixed_up() -> None:
    """Kafka has dropped records since the first cut, whose owner had stored only what stands beside."""
    rig = Rig()
    (first,) = await rig.store_all(("n=00", ODD), most=1)
    second, lines = await rig.store_all(("n=00", ODD[3:]))
    assert first != second
    assert await rig.read() == ODD[3:]
    rig.store.objects.pop(lines)
    assert (await rig.store_all(("n=00", ODD)))[0] == first  # the first owner's late attempts, or another's
    assert await rig.read() == ODD


async def test_what_is_gone_is_told() -> None:
    rig = Rig()
    beside, lines = await rig.store_all(("n=00", ODD))
    stored = rig.store.objects.pop(beside)
    with pytest.raises(ArchiveError, match="What belongs beside it is gone"):
        await rig.read()
    await rig.store.put(beside, stored.body[:-9], metadata={}, content_type="")
    with pytest.raises(ArchiveError, match="Can't be decompressed"):
        await rig.read()
    await rig.store.put(lines, rig.store.objects[lines].body, metadata={}, content_type="")
    with pytest.raises(ArchiveError, match=r"No metadata \(headrace-records\)"):
        await rig.read()


def test_names_and_types() -> None:
    assert open_format("raw", "zstd").suffix == "txt.zst"
    assert open_format("raw", "none").content_type == "text/plain"
    assert open_format("raw", "gzip").content_type == "application/gzip"
    for codec in get_args(Codec):
        form = open_format("parquet", codec)
        assert (form.suffix, form.content_type) == ("parquet", "application/vnd.apache.parquet")
