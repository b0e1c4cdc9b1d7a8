"""JSON as text that nobody may change: is it right, and if not, where. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

WHITESPACE: Final = b" \t\r\n"

_BYTE = re.compile(r" \(byte (\d+)\)$")
_SURROGATE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NOT_A_NUMBER = re.compile(rb"-?(?:NaN|Inf(?:inity)?)", re.IGNORECASE)
_value = msgspec.json.Decoder(msgspec.Raw)


class BadJson(ValueError):
    """Text that is no JSON value: `what` is wrong with it, at which byte (`position`), and perhaps a hint."""

    def __init__(self, what: str, position: int, hint: str = "") -> None:
        super().__init__(f"{what} at byte {position}.{hint}")
        self.what = what
        self.position = position
        self.hint = hint


def check_value(text: bytes) -> None:
    """Raises BadJson unless the text is exactly one JSON value; its UTF-8 is not looked at."""
    try:
        _value.decode(text)
    except msgspec.DecodeError as error:
        paired = without_surrogates(text)
        if paired is None:
            raise explain(text, error) from None
        check_value(paired)
    except RecursionError:
        raise BadJson("it is nested too deep to be read", 0) from None


def explain(text: bytes, error: msgspec.DecodeError) -> BadJson:
    """What msgspec found wrong with a text."""
    message = str(error).removeprefix("JSON is malformed: ")
    found = _BYTE.search(message)
    if found is None:
        return BadJson("it ends too early", len(text))
    position = int(found[1]) - message.startswith("trailing characters")  # there msgspec counts one too far
    begin = max(position - 1, 0) if text[max(position - 1, 0) : position] == b"-" else position
    word = _NOT_A_NUMBER.match(text, begin)
    hint = f" JSON has no {word[0].decode()}; send null or a string." if word else ""
    return BadJson(message[: found.start()], position, hint)


def without_surrogates(body: bytes) -> bytes | None:
    r"""The body with each surrogate escape (\ud800 to \udfff) made an A, as long as before; None when there is none.

    A lone one is good JSON (RFC 8259, section 8.2), but msgspec does not take it: what it checks is this copy.
    """
    paired, count = _SURROGATE.subn(rb"\1\\u0041", body)
    return paired if count else None
