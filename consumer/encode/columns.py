"""FORMAT=parquet with PARQUET_COLUMNS=payload: the fields of JSON objects as columns of their own, and nothing lost.

All payloads of an object are looked at twice: first for the kinds of their fields, then for the columns. Where these
give a payload back byte for byte, `_exact` says so; else `_value` or `_value_binary` holds it, too. What no column
holds is in `_rest`.
"""

from __future__ import annotations

import copy
from array import array
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa

from consumer.encode.form import Packed, Place
from consumer.encode.inference import Inference, depends_on_values, fits, fitted, is_direct
from consumer.encode.parquet import Parquet, batch_of, facts, level_of, row_groups
from consumer.encode.schema import read_schema
from consumer.encode.shapes import Shape, may_be_shared, object_in, sample_of, shape_of
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

MOST_SHAPES: Final = 1000
"""That are kept in mind; where names are data, there is one a payload."""
_NO_OBJECT: Final = -1
_ALONE: Final = -2
"""An object whose shape does not tell enough."""

_TYPES: Final = {
    Kind.BOOL: pa.bool_(),
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
}
_RANGES: Final = ["_topic", "_partition", "_offset", "_timestamp", "_timestamp_ms", "_key"]


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
        survey = _Survey(inference)
        for part in parts:
            survey.look(_values(batch_of(part)))
        root = inference.settle()
        columns = {name: node for name, node in root.fields.items() if node.kind not in {Kind.NULL, Kind.REST}}
        schema = pa.schema([*OWN, *(pa.field(name, _type_of(node)) for name, node in columns.items())])
        body, table = BytesIO(), _Table(root, columns, survey)
        ranges = [
            *_RANGES,
            *(name for name, node in columns.items() if node.kind not in {Kind.LIST, Kind.STRUCT, Kind.JSON}),
        ]
        with self.writer(body, schema, "_offset", repeating=_that_repeat(columns), ranges=ranges) as writer:
            writer.add_key_value_metadata(facts(place, PAYLOAD) | {TREE: orjson.dumps(root.as_json()).decode()})
            for batches in row_groups(parts, most_bytes=ROW_GROUP_BYTES):
                rows = [
                    table.rows(batch.slice(at, ROWS_AT_ONCE), place, schema)
                    for batch in batches
                    for at in range(0, batch.num_rows, ROWS_AT_ONCE)
                ]
                writer.write_table(pa.Table.from_batches(rows, schema), row_group_size=sum(map(len, rows)))
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


def _values(batch: Any) -> list[bytes | None]:
    """Texts; all else is null."""
    return batch.column("value").cast(pa.binary()).to_pylist()  # type: ignore[no-any-return]


class _Survey:
    """The first look at all payloads. `seen` has a number for each, by which the second look is shorter."""

    def __init__(self, inference: Inference) -> None:
        self.seen = array("q")
        self.samples: list[Any] = []
        """Of each shape that payloads share."""
        self._inference = inference
        self._numbers: dict[Shape, int] = {}

    def look(self, values: Sequence[bytes | None]) -> None:
        for value in values:
            found = object_in(value)
            if value is None or found is None:
                self.seen.append(_NO_OBJECT)
            elif may_be_shared(value) and (number := self._number(shape_of(found[0]))) is not None:
                self.seen.append(number * 2 + found[1])
            else:
                self._inference.observe(found[0])
                self.seen.append(_ALONE)

    def _number(self, shape: Shape) -> int | None:
        number = self._numbers.get(shape)
        if number is None and len(self.samples) < MOST_SHAPES:
            number = self._numbers[shape] = len(self.samples)
            self.samples.append(sample_of(shape))
            self._inference.observe(self.samples[-1])  # how many there are of it makes no difference
        return number


class _Table:
    """Rows out of payloads: the second look."""

    def __init__(self, root: Node, columns: dict[str, Node], survey: _Survey) -> None:
        self._root = root
        self._columns = columns
        self._seen = iter(survey.seen)
        self._direct = {name: is_direct(node) for name, node in columns.items()}
        self._of_shape = [self._gives_back(sample) for sample in survey.samples]

    def _gives_back(self, sample: dict[str, Any]) -> bool:
        """Whether columns give back all payloads of its shape that are spelled as orjson spells them."""
        exact, rest = self._exact(sample, orjson.dumps(sample))
        return exact and rest is None and not depends_on_values(sample, self._root)

    def _exact(self, found: dict[str, Any], value: bytes) -> tuple[bool, str | None]:
        """Whether columns and rest give the payload back, and that rest."""
        columns = self._columns
        rest = {name: it for name, it in found.items() if name not in columns or not fits(it, columns[name])}
        text = orjson.dumps(rest).decode() if rest else None
        row = {name: fitted(found.get(name), node) for name, node in columns.items()}
        return rebuild(self._root, row, text) == value, text

    def rows(self, batch: Any, place: Place, schema: Any) -> Any:
        """Those of some records: ours, and their payloads' columns."""
        values = _values(batch)
        count = len(values)
        objects: list[dict[str, Any]] = []
        exact = [False] * count
        rests: list[str | None] = [None] * count
        for at, (value, seen) in enumerate(zip(values, self._seen, strict=False)):
            if value is None or seen == _NO_OBJECT:
                objects.append({})
                continue
            found = orjson.loads(value)
            objects.append(found)
            if seen >= 0 and self._of_shape[seen >> 1]:
                exact[at] = seen & 1 == 1
            else:
                exact[at], rests[at] = self._exact(found, value)
        kept = [None if it else value for it, value in zip(exact, values, strict=True)]
        own = [
            pa.repeat(place.topic, count),
            pa.repeat(pa.scalar(place.partition, pa.int32()), count),
            *(batch.column(name) for name in ("offset", "timestamp", "timestamp_ms", "key", "key_binary", "headers")),
            pa.array(exact, pa.bool_()),
            pa.array(kept, pa.binary()).cast(pa.string()),
            batch.column("value_binary"),
            pa.array(rests, pa.string()),
        ]
        theirs = [self._column([it.get(name) for it in objects], node, name) for name, node in self._columns.items()]
        return pa.RecordBatch.from_arrays([*own, *theirs], schema=schema)

    def _column(self, values: list[Any], node: Node, name: str) -> Any:
        chosen = values if self._direct[name] else [fitted(value, node) for value in values]
        return pa.array(chosen, _type_of(node))


def _type_of(node: Node) -> Any:
    if node.kind is Kind.LIST:
        assert node.element is not None
        return pa.list_(pa.field("element", _type_of(node.element)))
    if node.kind is Kind.STRUCT:
        there = {name: it for name, it in node.fields.items() if it.kind is not Kind.NULL}
        return pa.struct([pa.field(name, _type_of(it)) for name, it in there.items()])
    return _TYPES[node.kind]
