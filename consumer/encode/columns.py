"""FORMAT=parquet with PARQUET_COLUMNS=payload: the fields of JSON objects as columns of their own, and nothing lost.

All payloads of an object are looked at twice: first for the kinds of their fields, then for the columns. Where these
give a payload back byte for byte, `_exact` says so; else `_value` or `_value_binary` holds it, too. What no column
holds is in `_rest`.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa

from consumer.encode.form import Packed, Place
from consumer.encode.inference import Inference, fits, fitted
from consumer.encode.parquet import Parquet, batch_of, facts, level_of, row_groups
from consumer.encode.schema import read_schema
from headrace.columns import Kind, Node, rebuild
from headrace.parquet import OWN, PAYLOAD, TREE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consumer.encode.compression import Codec

ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
"""Of waiting payloads: they are there twice meanwhile."""
ROWS_AT_ONCE: Final = 2048
"""Payloads that are Python's objects at a time."""

_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")
_SCALARS: Final = {bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT, str: Kind.TEXT}
_FLAT: Final = frozenset([*_SCALARS, type(None)])
_TYPES: Final = {
    Kind.BOOL: pa.bool_(),
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
}
_RANGES: Final = ["_topic", "_partition", "_offset", "_timestamp", "_timestamp_ms", "_key"]
_Shape = tuple[tuple[str, ...], tuple[type, ...]]


@dataclass(frozen=True, slots=True)
class Columns(Parquet):
    given: Node | None = None
    """The columns, where a JSON Schema tells them."""

    @property
    def suffix(self) -> str:
        return "columns.parquet"

    def pack(self, parts: list[bytes], place: Place) -> Packed:
        reserved = {name.lower() for name in OWN.names} | _folders_of(place.bucket)
        inference = Inference(frozenset(reserved), copy.deepcopy(self.given))
        _observe(parts, inference)
        root = inference.settle()
        columns = {name: node for name, node in root.fields.items() if node.kind not in {Kind.NULL, Kind.REST}}
        schema = pa.schema([*OWN, *(pa.field(name, _type_of(node)) for name, node in columns.items())])
        body = BytesIO()
        ranges = [
            *_RANGES,
            *(name for name, node in columns.items() if node.kind not in {Kind.LIST, Kind.STRUCT, Kind.JSON}),
        ]
        with self.writer(body, schema, "_offset", repeating=_that_repeat(columns), ranges=ranges) as writer:
            writer.add_key_value_metadata(facts(place, PAYLOAD) | {TREE: orjson.dumps(root.as_json()).decode()})
            for batches in row_groups(parts, most_bytes=ROW_GROUP_BYTES):
                rows = [
                    _rows(batch.slice(at, ROWS_AT_ONCE), place, root, columns, schema)
                    for batch in batches
                    for at in range(0, batch.num_rows, ROWS_AT_ONCE)
                ]
                table = pa.Table.from_batches(rows, schema)
                writer.write_table(table, row_group_size=table.num_rows)
        return Packed(body.getvalue())


def open_columns(codec: Codec, level: int | None, schema: Path | None) -> Columns:
    """Raises ValueError for a level that is not there, and a schema that is none or has columns of our names."""
    given = None if schema is None else read_schema(schema)
    if given is not None and (taken := [name for name in given.fields if name.lower() in OWN.names]):
        raise ValueError(f"PARQUET_SCHEMA_FILE has a property {taken[0]}, which is a column of headrace's own")
    return Columns(codec, level_of(codec, level), given)


def _that_repeat(columns: dict[str, Node]) -> list[str]:
    of_headers = [f"_headers.list.element.{name}" for name in ("key", "value")]
    simple = [name for name, node in columns.items() if node.kind not in {Kind.LIST, Kind.STRUCT, Kind.FLOAT}]
    return ["_topic", "_partition", "_key", *of_headers, *simple]


def _folders_of(bucket: str) -> set[str]:
    """Columns that readers make of Hive folders: no payload's field may have their name in the same file."""
    return {folder.partition("=")[0].lower() for folder in bucket.split("/") if "=" in folder}


