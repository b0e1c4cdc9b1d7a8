"""Columns told by a JSON Schema: the same in all objects, whatever payloads come. Pure but for reading the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from headrace.columns import Kind, Node

if TYPE_CHECKING:
    from pathlib import Path

_KINDS: Final = {
    "boolean": Kind.BOOL,
    "integer": Kind.INT,
    "number": Kind.FLOAT,
    "string": Kind.TEXT,
    "array": Kind.LIST,
    "object": Kind.STRUCT,
}


def read_schema(file: Path) -> Node:
    """The tree of a file's schema. Raises ValueError where it can't be read, or isn't one of objects."""
    try:
        schema = orjson.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"PARQUET_SCHEMA_FILE={file} can't be read: {error}") from None
    tree = tree_of(schema)
    if tree.kind is not Kind.STRUCT or not tree.fields:
        raise ValueError(f"PARQUET_SCHEMA_FILE={file} is no JSON Schema of an object with properties")
    return tree


def tree_of(schema: Any) -> Node:
    """A schema's columns. What it does not say by `type`, `properties` and `items` is a column of JSON text."""
    told = schema.get("type") if isinstance(schema, dict) else None
    names = {name for name in (told if isinstance(told, list) else [told]) if name != "null"}
    kinds = {_KINDS.get(name, Kind.TEXT) for name in names if isinstance(name, str)}
    if kinds == {Kind.INT, Kind.FLOAT}:
        kinds = {Kind.FLOAT}
    kind = kinds.pop() if len(kinds) == 1 else Kind.TEXT
    if kind is Kind.LIST:
        items = schema.get("items")
        return Node(Kind.LIST, element=tree_of(items)) if items else Node(Kind.JSON)
    if kind is Kind.STRUCT:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return Node(Kind.JSON)
        return Node(Kind.STRUCT, fields={name: tree_of(it) for name, it in properties.items()})
    return Node(kind)
