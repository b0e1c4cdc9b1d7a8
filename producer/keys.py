"""What goes along with a request's payloads: a record key, and headers. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from producer.errors import Kind, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Scope

    from producer.records import Headers
    from producer.settings import ProducerSettings

MAX_KEY_LENGTH: Final = 255
"""Bytes of an Idempotency-Key."""
MAX_RECORD_KEY_LENGTH: Final = 1_024
ALWAYS_KEPT: Final = ("traceparent", "tracestate")
SECRET: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
"""Headers that may not be kept: whoever reads the topic would have them."""
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)+")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]*")
_QUOTE: Final = b'"'

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)


def checked_header(name: str) -> str:
    """A header's name in lower case. Raises ValueError for one that no header can have, or that may not be kept."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if name.lower() in SECRET:
        raise ValueError(f"{name} is a credential, which everybody who reads the topic would have")
    return name.lower()


class Tags(NamedTuple):
    """What a request's head says of its records."""

    key: bytes | None
    headers: Headers


NO_TAGS: Final = Tags(None, [])


class Tagging:
    """Reads tags off requests' heads, as KEY_HEADER, KEY_QUERY and HEADERS_KEPT say.

    Names in settings are in lower case. A key in the query goes before one in a header. Either goes before what the
    payload itself says (KEY_POINTER, or the `partitionkey` of a CloudEvent).
    """

    def __init__(self, settings: ProducerSettings) -> None:
        self._key_header = settings.key_header.encode()
        self._key_query = settings.key_query
        self._kept = frozenset(name.encode() for name in (*ALWAYS_KEPT, *settings.headers_kept))
        self._looked_for = self._kept | {b"idempotency-key", self._key_header}
        self.has_none: Callable[[dict[bytes, bytes]], bool] = (
            self._looked_for.isdisjoint if self._key_query is None else lambda _: False
        )
        """Does a request with these headers surely have NO_TAGS? Most do, and need no call of Python's to know."""

    def tags(self, scope: Scope, headers: dict[bytes, bytes]) -> Tags:
        """Raises Problem for what can't be a key."""
        if self.has_none(headers):
            return NO_TAGS
        found: Headers = []
        keys: list[bytes] = []
        seen = set()
        for name, value in scope["headers"]:
            if name not in self._looked_for:
                continue
            label = name.decode("latin-1")
            if name == self._key_header:
                _check_single(label, name in seen)
                keys.append(_checked_key(value, f"The header {label}", header=label))
            if name == b"idempotency-key":
                _check_single(label, name in seen)
                _check_length(value)
            if name == b"idempotency-key" or name in self._kept:
                found.append((label, value))
            seen.add(name)
        if self._key_query is not None:
            keys[:0] = self._queried(scope.get("query_string", b""))
        return Tags(next(filter(None, keys), None), found)

    def _queried(self, query: bytes) -> list[bytes]:
        name = self._key_query
        values = [
            value
            for key, value in parse_qsl(query.decode(errors="surrogateescape"), errors="surrogateescape")
            if key == name
        ]
        if len(values) > 1:
            raise Problem(Kind.BAD_KEY, f"The query has more than one {name}, and a record has one key.")
        return [_checked_key(value.encode(errors="surrogateescape"), f"{name} in the query") for value in values]


