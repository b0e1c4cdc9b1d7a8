"""Where in a body a payload is: for error messages, and for the few bodies that msgspec can't split. Pure."""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKENS_LOOKED_AT: Final = 20_000  # to say where an error is; a hostile body must not keep us longer than a good one
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|[][{},:]', re.DOTALL)
_QUOTE, _COMMA, _COLON, _OPEN_ARRAY, _CLOSE_ARRAY = b'",:[]'


class _Token(NamedTuple):
    """A bracket, a comma or a top-level key; `key` is the top-level member that it belongs to."""

    char: int
    position: int
    depth: int
    key: bytes


def payload_spans(body: bytes) -> list[tuple[int, int]]:
    """Where the elements of the top-level `data` are, whitespace around them included. The body must be good JSON."""
    marks = _marks(body, len(body))
    spans = [(begin + 1, end) for begin, end in pairwise(marks)]
    is_empty = len(spans) == 1 and not body[slice(*spans[0])].strip()
    return [] if is_empty else spans


def index_at(body: bytes, position: int, *, deepest: int | None = None) -> int | None:
    """The payload, counted from 0, that a byte is in, where it can be told quickly.

    With `deepest`: the first one before it that is nested deeper than so many levels.
    """
    marks = _marks(body, position, limit=_TOKENS_LOOKED_AT, deepest=deepest)
    if not marks or body[marks[-1]] == _CLOSE_ARRAY:
        return None
    return len(marks) - 1


def names_data_twice(body: bytes) -> bool:
    """Has the top-level object two members `data`, however they are escaped?"""
    return sum(token.char == _QUOTE and _is_data(token.key) for token in _walk(body, len(body))) > 1


def element_at(body: bytes, position: int) -> int | None:
    """The element of the top-level array, counted from 0, that a byte is in, where it can be told quickly."""
    index = 0
    for number, token in enumerate(_walk(body, position)):
        if number == _TOKENS_LOOKED_AT or (number == 0 and token.char != _OPEN_ARRAY):
            return None
        index += token.depth == 1 and token.char == _COMMA
    return index


def top_names(body: bytes) -> list[str]:
    """The names of the top-level object's members, however they are escaped, those that stand there twice twice."""
    return [msgspec.json.decode(token.key) for token in _walk(body, len(body)) if token.char == _QUOTE]


def _marks(body: bytes, end: int, *, limit: int | None = None, deepest: int | None = None) -> list[int]:
    """Where the array under `data` has its bracket, its commas and, if it is before `end`, its closing bracket."""
    marks: list[int] = []
    inside = False
    looked_at = 0
    for char, position, depth, key in islice(_walk(body, end), limit):
        looked_at += 1
        if depth == 2 and char == _OPEN_ARRAY and _is_data(key):
            marks, inside = [position], True
        elif deepest is not None and depth > deepest:
            return marks if inside else []
        elif inside and depth == 2:
            marks.append(position)
            inside = char == _COMMA
    return [] if looked_at == limit else marks


def _walk(body: bytes, end: int) -> Iterator[_Token]:
    depth, at_key, key = 0, False, b""
    for token in _TOKEN.finditer(body, 0, end):
        position = token.start()
        char = body[position]
        if char == _QUOTE:
            if not at_key:
                continue
            key = token[0]
        elif char in b"[{":
            depth += 1
            at_key = depth == 1
        elif char == _COMMA:
            at_key = depth == 1
        elif char == _COLON:
            at_key = False
            continue
        yield _Token(char, position, depth, key)
        if char in b"]}":
            depth -= 1


def _is_data(key: bytes) -> bool:
    if b"\\" not in key:
        return key == b'"data"'
    try:
        return bool(msgspec.json.decode(key) == "data")
    except msgspec.DecodeError:
        return False
