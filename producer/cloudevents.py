"""CloudEvents 1.0 become records as the Kafka protocol binding has them, in its binary content mode. Pure.

However an event came (structured, in a batch, or as HTTP headers with a body): its attributes are record headers
`ce_…`, its media type is the header `content-type`, its data is the value: the bytes that came, or the ones that
base64 or a JSON string stand for. No data is no value. The extension `partitionkey` is the key, too.
"""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from headrace.jsontext import explain, without_surrogates
from producer.errors import Kind, Problem
from producer.payloads import check_text
from producer.positions import element_at, top_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from producer.records import Headers

REQUIRED: Final = ("id", "source", "specversion", "type")
MAX_ATTRIBUTES: Final = 256
_FEW: Final = 32
_LOOKED_AT: Final = 256
_NEVER_EMPTY: Final = frozenset((*REQUIRED, "datacontenttype", "dataschema", "subject", "time"))
_NAME: Final = re.compile(r"[a-z0-9]+")
_INTEGER: Final = re.compile(rb"-?\d+")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")
_JSON_TYPE: Final = re.compile(r"[^/;]+/(?:[^;]*\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_QUOTE: Final = b'"'

_events = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


class Event(NamedTuple):
    """One record."""

    value: bytes | None
    headers: Headers
    key: bytes | None
    is_json: bool = False


def structured_event(body: bytes) -> Event:
    """The event that a body of application/cloudevents+json is. Raises Problem, and nothing else."""
    check_text(body, "Send a CloudEvent as a JSON object.")
    try:
        return _event(body, msgspec.Raw(body), None)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(body, error, in_batch=False) from None


def batched_events(body: bytes) -> list[Event]:
    """Those of a body of application/cloudevents-batch+json; there may be none."""
    check_text(body, "Send CloudEvents as a JSON array of objects.")
    try:
        return [_event(bytes(event), event, index) for index, event in enumerate(_events.decode(body))]
    except msgspec.ValidationError:
        raise Problem(
            Kind.BAD_EVENT, "The body is no array, and application/cloudevents-batch+json is one of events."
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(body, error, in_batch=True) from None


def binary_event(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Event:
    """The event of an HTTP request in binary content mode: all its headers, with names in lower case, and its body."""
    found: dict[str, bytes] = {}
    media_type: bytes | None = None
    for raw_name, raw in headers:
        if raw_name == b"content-type":
            media_type = raw
        if not raw_name.startswith(b"ce-"):
            continue
        name = raw_name[3:].decode("latin-1")
        if name in found:
            raise _bad(None, f"The header ce-{name} stands there twice", attribute=name)
        if name in {"datacontenttype", "data", "data_base64"}:
            raise _bad(None, f"There is a header ce-{name}: data is the body, its type Content-Type", attribute=name)
        found[name] = _header_value(name, raw)
    attributes = _checked(found, None)
    if media_type:
        attributes.append(("content-type", media_type))
    json = bool(body) and media_type is not None and is_json(media_type.decode("latin-1"))
    return Event(body or None, attributes, found.get("partitionkey") or None, json)


def is_json(media_type: str) -> bool:
    """Does a media type say that its content is JSON: application/json, text/json, application/anything+json?"""
    return _is_json(media_type[:_LOOKED_AT])  # what is kept of strangers' words is bounded


@lru_cache(256)
def _is_json(media_type: str) -> bool:
    return _JSON_TYPE.fullmatch(media_type.strip()) is not None


def _event(text: bytes, raw: msgspec.Raw, index: int | None) -> Event:
    try:
        members = _members.decode(raw)
    except msgspec.ValidationError:
        raise _bad(index, "It is no JSON object") from None
    _check_names(text, members, index)
    data, packed = members.pop("data", None), members.pop("data_base64", None)
    found: dict[str, bytes] = {}
    for name, value in members.items():
        attribute = _attribute(name, bytes(value), index)
        if attribute is not None:
            found[name] = attribute
    media_type = found.pop("datacontenttype", None)
    if media_type is None and data is not None:
        media_type = b"application/json"  # what it means where nothing is said, and has to be said from here on
    headers = _checked(found, index)
    if media_type is not None:
        if not media_type or _CONTROL.search(media_type):
            raise _bad(index, "Its datacontenttype is no media type", attribute="datacontenttype")
        headers.append(("content-type", media_type))
    key = found.get("partitionkey") or None
    if packed is not None and bytes(packed) != b"null":
        if data is not None:
            raise _bad(index, "It has data and data_base64, and may have one of them", attribute="data_base64")
        return Event(_unpacked(bytes(packed), index), headers, key)
    if data is None or media_type is None:
        return Event(None, headers, key)
    json = is_json(media_type.decode())
    return Event(_data(bytes(data), json=json), headers, key, json)


def _check_names(text: bytes, members: dict[str, msgspec.Raw], index: int | None) -> None:
    """A member that stands there twice would be lost once. Most events show without a closer look that none does."""
    if len(members) > MAX_ATTRIBUTES:
        raise _bad(index, f"It has {len(members)} members, and {MAX_ATTRIBUTES} are taken")
    if (
        len(members) <= _FEW  # each of them is one look at the whole text
        and b"\\u00" not in text
        and all(text.count(b'"%b"' % name.encode()) == 1 for name in members)
    ):
        return
    seen: set[str] = set()
    for name in top_names(text):
        if name in seen:
            raise _bad(index, f'It names "{name}" more than once', attribute=name)
        seen.add(name)


def _attribute(name: str, text: bytes, index: int | None) -> bytes | None:
    """An attribute's canonical string; None when it is not set."""
    if text == b"null":
        return None
    if text.startswith(_QUOTE):
        return text[1:-1] if b"\\" not in text else _string.decode(text).encode()
    if text in {b"true", b"false"} or _INTEGER.fullmatch(text):
        if name in _NEVER_EMPTY:
            raise _bad(index, f'Its "{name}" is no string', attribute=name)
        return text
    raise _bad(index, f'Its "{name}" is neither a string nor an integer nor a boolean', attribute=name)


def _data(text: bytes, *, json: bool) -> bytes:
    """JSON as it came; a string that stands for text of another type is that text."""
    if text.startswith(_QUOTE) and not json:
        return text[1:-1] if b"\\" not in text else _string.decode(text).encode()
    return text


def _unpacked(text: bytes, index: int | None) -> bytes:
    if text.startswith(_QUOTE):
        try:
            return binascii.a2b_base64(_string.decode(text).encode(), strict_mode=True)
        except binascii.Error as error:
            raise _bad(index, f"Its data_base64 is not base64 ({error})", attribute="data_base64") from None
    raise _bad(index, "Its data_base64 is no string", attribute="data_base64")


def _header_value(name: str, raw: bytes) -> bytes:
    """Unquoted, and then percent-decoded once (HTTP binding, 3.1.3.2)."""
    value = raw.strip(b" \t")
    if _QUOTED.fullmatch(value):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1], flags=re.DOTALL)
    value = unquote_to_bytes(value)
    try:
        value.decode()
    except UnicodeDecodeError:
        raise _bad(None, f"The header ce-{name} is not UTF-8", attribute=name) from None
    return value


def _checked(found: dict[str, bytes], index: int | None) -> Headers:
    """The attributes as record headers."""
    for name in REQUIRED:
        if name not in found:
            raise _bad(index, f'It has no "{name}"', attribute=name)
    if found["specversion"] != b"1.0":
        version = found["specversion"].decode()
        raise _bad(
            index, f'Its specversion is "{version[:20]}", and 1.0 is what is known here', attribute="specversion"
        )
    headers: Headers = []
    for name, value in found.items():
        if not _NAME.fullmatch(name):
            raise _bad(index, f"Its attribute {name!r:.100} is no name: lower-case letters and digits", attribute=name)
        if not value and name in _NEVER_EMPTY:
            raise _bad(index, f'Its "{name}" is empty', attribute=name)
        if _CONTROL.search(value):
            raise _bad(index, f'Its "{name}" has control characters', attribute=name)
        headers.append((f"ce_{name}", value))
    return headers


def _bad(index: int | None, what: str, **members: str) -> Problem:
    which = "The body is no CloudEvent" if index is None else f"Event {index} (counted from 0) is no CloudEvent"
    where = {} if index is None else {"index": index}
    return Problem(Kind.BAD_EVENT, f"{which}. {what}.", **where, **members)


def _not_json(body: bytes, error: msgspec.DecodeError | RecursionError, *, in_batch: bool) -> Problem:
    if isinstance(error, RecursionError):
        return Problem(Kind.NOT_JSON, "The body is nested too deep to be read.")
    bad = explain(body, error)
    index = element_at(body, bad.position) if in_batch else None
    where = "" if index is None else f", in event {index} (counted from 0)"
    members = {} if index is None else {"index": index}
    what = f"{bad.what} at byte {bad.position}{where}.{bad.hint}"
    if without_surrogates(body) is not None:
        what += " Half of a surrogate pair (such as \\ud800 alone) is nothing that a CloudEvent may have."
    return Problem(Kind.NOT_JSON, f"The body is not JSON: {what}", byte=bad.position, **members)