def _observe(parts: Sequence[bytes], inference: Inference) -> None:
    shapes: Counter[_Shape] = Counter()
    for part in parts:
        for value in _values(batch_of(part)):
            found = _object_in(value)
            if value is None or found is None:
                continue
            shape = _shape_of(found, value)
            if shape is None or shape not in shapes:
                inference.observe(found)  # at once, so that columns stand in the order of payloads
            if shape is not None:
                shapes[shape] += 1
    for (names, types), times in shapes.items():
        if times > 1:
            inference.observe_alike(names, types, times - 1)


def _values(batch: Any) -> list[bytes | None]:
    """Texts; all else is null."""
    return batch.column("value").cast(pa.binary()).to_pylist()  # type: ignore[no-any-return]


def _object_in(value: bytes | None) -> dict[str, Any] | None:
    if value is None or value[:1] != b"{":
        return None
    try:
        return orjson.loads(value)  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        return None


def _shape_of(found: dict[str, Any], value: bytes) -> _Shape | None:
    """Names and types, which tell all that matters of flat objects. None where they don't."""
    types = tuple(map(type, found.values()))
    if not _FLAT.issuperset(types) or _LONG_NUMBER.search(value):
        return None
    return tuple(found), types


def _type_of(node: Node) -> Any:
    if node.kind is Kind.LIST:
        assert node.element is not None
        return pa.list_(pa.field("element", _type_of(node.element)))
    if node.kind is Kind.STRUCT:
        there = {name: it for name, it in node.fields.items() if it.kind is not Kind.NULL}
        return pa.struct([pa.field(name, _type_of(it)) for name, it in there.items()])
    return _TYPES[node.kind]


def _rows(batch: Any, place: Place, root: Node, columns: dict[str, Node], schema: Any) -> Any:
    """The rows of some records: ours, and their payloads' columns."""
    values = _values(batch)
    found = [_object_in(value) for value in values]
    by_shape: dict[_Shape, bool] = {}
    exact: list[bool] = []
    rests: list[str | None] = []
    for value, it in zip(values, found, strict=True):
        if value is None or it is None:
            exact.append(False)
            rests.append(None)
            continue
        shape = _shape_of(it, value)
        if shape is not None and shape not in by_shape:
            by_shape[shape] = _gives_back(shape, root)
        if shape is not None and by_shape[shape]:
            exact.append(orjson.dumps(it) == value)
            rests.append(None)
            continue
        rest = {name: inner for name, inner in it.items() if name not in columns or not fits(inner, columns[name])}
        text = orjson.dumps(rest).decode() if rest else None
        row = {name: fitted(it.get(name), node) for name, node in columns.items()}
        exact.append(rebuild(root, row, text) == value)
        rests.append(text)
    count = len(values)
    own = [
        pa.repeat(place.topic, count),
        pa.repeat(pa.scalar(place.partition, pa.int32()), count),
        *(batch.column(name) for name in ("offset", "timestamp", "timestamp_ms", "key", "key_binary", "headers")),
        pa.array(exact, pa.bool_()),
        pa.array([None if it else value for it, value in zip(exact, values, strict=True)], pa.binary()).cast(
            pa.string()
        ),
        batch.column("value_binary"),
        pa.array(rests, pa.string()),
    ]
    objects = [it or {} for it in found]
    theirs = [_column([it.get(name) for it in objects], node) for name, node in columns.items()]
    return pa.RecordBatch.from_arrays([*own, *theirs], schema=schema)


def _column(values: list[Any], node: Node) -> Any:
    kind = _type_of(node)
    if {_SCALARS.get(it) for it in set(map(type, values)) - {type(None)}} <= {node.kind}:
        try:
            return pa.array(values, kind)
        except OverflowError:  # an integer beyond the column that a schema told
            pass
    return pa.array([fitted(value, node) for value in values], kind)


def _gives_back(shape: _Shape, root: Node) -> bool:
    """Whether columns give back all payloads of a shape that are spelled as orjson spells them."""
    names, types = shape
    there = set(names)
    if [name for name in root.fields if name in there] != list(names):
        return False
    for name, kind in zip(names, types, strict=True):
        node = root.fields[name]
        if kind is type(None):
            if not node.always or node.kind is Kind.REST:
                return False
        elif _SCALARS[kind] is not node.kind or (node.whole and node.kind is Kind.FLOAT):
            return False
    return True
