"""PARQUET_COLUMNS=payload: fields become columns that many tools read together, and no byte of a payload is lost."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.encode import Place, columns, inference, open_format
from consumer.encode.schema import tree_of
from consumer.settings import ConsumerSettings
from headrace.archive import ArchiveError, read_object
from headrace.columns import Kind, Node, from_json
from headrace.errors import SettingsError
from headrace.objects import Range
from headrace.record import StoredRecord
from headrace.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIX = "columns.parquet"
FORM = open_format("parquet", "zstd", None, "payload")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e300, 2.0**53, 2.0**60]),
    st.text(max_size=5),
)
names = st.sampled_from(["a", "b", "A", "c d", "", "_offset", "_REST", "dt", "x.y", "é"]) | st.text(max_size=3)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
objects = st.dictionaries(names, trees, max_size=5)
spelled = st.one_of(
    objects.map(orjson_or_json := lambda it: json.dumps(it, ensure_ascii=False, separators=(",", ":")).encode()),
    objects.map(lambda it: json.dumps(it).encode()),
    st.lists(st.tuples(names, scalars), max_size=4).map(
        lambda pairs: b"{" + ",".join(f"{json.dumps(name)}:{json.dumps(it)}" for name, it in pairs).encode() + b"}"
    ),
    trees.map(orjson_or_json),
)
payloads = (
    st.none() | spelled | st.binary(max_size=5) | st.sampled_from([b"{}", b"{", b'{"a":NaN}', b'{"a":"\\ud800"}'])
)
ODD = [
    b'{"id":12345678901234567890.10}',
    b'{"id":18446744073709551616,"n":1}',
    b'{"id":9223372036854775808}',
    b'{"a":1,"a":2}',
    b'{"a":[],"b":[[]],"c":{},"d":[{}],"e":[null]}',
    b'{"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}',
    b'{"a":1e2}',
    b'{"a": 1}',
    b'{"\\u0061":1}',
    b'{"a":%b%b}' % (b"[" * 300, b"]" * 300),
    b'{"a":%b%b}' % (b"[" * 900, b"]" * 900),
    b'{"a":%b%b}' % (b"[" * 9000, b"]" * 9000),
    b'{"a":%b1%b}' % (b'{"a":' * 200, b"}" * 200),
    b"[1]",
    b"\xff",
    None,
    b"",
    b"null",
    b"{}",
]


def packed(values: Sequence[bytes | None], form: Any = FORM, at_once: int = 50, bucket: str = "dt=x") -> bytes:
    records = [StoredRecord(offset, 5, None, value) for offset, value in enumerate(values)]
    parts = [part for at in range(0, len(values), at_once) for part in form.encode(records[at : at + at_once])]
    body: bytes = form.pack(parts, Place("p", "t", 3, Range(0, 1000), bucket, len(values))).content
    assert not parts
    return body


def values_in(body: bytes) -> list[bytes | None]:
    return [record.value for record in read_object(body, SUFFIX)]


def table(body: bytes) -> Any:
    return pq.read_table(io.BytesIO(body))


def types(body: bytes) -> dict[str, str]:
    return {it.name: str(it.type) for it in table(body).schema if not it.name.startswith("_")}


def js(*values: Any) -> list[bytes]:
    return [orjson.dumps(value) for value in values]


@given(st.lists(payloads, max_size=8), st.sampled_from([1, 50]))
@example(ODD, 1)
@example(ODD * 4, 50)
@example([b'{"a":1}', b'{"a":2.0}', b'{"a":9007199254740993}'], 50)
@example([b'{"a":null,"b":1}', b'{"b":2}'], 50)
@example([b'{"b":1,"a":1}', b'{"a":1,"b":1}'], 50)
def test_every_payload_comes_back_byte_for_byte(values: list[bytes | None], at_once: int) -> None:
    assert values_in(packed(values, at_once=at_once)) == values


schemas = st.dictionaries(
    st.sampled_from(["a", "b", "c d", "é"]),
    st.sampled_from(
        [
            {"type": "integer"},
            {"type": ["number", "null"]},
            {"type": ["integer", "number"]},
            {"type": "boolean"},
            {"type": "string"},
            {"type": ["string", "integer"]},
            {"type": "array"},
            {"type": "array", "items": {"type": "integer"}},
            {"type": "object"},
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {}}}},
            {"type": "null"},
            {},
            True,
        ]
    ),
    min_size=1,
)


@given(schemas, st.lists(payloads, max_size=6))
@example({"a": {"type": "integer"}}, [b'{"a":18446744073709551615}', b'{"a":1,"b":2}', b'{"a":"x"}', b'{"a":null}'])
def test_with_a_schema_too(schema: dict[str, Any], values: list[bytes | None]) -> None:
    form = columns.Columns("none", 0, tree_of({"type": "object", "properties": schema}))
    body = packed(values, form)
    assert values_in(body) == values
    assert list(types(body)) == list(schema), "all columns, in the schema's order, whatever comes"


def test_fields_are_columns_and_take_no_second_place() -> None:
    body = packed(
        js(*({"id": n, "x": n / 4, "ok": n > 2, "city": "Oslo", "at": {"lat": 1.5, "tags": ["a"]}} for n in range(9)))
    )
    assert types(body) == {
        "id": "int64",
        "x": "double",
        "ok": "bool",
        "city": "string",
        "at": "struct<lat: double, tags: list<element: string>>",
    }
    found = table(body)
    assert found.column("_exact").to_pylist() == [True] * 9
    for name in ("_value", "_value_binary", "_rest"):
        assert found.column(name).null_count == 9


@pytest.mark.parametrize(
    ("values", "kind", "exact"),
    [
        ([{"a": 1}, {"a": 2.5}], "double", [True, True]),
        ([{"a": 2.5}, {"a": 3.0}], "double", [True, True]),
        ([{"a": 1}, {"a": 3.0}], "double", [True, False]),
        ([{"a": 1}, {"a": "x"}], "string", [False, True]),
        ([{"a": None}, {"a": 1}], "int64", [True, True]),
        ([{"a": None}, {}, {"a": 1}], "int64", [False, True, True]),
        ([{"a": 1}, {"a": True}], "string", [True, True]),
        ([{"a": {"b": 1}}, {"a": {"b": 2, "c": "x"}}], "struct<b: int64, c: string>", [True, True]),
        ([{"a": {"b": 1}}, {"a": {}}], "struct<b: int64>", [True, True]),
        ([{"a": [1]}, {"a": [2.5, None]}, {"a": []}], "list<element: double>", [True, True, True]),
        ([{"a": [1]}, {"a": {"b": 1}}], "string", [True, True]),
        ([{"a": {"b": [[[[[1]]]]]}}], "struct<b: list<element: list<element: list<element: string>>>>", [True]),
        ([{"a": {"": 1}}, {"a": {"x": 1}}], "string", [True, True]),
        ([{"a": {"b": 1, "B": 1}}], "string", [True]),
        ([{"a": [{}]}, {"a": [{"x": 1}]}], "list<element: struct<x: int64>>", [True, True]),
    ],
)
def test_drift_widens_columns(values: list[Any], kind: str, exact: list[bool]) -> None:
    for order in (1, -1):
        body = packed(js(*values)[::order])
        assert types(body) == {"a": kind}
        assert table(body).column("_exact").to_pylist() == exact[::order]
        assert values_in(body) == js(*values)[::order]


def test_what_no_column_holds_is_in_the_rest() -> None:
    values = js({"id": 1, "ID": 2, "_offset": 3, "dt": "4", "a b": 5, "none": None, "empty": [], "bare": {}})
    body = packed(values)
    assert types(body) == {"id": "int64"}
    (rest,) = table(body).column("_rest").to_pylist()
    assert orjson.loads(rest) == {"ID": 2, "_offset": 3, "dt": "4", "a b": 5, "none": None, "empty": [], "bare": {}}
    assert table(body).column("_exact").to_pylist() == [True]


def test_names_that_are_data_make_no_file_of_a_million_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MOST_COLUMNS", 4)
    values = js(*({"id": n, f"user-{n}": n, "in": {f"u{n}": n}} for n in range(9)))
    body = packed(values)
    assert types(body) == {"id": "int64", "user-0": "int64", "in": "string"}
    assert values_in(body) == values


def test_many_shapes_are_not_all_kept_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_SHAPES", 2)
    values = js(*({"id": n, f"k{n % 5}": n} for n in range(20)))
    body = packed(values)
    assert values_in(body) == values
    assert table(body).column("_exact").to_pylist() == [True] * 20


def test_values_beyond_their_column_are_near_it_and_whole_beside_it() -> None:
    body = packed([b'{"id":1}', b'{"id":12345678901234567890.10}', b'{"id":36893488147419103232}'])
    assert types(body) == {"id": "double"}
    assert table(body).column("id").to_pylist() == [1.0, 12345678901234567890.10, 2.0**65]
    assert table(body).column("_value").to_pylist() == [
        None,
        '{"id":12345678901234567890.10}',
        '{"id":36893488147419103232}',
    ]


def test_columns_stand_in_the_order_of_payloads_whatever_comes_first() -> None:
    one = packed(js({"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}))
    other = packed(js({"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}))
    assert list(types(one)) == list(types(other)) == ["a", "b", "c"]
    assert list(types(packed(js({"b": 1}, {"a": 1, "b": 1}, {"z": 1}, {"b": 1, "c": 1})))) == ["a", "b", "c", "z"]


def test_files_of_different_columns_are_read_as_one_table(tmp_path: Path) -> None:
    drift: list[Sequence[bytes | None]] = [
        js({"n": 1, "who": {"name": "a"}}, {"n": 2}),
        js({"n": 2.5, "who": {"name": "b", "age": 3}, "new": "x"}),
        [b"plain text", None, b'{"n":10}', b'{"who":null,"tags":[]}'],
        js({"tags": ["x"], "n": 4}),
    ]
    for number, values in enumerate(drift):
        (tmp_path / f"{number}.{SUFFIX}").write_bytes(packed(values))
    query = f"""
        select sum(n), count(*), max(who.age), max(new), sum(len(tags))
        from read_parquet('{tmp_path}/*.parquet', union_by_name = true)"""
    found = duckdb.connect().execute(query).fetchone()
    assert found == (19.5, 8, 3, "x", 1)
    files = sorted(tmp_path.iterdir())
    schema = pa.unify_schemas([pq.read_schema(file) for file in files], promote_options="permissive")
    dataset = ds.dataset(files, schema=schema)
    assert sum(it or 0 for it in dataset.to_table(columns=["n"]).column(0).to_pylist()) == 19.5
    assert dataset.count_rows() == 8
    assert len(dataset.to_table().to_pandas()) == 8


def test_memory_is_bounded_by_slices_and_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(columns, "ROW_GROUP_BYTES", 4000)
    values = js(*({"n": n, "pad": "x" * 100} for n in range(300)))
    body = packed(values)
    assert pq.ParquetFile(io.BytesIO(body)).num_row_groups > 3
    assert values_in(body) == values


def test_the_footer_tells_types_that_spark_takes() -> None:
    file = pq.ParquetFile(io.BytesIO(packed(js({"n": 1, "x": 0.5, "who": {"tags": ["a"]}}))))
    physical = {file.schema.column(at).path: file.schema.column(at).physical_type for at in range(len(file.schema))}
    assert physical["n"] == "INT64"
    assert physical["x"] == "DOUBLE"
    assert physical["who.tags.list.element"] == "BYTE_ARRAY"
    assert physical["_timestamp"] == "INT64"
    group = file.metadata.row_group(0)
    assert group.column(group.sorting_columns[0].column_index).path_in_schema == "_offset"
    assert FORM.suffix == SUFFIX


def test_settings_of_columns(tmp_path: Path) -> None:
    def told(**settings: Any) -> str:
        with pytest.raises(SettingsError) as refused:
            load(ConsumerSettings, kafka_topic="t", s3_bucket="bucket", **settings)
        return str(refused.value)

    file = tmp_path / "schema.json"
    of_payload = {"format": "parquet", "parquet_columns": "payload", "parquet_schema_file": file}
    assert "PARQUET_COLUMNS is for FORMAT=parquet alone" in told(parquet_columns="payload")
    assert "is for PARQUET_COLUMNS=payload alone" in told(format="parquet", parquet_schema_file=file)
    assert "can't be read" in told(**of_payload)
    for bad in (b"{", b"[]", b"{}", b'{"type":"string"}', b'{"type":"object","properties":{}}'):
        file.write_bytes(bad)
        assert "PARQUET_SCHEMA_FILE" in told(**of_payload)
    file.write_bytes(b'{"type":"object","properties":{"_Offset":{"type":"integer"}}}')
    assert "has a property _Offset, which is a column of headrace's own" in told(**of_payload)
    file.write_bytes(b'{"type":"object","properties":{"id":{"type":"integer"}}}')
    settings = load(ConsumerSettings, kafka_topic="t", s3_bucket="bucket", **of_payload)
    form = open_format(
        settings.format, settings.compression, None, settings.parquet_columns, settings.parquet_schema_file
    )
    assert types(packed(js({"id": 1, "x": 2}, {"y": 1}), form)) == {"id": "int64"}


def test_a_file_whose_tree_is_damaged_is_told() -> None:
    body = packed(js({"a": 1}))
    found = pq.read_table(io.BytesIO(body))
    for tree in (b"{}", b'["struct",false,false]', b'["strange",false,false,null]', b"nonsense"):
        out = io.BytesIO()
        pq.write_table(found.replace_schema_metadata({b"headrace.columns": b"payload", b"headrace.payload": tree}), out)
        with pytest.raises(ArchiveError, match="no Parquet of an archive, or damaged"):
            list(read_object(out.getvalue(), SUFFIX))


def test_a_tree_is_told_and_read() -> None:
    tree = Node(
        Kind.STRUCT, fields={"a": Node(Kind.LIST, element=Node(Kind.FLOAT, whole=True)), "b": Node(always=True)}
    )
    assert from_json(orjson.loads(orjson.dumps(tree.as_json()))) == tree
