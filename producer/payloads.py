"""From a request's body to its payloads: slices of the very bytes that came, checked but never printed anew."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.jsontext import WHITESPACE, BadJson, check_value, explain, without_surrogates
from producer.errors import Kind, Problem
from producer.positions import index_at, names_data_twice, payload_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLE: Final = 'Send {"data": [payload, …]}, or one payload a line as application/x-ndjson.'
LINES_TYPES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
_SHALLOW: Final = 400  # what is nested deeper than the reader goes is surely deeper than this


class _Envelope(msgspec.Struct):
    data: list[msgspec.Raw]


class _Outer(msgspec.Struct):
    data: msgspec.Raw


_envelope = msgspec.json.Decoder(_Envelope)
_outer = msgspec.json.Decoder(_Outer)


def split_envelope(body: bytes) -> Sequence[bytes]:
    """The payloads of `{"version": …, "token": …, "data": [payload, …]}`; only `data` must be there.

    They are views of the body, and keep it. Raises Problem, and nothing else, for any other body.
    """
    check_text(body)
    try:
        payloads = _envelope.decode(body).data
    except msgspec.ValidationError as error:
        raise Problem(Kind.NOT_A_COLLECTION, _shape(str(error))) from None
    except msgspec.DecodeError as error:
        paired = without_surrogates(body)
        if paired is not None:
            split_envelope(paired)
            return [body[begin:end].strip(WHITESPACE) for begin, end in payload_spans(body)]
        raise _malformed(body, explain(body, error)) from None
    except RecursionError:
        raise _too_deep(index_at(body, len(body), deepest=_SHALLOW)) from None
    around = _around(body, payloads)
    if (around.count(b'"data"') != 1 or b"\\" in around) and names_data_twice(around):
        raise Problem(Kind.NOT_A_COLLECTION, 'The body names "data" more than once; one of them would be lost.')
    return payloads


def _around(body: bytes, payloads: Sequence[bytes]) -> bytes:
    """The body without the array under `data`, which has these payloads."""
    begin, end = body.find(b"["), body.rfind(b"]")
    # The array lies between these two, and is no shorter than its payloads with a comma between each two. Where there
    # is room for no more, it is all that lies there.
    if end - begin != sum(map(len, payloads)) + len(payloads):
        array = bytes(_outer.decode(body).data)
        if not body.startswith(array, begin):
            begin = body.find(array)
        end = begin + len(array) - 1
    return body[:begin] + body[end + 1 :]


def split_lines(body: bytes) -> list[bytes]:
    """The payloads of a body that has one a line; empty lines don't count. Raises Problem, and nothing else."""
    check_text(body)
    payloads: list[bytes] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        payload = line.strip(WHITESPACE)
        if not payload:
            continue
        try:
            check_value(payload)
        except BadJson as bad:
            detail = f"Line {number} is not JSON: {bad.what}.{bad.hint}"
            raise Problem(Kind.NOT_JSON, detail, index=len(payloads), line=number) from None
        payloads.append(payload)
    return payloads


def check_text(body: bytes, example: str = _EXAMPLE) -> None:
    """Raises Problem unless a body is UTF-8 without a byte order mark, and has something in it."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem(
            Kind.NOT_JSON, "The body begins with a byte order mark (EF BB BF). Send UTF-8 without it.", byte=0
        )
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            index = index_at(body, error.start)
            raise Problem(
                Kind.NOT_JSON,
                f"The body is not UTF-8: {error.reason} at byte {error.start}{_where(index)}.",
                byte=error.start,
                **_index_member(index),
            ) from None
    elif not body.strip(WHITESPACE):
        raise Problem(Kind.EMPTY_BODY, f"The body is empty. {example}")


def _shape(message: str) -> str:
    if "missing required field" in message:
        return f'The body has no "data". {_EXAMPLE}'
    got = message.rpartition("got ")[2].split("`")[1] if "got `" in message else "something else"
    if "Expected `array`" in message:
        return f'"data" is of type {got}, where an array is expected. {_EXAMPLE}'
    return f"The body is of type {got}, where an object is expected. {_EXAMPLE}"


def _malformed(body: bytes, bad: BadJson) -> Problem:
    index = index_at(body, bad.position)
    detail = f"The body is not JSON: {bad.what} at byte {bad.position}{_where(index)}.{bad.hint}"
    return Problem(Kind.NOT_JSON, detail, byte=bad.position, **_index_member(index))


def _too_deep(index: int | None) -> Problem:
    levels = sys.getrecursionlimit()
    what = "The body" if index is None else f"Payload {index} (counted from 0)"
    return Problem(
        Kind.NOT_JSON, f"{what} is nested too deep to be read (about {levels} levels are).", **_index_member(index)
    )


def _where(index: int | None) -> str:
    return "" if index is None else f", in payload {index} (counted from 0)"


def _index_member(index: int | None) -> dict[str, int]:
    return {} if index is None else {"index": index}
