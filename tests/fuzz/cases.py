"""What is sent on a connection, and what has to come of it: all from a seed and a number."""

from __future__ import annotations

import base64
import gzip
import random
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

import zstandard

from tests.fuzz import oracle, texts

if TYPE_CHECKING:
    from collections.abc import Callable

Payloads = list[bytes | None]

MAX_LENGTH: Final = 150_000
"""As the producer is told."""


class Fate(Enum):
    """What may become of a request that is answered."""

    TAKEN = "taken"
    REFUSED = "refused"
    EITHER = "either"
    """Nothing in between: all of it, or a refusal."""


class Ending(Enum):
    """What the client does when it has sent all."""

    WAIT = "wait"
    HALF_CLOSE = "half-close"
    CLOSE = "close"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Expected:
    """One request: its Idempotency-Key marks its records."""

    mark: str
    fate: Fate
    payloads: Payloads | None = None
    """The values of its records, in order; None: not known here."""
    source: bytes = b""
    """Its body before it was packed or cut to chunks."""
    is_keyed: bool = False
    """Its records may go to several partitions, and its answer says where."""


@dataclass(slots=True)
class Case:
    number: int
    stream: bytes = b""
    expected: list[Expected] = field(default_factory=list)
    is_http: bool = True
    """Is all of it well-formed HTTP, so that each request has to be answered?"""
    cuts: list[int] = field(default_factory=list)
    """Where the stream is cut into writes."""
    ending: Ending = Ending.WAIT


Body = tuple[bytes, bytes, Fate, Payloads | None]
"""Media type, body, and what becomes of it."""

PACKERS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": lambda body: gzip.compress(body, 1, mtime=0),
    b"x-gzip": lambda body: b"".join(gzip.compress(part, 1, mtime=0) for part in (body[:5], b"", body[5:])),
    b"deflate": zlib.compress,
    b"Deflate": lambda body: zlib.compress(body, wbits=-15),
    b"zstd": zstandard.ZstdCompressor().compress,
}
HOSTILE_HEADS: Final = [
    b"Content-Length: 10\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 10",
    b"Content-Length: 10\r\nContent-Length: 11",
    b"Content-Length: 10, 10",
    b"Content-Length: +10",
    b"Content-Length: -1",
    b"Content-Length: 1e1",
    b"Content-Length: 0x10",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length:",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"X-Long: " + b"x" * 200_000,
    b"\r\n".join(b"X-%d: y" % number for number in range(20_000)),
    b"X-Null: a\0b",
    b"No colon here",
    b" Folded: x",
    b"X Y: z",
    b": empty name",
]
"""With these a request has no body that all agree about: never taken."""
BAD_CHUNKS: Final = [
    b"0x5\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b"5 5\r\nhello\r\n",
    b"fffffffffffffffff\r\nhello",
    b"g\r\nhello\r\n",
    b"5\r\nhelloworld\r\n",
    b"5\rhello\r\n",
    b"\r\n",
    b"5;\0\r\nhello\r\n",
]
GARBAGE: Final = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /payloads\r\n\r\n{}",
    b"\0" * 100,
    b"\r\n" * 50,
    b"SSH-2.0-x\r\n",
    b"{" * 200,
]


def case(seed: int, number: int) -> Case:
    rng = random.Random(f"{seed}/{number}")
    made = Case(number)
    kind = rng.random()
    if kind < 0.06:
        _garbage(rng, made)
    elif kind < 0.22:
        _hostile(rng, made)
    else:
        for index in range(rng.choice([1, 1, 1, 2, 3, 8])):
            _request(rng, made, f"{number}.{index}")
        if kind < 0.32:
            made.stream = made.stream[: rng.randrange(len(made.stream))]
            made.is_http = False
            made.ending = rng.choice(list(Ending))
        elif kind < 0.42:
            made.stream = texts.bent(rng, made.stream)
            made.is_http = False
            made.ending = rng.choice(list(Ending))
        elif rng.random() < 0.05:
            made.ending = rng.choice(list(Ending))
            made.is_http = False  # it may go before it is answered
    made.cuts = _cuts(rng, len(made.stream))
    return made


def _garbage(rng: random.Random, made: Case) -> None:
    made.stream = rng.choice([*GARBAGE, rng.randbytes(rng.randrange(1, 3_000))])
    made.is_http = False
    made.ending = rng.choice(list(Ending))


