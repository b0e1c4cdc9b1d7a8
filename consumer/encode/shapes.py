"""Shapes of JSON objects: names and types, all the way down. Payloads share few of them, so what depends on the shape
alone is found out once. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from consumer.encode.inference import DEEPEST

Shape = Any
"""A scalar's type; of an object its names and its values' shapes; of a list `list` and its elements', each once."""

_SAMPLES: Final[dict[Any, Any]] = {bool: True, int: 1, float: 1.5, str: "", type(None): None, dict: {}, list: []}
_ONES: Final = bytes(ord("1") if chr(byte).isdecimal() else ord("_") for byte in range(128)).ljust(256, b"_")
_LONG_NUMBER: Final = b"1" * 19


def object_in(value: bytes | None) -> tuple[dict[str, Any], bool] | None:
    """The object that a payload is, and whether it is spelled as orjson spells it; None where it is no object."""
    if value is None or value[:1] != b"{":
        return None
    try:
        found = orjson.loads(value)
        return found, orjson.dumps(found) == value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the second: it is too deep to be printed
        return None


def may_be_shared(value: bytes) -> bool:
    """Whether the shape tells all that matters: not where integers may be beyond 64 bits."""
    return _LONG_NUMBER not in value.translate(_ONES)  # ten times as fast as a regular expression


def shape_of(value: Any, depth: int = 0) -> Shape:
    """A value's shape; what lies deeper than columns go is told by its type alone."""
    kind = type(value)
    if kind is dict and depth < DEEPEST:
        inner = [shape_of(it, depth + 1) if type(it) is dict or type(it) is list else type(it) for it in value.values()]
        return tuple(value), tuple(inner)
    if kind is list and depth < DEEPEST:
        return list, tuple(dict.fromkeys([shape_of(it, depth + 1) for it in value]))
    return kind


def sample_of(shape: Shape) -> Any:
    """A value of this shape."""
    if type(shape) is not tuple:
        return _SAMPLES[shape]
    names, inner = shape
    if names is list:
        return [sample_of(it) for it in inner]
    return {name: sample_of(it) for name, it in zip(names, inner, strict=True)}
