"""A collection of payloads as a stream: a JSON array, one JSON value a line, or the values of a JSON object. Pure.

Payloads come out as the very bytes that went in, whitespace around them aside. Memory holds one payload and one chunk.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError
from headrace.jsontext import WHITESPACE, BadJson, check_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TOKEN = re.compile(rb'"(?:[^"\\]*+(?:\\.[^"\\]*+)*+")?|[][{},:]', re.DOTALL)
_QUOTE, _COMMA, _COLON, _OPEN_ARRAY, _OPEN_OBJECT, _CLOSE_ARRAY, _CLOSE_OBJECT = b'",:[{]}'
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Shape(Enum):
    AUTO = "auto"
    """An array when it begins like one, else lines."""
    ARRAY = "array"
    LINES = "lines"
    VALUES = "values"


class BadCollection(HeadraceError):
    """The message says which payload, and where it stands."""


def read_collection(chunks: Iterable[bytes], shape: Shape = Shape.AUTO) -> Iterator[bytes]:
    """The payloads of a stream of bytes. Raises BadCollection where it is no collection, after the payloads before."""
    stream = iter(chunks)
    head = b""
    for chunk in stream:
        head = (head + chunk).lstrip(WHITESPACE) if not head else head + chunk
        if len(head) >= len(_BYTE_ORDER_MARK):
            break
    head = head.removeprefix(_BYTE_ORDER_MARK).lstrip(WHITESPACE)
    if shape is Shape.AUTO:
        shape = Shape.ARRAY if head[:1] == b"[" else Shape.LINES
    if shape is Shape.LINES:
        return _lines(chain([head], stream))
    opening = _OPEN_ARRAY if shape is Shape.ARRAY else _OPEN_OBJECT
    if head[:1] != bytes([opening]):
        what = "an array" if shape is Shape.ARRAY else "an object"
        raise BadCollection(f"It does not begin like {what} ({chr(opening)}).")
    return _elements(chain([head[1:]], stream), keyed=shape is Shape.VALUES)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    number = 0
    rest: list[bytes] = []
    for chunk in chain(chunks, [b"\n"]):
        *whole, tail = chunk.split(b"\n")
        if not whole:
            rest.append(tail)
            continue
        whole[0] = b"".join([*rest, whole[0]])
        rest = [tail]
        for line in whole:
            number += 1
            payload = line.strip(WHITESPACE)
            if payload:
                yield _checked(payload, f"Line {number}")


def _elements(chunks: Iterator[bytes], *, keyed: bool) -> Iterator[bytes]:
    """What stands between commas, after the opening bracket up to its closing one; with `keyed`, after each key."""
    closing = _CLOSE_OBJECT if keyed else _CLOSE_ARRAY
    index = 0
    named = not keyed
    char = _COMMA
    for char, piece in _pieces(chunks):
        payload = piece.strip(WHITESPACE)
        name = f"Payload {index} (counted from 0)"
        if char == _COLON and not named and payload[:1] == b'"':
            _checked(payload, f"The key of payload {index} (counted from 0)")
            named = True
            continue
        if char not in {_COMMA, closing}:
            raise BadCollection(f"{name} is not JSON: unexpected {chr(char)} after it.")
        if char == closing and index == 0 and not payload and named is not keyed:
            continue  # an empty collection
        if not named:
            raise BadCollection(f"{name} has no key.")
        yield _checked(payload, name)
        index += 1
        named = not keyed
    if char != closing:
        raise BadCollection(f"It ends too early, in payload {index} (counted from 0): no {chr(closing)} closes it.")


def _pieces(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each comma, colon and the closing bracket that is not inside of anything, with the text before it."""
    text = b""
    begin = at = depth = 0
    for chunk in chunks:
        text, at, begin = text[begin:] + chunk, at - begin, 0
        for token in _TOKEN.finditer(text, at):
            char = text[token.start()]
            if char == _QUOTE and len(token[0]) == 1:
                break  # the string's end is still to come: look at it again then
            at = token.end()
            if char in b"[{":
                depth += 1
            elif depth:
                depth -= char in b"]}"
            elif char != _QUOTE:
                yield char, text[begin : token.start()]
                begin = at
                if char in b"]}":
                    _nothing_in(chain([text[at:]], chunks))
                    return


def _nothing_in(rest: Iterable[bytes]) -> None:
    for chunk in rest:
        if chunk.strip(WHITESPACE):
            raise BadCollection("Something follows the collection's end.")


def _checked(payload: bytes, name: str) -> bytes:
    try:
        if not payload.isascii():
            payload.decode()
        check_value(payload)
    except BadJson as bad:
        raise BadCollection(f"{name} is not JSON: {bad.what} at byte {bad.position} of it.{bad.hint}") from None
    except UnicodeDecodeError as error:
        raise BadCollection(f"{name} is not UTF-8: {error.reason} at byte {error.start} of it.") from None
    return payload