class KeyPointer:
    """Finds each payload's key where a JSON pointer (RFC 6901) says, `/user/id` or so.

    A string is its text, a number, true or false is what stands there. Where there is nothing, or null, there is no
    key. Raises ValueError for what is no pointer.
    """

    def __init__(self, pointer: str) -> None:
        if not _POINTER.fullmatch(pointer):
            raise ValueError(f"{pointer!r} is no JSON pointer: /name/inner, with ~1 for / and ~0 for ~ in a name")
        self._pointer = pointer
        self._steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]

    def keys(self, payloads: Sequence[bytes]) -> list[bytes | None]:
        """One for each payload, all of which are good JSON. Raises Problem where one can't be a key."""
        return [self._key(payload, index) for index, payload in enumerate(payloads)]

    def _key(self, payload: bytes, index: int) -> bytes | None:
        try:
            try:
                key = self._found(payload)
            except msgspec.DecodeError:
                key = self._found_among_surrogates(payload)
        except _Unfit as unfit:
            raise self._no_key(f"has {unfit}", index) from None
        except RecursionError:
            raise self._no_key("is nested too deep to be looked into", index) from None
        if key is not None and len(key) > MAX_RECORD_KEY_LENGTH:
            raise _too_long(key, f"{self._pointer} of payload {index} (counted from 0)", index=index)
        return key or None

    def _found(self, payload: bytes) -> bytes | None:
        at: bytes | msgspec.Raw = payload
        for step in self._steps:
            begin = bytes(memoryview(at)[:1])
            if begin == b"{":
                inner = _members.decode(at).get(step)
            elif begin == b"[" and _NUMBER.fullmatch(step):
                elements = _elements.decode(at)
                inner = elements[int(step)] if len(step) < 10 and int(step) < len(elements) else None
            else:
                return None
            if inner is None:
                return None
            at = inner
        return _text(bytes(at))

    def _no_key(self, what: str, index: int) -> Problem:
        return Problem(
            Kind.BAD_KEY,
            f"Payload {index} (counted from 0) {what} at {self._pointer} (KEY_POINTER), which can't be a key.",
            index=index,
        )

    def _found_among_surrogates(self, payload: bytes) -> bytes | None:
        """Half of a surrogate pair is somewhere in it: good JSON, which msgspec does not read."""
        at: Any = json.loads(payload, parse_int=_Verbatim, parse_float=_Verbatim)
        for step in self._steps:
            if isinstance(at, dict):
                at = at.get(step)
            elif isinstance(at, list) and _NUMBER.fullmatch(step) and len(step) < 10 and int(step) < len(at):
                at = at[int(step)]
            else:
                return None
        if at is None:
            return None
        try:
            return _text(at.encode() if isinstance(at, _Verbatim) else json.dumps(at, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            raise _Unfit("half of a surrogate pair") from None


class _Verbatim(str):
    """A number as it was written."""

    __slots__ = ()


class _Unfit(Exception):
    """What stands where the key should be."""


def _text(value: bytes) -> bytes | None:
    if value.startswith(_QUOTE):
        return value[1:-1] if b"\\" not in value else _string.decode(value).encode()
    if value.startswith((b"{", b"[")):
        raise _Unfit("an object" if value.startswith(b"{") else "an array")
    return None if value == b"null" else value


def _check_single(label: str, again: bool) -> None:
    if again:
        raise Problem(Kind.BAD_HEADER, f"The header {label} stands there more than once.", header=label)


def _check_length(key: bytes) -> None:
    if len(key) > MAX_KEY_LENGTH:
        raise Problem(
            Kind.BAD_HEADER,
            f"The Idempotency-Key has {len(key)} bytes.",
            header="Idempotency-Key",
            limit=MAX_KEY_LENGTH,
        )


def _checked_key(key: bytes, what: str, **members: str) -> bytes:
    if len(key) > MAX_RECORD_KEY_LENGTH:
        raise _too_long(key, what, **members)
    if _CONTROL.search(key):
        raise Problem(Kind.BAD_KEY, f"{what} has control characters, and can't be a key.", **members)
    try:
        key.decode()
    except UnicodeDecodeError:
        raise Problem(Kind.BAD_KEY, f"{what} is not UTF-8, and can't be a key.", **members) from None
    return key


def _too_long(key: bytes, what: str, **members: Any) -> Problem:
    return Problem(
        Kind.BAD_KEY,
        f"{what} has {len(key)} bytes, and a key may have {MAX_RECORD_KEY_LENGTH}.",
        limit=MAX_RECORD_KEY_LENGTH,
        **members,
    )
