"""Bodies of the Kafka REST proxy's v2 produce call become records: JSON as it came, or what base64 stands for. Pure."""

from __future__ import annotations

import binascii
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.jsontext import explain
from producer.errors import Kind, Problem
from producer.payloads import check_text
from producer.records import Records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.keys import Tags
    from producer.records import Headers

ANSWER_TYPE: Final = b"application/vnd.kafka.v2+json"
_LOOKED_AT: Final = 256  # bytes of a header: what is kept of strangers' words is bounded
_EXAMPLE: Final = 'Send {"records": [{"key": …, "value": …, "partition": …}, …]}; only "records" must be there.'
_UNTOLD: Final = {
    "application/vnd.kafka.v2+json",
    "application/vnd.kafka+json",
    "application/json",
    "application/octet-stream",
}
"""Types that leave open what is embedded: the proxy takes that for binary."""
_SCHEMAS: Final = {f"application/vnd.kafka.{name}.v2+json": name for name in ("avro", "protobuf", "jsonschema")}


class Embedded(Enum):
    """How keys and values stand in a body."""

    JSON = "application/vnd.kafka.json.v2+json"
    BINARY = "application/vnd.kafka.binary.v2+json"


class _Header(msgspec.Struct):
    key: str
    value: str | None = None


class _Record(msgspec.Struct):
    key: msgspec.Raw = msgspec.Raw()
    value: msgspec.Raw = msgspec.Raw()
    partition: int | None = None
    headers: list[_Header] | None = None
    timestamp: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    records: list[_Record]


_body = msgspec.json.Decoder(_Body)
_string = msgspec.json.Decoder(str)


def embedded_format(content_type: bytes) -> Embedded:
    """What a Content-Type says of keys and values. Raises Problem for what is not taken."""
    return _embedded_format(content_type[:_LOOKED_AT])


@lru_cache(256)
def _embedded_format(content_type: bytes) -> Embedded:
    name = content_type.split(b";")[0].strip().lower().decode("latin-1")
    if name in _UNTOLD:
        return Embedded.BINARY
    if name in _SCHEMAS:
        raise Problem(
            Kind.UNSUPPORTED,
            f"{name}: records with schemas ({_SCHEMAS[name]}) are not taken: there is no schema registry here. Send "
            f"them encoded, as {Embedded.BINARY.value}, or as {Embedded.JSON.value}.",
        )
    try:
        return Embedded(name)
    except ValueError:
        what = f"Content-Type {name} is" if name else "A body without a Content-Type is"
        raise Problem(
            Kind.UNSUPPORTED, f"{what} not taken here. Send {Embedded.JSON.value} or {Embedded.BINARY.value}."
        ) from None


def answer_type(accept: bytes) -> bytes:
    """The type to answer in, of those that a client takes. Raises Problem where it takes none of ours."""
    return _answer_type(accept) if len(accept) <= _LOOKED_AT else _answer_type.__wrapped__(accept)


@lru_cache(256)
def _answer_type(accept: bytes) -> bytes:
    names = [part.split(b";")[0].strip().lower() for part in accept.split(b",")]
    if any(name in {b"", b"*/*", b"application/*"} or name.startswith(b"application/vnd.kafka.") for name in names):
        return ANSWER_TYPE
    for name in names:
        if name in {b"application/vnd.kafka+json", b"application/json"}:
            return name
    raise Problem(
        Kind.NOT_ACCEPTABLE,
        f"Accept allows none of the types that are answered here. Allow {ANSWER_TYPE.decode()}, or application/json.",
    )


def split_records(body: bytes, embedded: Embedded, tags: Tags, partition: int | None = None) -> Records:
    """A body's records, with the request's headers beside their own, and its key where they have none.

    All are for one partition, if the address names one.

    JSON keys and values are views of the body, and keep it. A value of null is a tombstone, as one that is missing.
    Raises Problem, and nothing else, for any other body.
    """
    records = _decode(body)
    if not records:
        raise Problem(Kind.BAD_RECORD, f"There are no records. {_EXAMPLE}")
    partitions = _partitions(records, partition)
    own: list[Headers] | None = None
    if any(record.headers for record in records):
        own = [_own_headers(index, record.headers or ()) for index, record in enumerate(records)]
    if embedded is Embedded.JSON:
        keys, values = [_verbatim(record.key) for record in records], [_verbatim(record.value) for record in records]
    else:
        keys = [_decoded(index, "key", record.key) for index, record in enumerate(records)]
        values = [_decoded(index, "value", record.value) for index, record in enumerate(records)]
    keys = [tags.key if key is None else key for key in keys]
    has_keys = any(key is not None for key in keys)
    return Records(values, tags.headers, keys if has_keys else None, own, partitions)


def _decode(body: bytes) -> list[_Record]:
    check_text(body)
    try:
        return _body.decode(body).records
    except msgspec.ValidationError as error:
        raise Problem(Kind.BAD_RECORD, f"{error}. {_EXAMPLE}") from None
    except msgspec.DecodeError as error:
        bad = explain(body, error)
        raise Problem(
            Kind.NOT_JSON, f"The body is not JSON: {bad.what} at byte {bad.position}.{bad.hint}", byte=bad.position
        ) from None
    except RecursionError:
        raise Problem(Kind.NOT_JSON, "The body is nested too deep to be read.") from None


def _partitions(records: Sequence[_Record], all_to: int | None) -> list[int | None] | None:
    for index, record in enumerate(records):
        if _verbatim(record.timestamp) is not None:
            raise _bad(index, "has a timestamp, and Kafka's records get the time at which they come in here")
        if all_to is not None and record.partition not in {None, all_to}:
            raise _bad(index, f"names partition {record.partition}, and the address partition {all_to}")
    if all_to is not None:
        return [all_to] * len(records)
    if all(record.partition is None for record in records):
        return None
    return [record.partition for record in records]


def _verbatim(text: msgspec.Raw) -> bytes | None:
    return None if len(text) <= 4 and bytes(text) in {b"", b"null"} else text


def _decoded(index: int, what: str, text: msgspec.Raw) -> bytes | None:
    if _verbatim(text) is None:
        return None
    try:
        return binascii.a2b_base64(_string.decode(text), strict_mode=True)
    except (msgspec.ValidationError, ValueError):
        raise _bad(
            index,
            f"has a {what} that is no base64 in a string. JSON goes as Content-Type {Embedded.JSON.value}",
        ) from None


def _own_headers(index: int, headers: Sequence[_Header]) -> Headers:
    """As the Strimzi bridge has them: a name, and base64."""
    own: Headers = []
    for header in headers:
        try:
            value = None if header.value is None else binascii.a2b_base64(header.value, strict_mode=True)
        except ValueError:
            raise _bad(index, f"has a header {header.key[:80]!r} whose value is no base64") from None
        own.append((header.key, value))
    return own


def _bad(index: int, what: str) -> Problem:
    return Problem(Kind.BAD_RECORD, f"Record {index} (counted from 0) {what}.", index=index)
