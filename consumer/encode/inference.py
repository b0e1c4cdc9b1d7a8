"""Which columns payloads have: kinds of fields observed over all of them, or told by a JSON Schema. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from headrace.columns import Kind, Node, joined

MOST_COLUMNS: Final = 500
"""Fields of objects, nested ones counted: what is beyond goes into the rest (names that are data, such as ids)."""
DEEPEST: Final = 5
"""Objects and lists within each other that are columns; what lies deeper is JSON text."""

_GOOD_NAME: Final = re.compile(r"[^\x00-\x20,;{}()=\x7f]{1,120}")
"""What Spark, Hive and Athena take for a column's name."""
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_SCALARS: Final = {bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT, str: Kind.TEXT}


class Inference:
    """Observes objects; `root` is their tree once `settle` was called. What it finds depends on their order alone."""

    def __init__(self, reserved: frozenset[str] = frozenset(), given: Node | None = None) -> None:
        """`reserved`: names, in small letters, that no column of a payload may have. `given`: the kinds are these."""
        self.root = Node(Kind.STRUCT) if given is None else given
        self._fixed = given is not None
        self._reserved = reserved
        self._columns = 0

    def observe(self, found: dict[str, Any], times: int = 1) -> None:
        self._object(self.root, found, 0, times)

    def settle(self) -> Node:
        """No object follows: tell which fields are always there, and what can't be a column after all."""
        for child in self.root.fields.values():
            child.always = child.seen == self.root.objects
            bare = child.kind in {Kind.LIST, Kind.STRUCT} and not _settle(child)
            if bare and not self._fixed:  # as text it would be at odds with the other objects' column of this name
                child.kind = Kind.REST
        return self.root

    def _object(self, node: Node, found: dict[str, Any], depth: int, times: int) -> None:
        node.objects += times
        before = None if not node.fields.keys().isdisjoint(found) else next(reversed(node.fields), None)
        for name, value in found.items():
            child = node.fields.get(name)
            if child is None:
                if self._fixed:
                    continue
                child = self._add(node, name, before, depth)
                if child is None:
                    continue
            child.seen += times
            self._value(child, value, depth + 1, times)
            before = name

    def _add(self, node: Node, name: str, before: str | None, depth: int) -> Node | None:
        """A field that was not there before, behind the one that it stands behind here. None where there is no room."""
        if self._columns >= MOST_COLUMNS:
            if depth:
                node.kind = Kind.JSON
            return None
        self._columns += 1
        lower = name.lower()
        good = _GOOD_NAME.fullmatch(name) and not any(lower == other.lower() for other in node.fields)
        if depth and not good:
            node.kind = Kind.JSON
        child = Node() if good and (depth or lower not in self._reserved) else Node(Kind.REST)
        names = list(node.fields)
        at = 0 if before is None else names.index(before) + 1
        if at == len(names):
            node.fields[name] = child
        else:
            node.fields = dict([*list(node.fields.items())[:at], (name, child), *list(node.fields.items())[at:]])
        return child

    def _value(self, node: Node, value: Any, depth: int, times: int) -> None:
        if value is None or node.kind is Kind.REST:
            return
        kind = kind_of(value, depth)
        node.whole |= type(value) is int
        before, node.kind = node.kind, node.kind if self._fixed else joined(node.kind, kind)
        node.mixed |= kind is not node.kind or before not in {Kind.NULL, kind} or (node.whole and kind is Kind.FLOAT)
        if node.kind is Kind.LIST and kind is Kind.LIST:
            node.element = node.element or Node()
            for it in value:
                node.element.seen += times
                self._value(node.element, it, depth + 1, times)
        elif node.kind is Kind.STRUCT and kind is Kind.STRUCT:
            self._object(node, value, depth, times)


def kind_of(value: Any, depth: int) -> Kind:
    """A value's own kind; `depth`: how many objects and lists it stands in."""
    if type(value) is int:
        return Kind.INT if _SMALLEST <= value <= _LARGEST else Kind.FLOAT
    if (kind := _SCALARS.get(type(value))) is not None:
        return kind
    if depth >= DEEPEST:
        return Kind.JSON
    return Kind.LIST if type(value) is list else Kind.STRUCT


def _settle(node: Node) -> bool:
    """Whether it is a column by itself; Parquet has neither objects without fields nor lists of nothing."""
    if node.kind is Kind.LIST:
        if node.element is None or not _settle(node.element):
            node.kind, node.element = Kind.JSON, None
            return False
    elif node.kind is Kind.STRUCT:
        found = 0
        for child in node.fields.values():
            child.always = child.seen == node.objects
            found += _settle(child)
        if not found:
            node.kind, node.fields = Kind.JSON, {}
            return False
    return node.kind is not Kind.NULL


def is_direct(node: Node) -> bool:
    """Whether its values are all what its column takes, inner ones too."""
    if node.kind is Kind.LIST:
        return not node.mixed and node.element is not None and is_direct(node.element)
    if node.kind is Kind.STRUCT:
        return not node.mixed and all(map(is_direct, node.fields.values()))
    return not node.mixed and node.kind is not Kind.JSON


def depends_on_values(sample: Any, node: Node) -> bool:
    """Whether it takes more than the shape to tell if a column gives a value back: 2.0 and 2 are one double."""
    if node.kind is Kind.FLOAT:
        return node.whole and sample is not None
    if node.kind is Kind.LIST and type(sample) is list:
        assert node.element is not None
        return any(depends_on_values(it, node.element) for it in sample)
    if node.kind is Kind.STRUCT and type(sample) is dict:
        return any(depends_on_values(it, node.fields[name]) for name, it in sample.items() if name in node.fields)
    return False


def fits(value: Any, node: Node) -> bool:
    """Whether a column of a payload takes this value, be it widened."""
    if value is None or node.kind in {Kind.TEXT, Kind.JSON, Kind.REST}:
        return node.kind is not Kind.JSON or type(value) is not str
    kind = kind_of(value, 0)
    return kind is node.kind or (kind is Kind.INT and node.kind is Kind.FLOAT)


def fitted(value: Any, node: Node) -> Any:
    """The value as its column has it. What does not fit inside of it is null there."""
    if value is None or not fits(value, node):
        return None
    match node.kind:
        case Kind.FLOAT:
            return float(value)
        case Kind.TEXT if type(value) is not str:
            return orjson.dumps(value).decode()
        case Kind.JSON:
            return orjson.dumps(value).decode()
        case Kind.LIST:
            assert node.element is not None
            return [fitted(it, node.element) for it in value]
        case Kind.STRUCT:
            return {name: fitted(value.get(name), it) for name, it in node.fields.items()}
    return value
