"""A payload's own columns: which types its fields have, and how the payload is had back from them. Pure.

A tree of nodes tells, field by field in the order in which payloads have them, where a value is and how it was spelled.
It stands in the metadata of each file, so that the file alone gives payloads back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

EXACT_INTEGERS: Final = 2**53
"""Below it every whole number is a double of its own."""


class Kind(StrEnum):
    """What a column is; two that differ widen to a third (`joined`)."""

    NULL = "null"
    """Only nulls so far: no column."""
    BOOL = "bool"
    INT = "int"
    """64 bits with a sign."""
    FLOAT = "float"
    TEXT = "text"
    """Strings as they are; values of other kinds among them are JSON text, and are had back from elsewhere."""
    JSON = "json"
    """JSON text of values none of which is a string."""
    LIST = "list"
    STRUCT = "struct"
    REST = "rest"
    """No column: the value stands in the column of all that has none."""


@dataclass(slots=True)
class Node:
    """One field, element or object. `seen`: how often it was there; `objects`: how often it was an object."""

    kind: Kind = Kind.NULL
    whole: bool = False
    """Of a FLOAT: whole numbers are spelled without a point."""
    always: bool = False
    """It is there in each object, so that no value means null."""
    mixed: bool = False
    """Values of other kinds are among them, so that they must be made to fit."""
    element: Node | None = None
    fields: dict[str, Node] = field(default_factory=dict)
    seen: int = 0
    objects: int = 0

    def as_json(self) -> list[Any]:
        more: Any = None
        if self.element is not None:
            more = self.element.as_json()
        elif self.kind is Kind.STRUCT:
            more = [[name, node.as_json()] for name, node in self.fields.items()]
        return [self.kind, self.whole, self.always, more]


def from_json(told: Any) -> Node:
    """Raises ValueError or TypeError for what isn't a tree."""
    kind, whole, always, more = told
    node = Node(Kind(kind), bool(whole), bool(always))
    if node.kind is Kind.LIST:
        node.element = from_json(more)
    elif node.kind is Kind.STRUCT:
        node.fields = {name: from_json(it) for name, it in more}
    return node


def joined(one: Kind, other: Kind) -> Kind:
    """The kind that holds values of both."""
    if one is other or other is Kind.NULL:
        return one
    if one is Kind.NULL:
        return other
    if {one, other} == {Kind.INT, Kind.FLOAT}:
        return Kind.FLOAT
    return Kind.TEXT if Kind.TEXT in {one, other} else Kind.JSON


def rebuild(root: Node, row: dict[str, Any], rest: str | None) -> bytes:
    """The payload out of its columns' values and what stands in the rest."""
    others = {} if rest is None else orjson.loads(rest)
    found = {}
    for name, node in root.fields.items():
        if name in others:
            found[name] = others.pop(name)
        elif (value := row.get(name)) is not None:
            found[name] = plain(value, node)
        elif node.always:
            found[name] = None
    return orjson.dumps(found | others)


def plain(value: Any, node: Node) -> Any:
    """What orjson prints as the payload had it, of a column's value."""
    if value is None:
        return None
    match node.kind:
        case Kind.FLOAT:
            return int(value) if node.whole and value.is_integer() and abs(value) < EXACT_INTEGERS else value
        case Kind.JSON:
            return orjson.Fragment(value)
        case Kind.LIST:
            assert node.element is not None
            return [plain(it, node.element) for it in value]
        case Kind.STRUCT:
            return {
                name: plain(value.get(name), it)
                for name, it in node.fields.items()
                if value.get(name) is not None or it.always
            }
    return value