def _hostile(rng: random.Random, made: Case) -> None:
    """A good request or none, then one that can't be taken, then a good one that may or may not be seen."""
    if rng.random() < 0.3:
        _request(rng, made, f"{made.number}.first")
    mark = f"{made.number}.hostile"
    head = b"POST /payloads HTTP/1.1\r\nHost: x\r\nIdempotency-Key: %b\r\n" % mark.encode()
    body = b'{"data":["hostile"]}'
    if rng.random() < 0.3:
        framing = b"Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n" % (len(body), body) + rng.choice(BAD_CHUNKS) + b"0\r\n\r\n"
    else:
        framing = rng.choice(HOSTILE_HEADS)
        if b"Content-Length" not in framing and b"Transfer-Encoding" not in framing:
            framing += b"\r\nContent-Length: %d" % len(body)
    made.stream += head + framing + b"\r\n\r\n" + body
    made.expected.append(Expected(mark, Fate.REFUSED))
    if rng.random() < 0.5:
        _request(rng, made, f"{made.number}.last")
    made.is_http = False
    made.ending = rng.choice([Ending.WAIT, Ending.HALF_CLOSE])


def _request(rng: random.Random, made: Case, mark: str) -> None:
    """A well-formed request, whatever its body is."""
    path, make = rng.choice(_ENDPOINTS)
    media_type, body, fate, payloads = make(rng)
    source = body
    headers = [(b"Host", b"x"), (b"Idempotency-Key", mark.encode())]
    if media_type:
        headers.append((b"Content-Type", media_type))
    if rng.random() < 0.25:
        coding, pack = rng.choice(list(PACKERS.items()))
        if len(body) > MAX_LENGTH:
            fate, payloads = Fate.REFUSED, None
        body = pack(body)
        if rng.random() < 0.3:
            damaged = body[:-1] if rng.random() < 0.5 else texts.bent(rng, body)
            fate, payloads = (Fate.EITHER, None) if damaged != body else (fate, payloads)
            body = damaged
        headers.append((b"Content-Encoding", coding))
    elif rng.random() < 0.02:
        headers.append((b"Content-Encoding", b"br"))
        fate, payloads = Fate.REFUSED, None
    if rng.random() < 0.2:
        headers.append((b"X-Kafka-Key", rng.choice([b"a", b"b", "é".encode(), b"k" * 1_000])))
    if rng.random() < 0.03:
        headers.append((b"X-Kafka-Key", rng.choice([b"\xff", b"k" * 1_025, b"a\tb"])))
        fate, payloads = Fate.REFUSED, None
    if rng.random() < 0.2:
        headers.append((b"Traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    if len(body) > MAX_LENGTH:
        fate, payloads = Fate.REFUSED, None
    if rng.random() < 0.02:
        path = rng.choice([b"/nowhere", b"/payloads/", b"*", b"//events", b"/payloads%20"])
        fate, payloads = Fate.REFUSED, None
    made.stream += _framed(rng, path, headers, body)
    made.expected.append(Expected(mark, fate, payloads, source, is_keyed=path == TOPIC_PATH))


def _rest_body(rng: random.Random) -> Body:
    """Kafka's REST proxy's: records with keys of several partitions are a transaction."""
    records: list[bytes] = []
    values: Payloads = []
    as_json = rng.random() < 0.6
    for _ in range(rng.choice([1, 1, 2, 6])):
        members = []
        value: bytes | None = texts.value(rng) if as_json else rng.randbytes(rng.randrange(30))
        if rng.random() < 0.1:
            value = None
        if value is not None:
            members.append(b'"value":' + (value if as_json else b'"' + base64.b64encode(value) + b'"'))
        if rng.random() < 0.3:
            key = rng.choice([b'"a1"', b'"bb12"', b'"c123"', b"null"])  # in base64, too
            members.append(b'"key":' + key)
        elif rng.random() < 0.1:
            members.append(b'"partition":%d' % rng.randrange(3))
        rng.shuffle(members)
        records.append(b"{" + b" , ".join(members) + b"}")
        values.append(None if value == b"null" and as_json else value)
    body = b'{"records":[' + b",".join(records) + b"]}"
    media_type = b"application/vnd.kafka.json.v2+json" if as_json else b"application/vnd.kafka.binary.v2+json"
    if rng.random() < 0.3:
        return media_type, texts.bent(rng, body), Fate.EITHER, None
    lonely = b"\\ud800" in body or b"\\uDFFF" in body
    odd = lonely or (b'"a1"' in body and not as_json)
    return media_type, body, Fate.EITHER if odd else Fate.TAKEN, None if odd else values


def _payloads_body(rng: random.Random) -> Body:
    in_lines = rng.random() < 0.35
    body = texts.lines(rng) if in_lines else texts.collection(rng)
    if rng.random() < 0.03:
        body = b" " * rng.choice([MAX_LENGTH - 100, MAX_LENGTH, 2 * MAX_LENGTH]) + body
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        body = texts.bent(rng, body)
    types = (
        [b"application/x-ndjson", b"application/jsonl"]
        if in_lines
        else [b"application/json", b"text/plain;a=b", b"", b"a/x+json"]
    )
    media_type = rng.choice(types)
    if media_type == b"a/x+json":
        return media_type, body, Fate.REFUSED, None
    return media_type, body, *_told(oracle.lines if in_lines else oracle.collection, body)


def _event_body(rng: random.Random) -> Body:
    kind = rng.randrange(4)
    if kind == 0:
        body = rng.randbytes(rng.choice([0, 1, 50, 5_000]))
        return rng.choice([b"image/png", b"text/plain", b""]), body, Fate.TAKEN if body else Fate.REFUSED, [body]
    if kind == 1:
        body = texts.value(rng) if rng.random() < 0.6 else texts.bent(rng, texts.value(rng))
        return b"application/json", body, *_told(lambda body: [oracle.value(body)], body)
    events, payloads = zip(*(_cloud_event(rng) for _ in range(rng.choice([1, 1, 3, 20]))), strict=True)
    if kind == 2:
        body, media_type, values = events[0], b"application/cloudevents+json", [payloads[0]]
    else:
        body, media_type, values = b"[" + b", ".join(events) + b"]", b"application/cloudevents-batch+json", [*payloads]
    if rng.random() < 0.3:
        return media_type, texts.bent(rng, body), Fate.EITHER, None
    lonely = b"\\ud800" in body or b"\\uDFFF" in body
    return media_type, body, Fate.EITHER if lonely else Fate.TAKEN, None if lonely else values


def _cloud_event(rng: random.Random) -> tuple[bytes, bytes | None]:
    members = [b'"id":"1"', b'"source":"/fuzz"', b'"specversion":"1.0"', b'"type":"t"']
    value: bytes | None = None
    match rng.randrange(4):
        case 0:
            value = texts.value(rng)
            members.append(b'"data" : ' + value)
        case 1:
            value = rng.randbytes(rng.randrange(40))
            members.append(b'"data_base64":"' + base64.b64encode(value) + b'"')
        case 2:
            value = "text é".encode()
            members += [b'"datacontenttype":"text/plain"', b'"data":"text \\u00e9"']
        case _:
            members.append(b'"number":5')
    rng.shuffle(members)
    return b"{" + b",".join(members) + b"}", value


TOPIC_PATH: Final = b"/topics/@TOPIC@"
"""The runner puts the topic's name there."""
_ENDPOINTS: Final[list[tuple[bytes, Callable[[random.Random], Body]]]] = [
    (b"/payloads", _payloads_body),
    (b"/payloads", _payloads_body),
    (b"/events", _event_body),
    (TOPIC_PATH, _rest_body),
]


def _told(told: Callable[[bytes], list[bytes]], body: bytes) -> tuple[Fate, Payloads | None]:
    try:
        payloads = told(body)
    except oracle.Refused:
        return Fate.REFUSED, None
    except oracle.TooDeep:
        return Fate.EITHER, None
    return Fate.EITHER if oracle.depth(body) > oracle.DEEPEST else Fate.TAKEN, [*payloads]


def _framed(rng: random.Random, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    if rng.random() < 0.35:
        headers = [*headers, (b"Transfer-Encoding", b"chunked")]
        body = _chunked(rng, body)
    else:
        headers = [*headers, (b"Content-Length", b"%d" % len(body))]
    if rng.random() < 0.05:
        headers.append((b"Expect", b"100-continue"))
    rng.shuffle(headers)
    lines = b"".join(
        rng.choice([name, name.lower(), name.upper()]) + b":" + rng.choice([b"", b" ", b" \t"]) + value + b"\r\n"
        for name, value in headers
    )
    return b"POST " + path + b" HTTP/1.1\r\n" + lines + b"\r\n" + body


def _chunked(rng: random.Random, body: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        size = rng.choice([1, 2, 17, 4_096, 70_000]) if len(body) - at < 500 else rng.choice([300, 4_096, 70_000])
        piece = body[at : at + size]
        extension = rng.choice([b"", b"", b"", b";a=b"])
        pieces.append(rng.choice([b"%x", b"%X", b"0%x"]) % len(piece) + extension + b"\r\n" + piece + b"\r\n")
        at += size
    trailer = b"X-Trailer: 1\r\n" if rng.random() < 0.1 else b""
    return b"".join([*pieces, b"0\r\n", trailer, b"\r\n"])


def _cuts(rng: random.Random, length: int) -> list[int]:
    kind = rng.random()
    if kind < 0.5 or not length:
        return []
    if kind < 0.6 and length < 2_000:
        return list(range(1, length))
    return sorted({rng.randrange(1, length + 1) for _ in range(rng.randrange(1, 6))})
