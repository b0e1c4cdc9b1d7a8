"""What a body's payloads are, told by the standard library's JSON alone: slow, and independent of the producer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST: Final = 400
"""What is nested no deeper than that must be taken; what is deeper may be refused."""
_WHITESPACE: Final = re.compile(r"[ \t\r\n]*")


class Refused(Exception):
    """The body is not what it should be."""


class TooDeep(Exception):
    """It may be refused or taken."""


def _no_constant(name: str) -> NoReturn:
    raise Refused(name)


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str)


def value_end(text: str, begin: int) -> int:
    """Where the JSON value ends that begins here."""
    return _scan(text, begin)[1]


def collection(body: bytes) -> list[bytes]:
    """The payloads of `{"data": […]}`. Raises Refused, or TooDeep."""
    text = _text(body)
    found: list[list[bytes]] = []
    at = _skip(text, 0)
    for key, begin, end in _members(text, at):
        if key == "data":
            if text[begin] != "[":
                raise Refused("no array")
            found.append(list(_elements(text, begin)))
        at = end
    if len(found) != 1:
        raise Refused(f"{len(found)} times data")
    return found[0]


def lines(body: bytes) -> list[bytes]:
    """One JSON value a line, empty lines aside."""
    _text(body)
    found = []
    for raw in body.split(b"\n"):
        line = raw.strip(b" \t\r")
        if line:
            value(line)
            found.append(line)
    return found


def value(body: bytes) -> bytes:
    """One JSON value, and the white space around it."""
    text = _text(body)
    end = value_end(text, _skip(text, 0))
    if _skip(text, end) != len(text):
        raise Refused("something follows")
    return body


def _text(body: bytes) -> str:
    if body.startswith(b"\xef\xbb\xbf") or not body.strip(b" \t\r\n"):
        raise Refused("a byte order mark, or nothing")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refused(str(error)) from None


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Each member's name, and where its value begins and ends. What follows the object is looked at last."""
    if text[at : at + 1] != "{":
        raise Refused("no object")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        at += 1
    else:
        while True:
            if text[at : at + 1] != '"':
                raise Refused("no name")
            key, at = _scan(text, at)
            begin = _skip(text, _expect(text, _skip(text, at), ":"))
            at = _skip(text, value_end(text, begin))
            yield key, begin, at
            if text[at : at + 1] != ",":
                at = _expect(text, at, "}")
                break
            at = _skip(text, at + 1)
    if _skip(text, at) != len(text):
        raise Refused("something follows")


def _elements(text: str, at: int) -> Iterator[bytes]:
    at = _skip(text, at + 1)
    if text[at] == "]":
        return
    while True:
        end = value_end(text, at)
        yield text[at:end].encode()
        at = _skip(text, end)
        if text[at] == "]":
            return
        at = _skip(text, at + 1)


def _scan(text: str, at: int) -> tuple[Any, int]:
    try:
        found, end = _decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise Refused(str(error)) from None
    except RecursionError:
        raise TooDeep from None
    return found, end


def _skip(text: str, at: int) -> int:
    space = _WHITESPACE.match(text, at)
    assert space is not None
    return int(space.end())


def _expect(text: str, at: int, char: str) -> int:
    if text[at : at + 1] != char:
        raise Refused(f"no {char}")
    return at + 1


def depth(body: bytes) -> int:
    """How deep brackets nest, those in strings too: never less than the depth of the values."""
    deepest = now = 0
    for char in body:
        if char in b"[{":
            now += 1
            deepest = max(deepest, now)
        elif char in b"]}":
            now -= 1
    return deepest
