"""Random JSON as people and enemies write it, from a random.Random alone: the same seed, the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_SPACES: Final = [b"", b"", b"", b"", b" ", b"\t", b"\r\n", b"  \n"]
_PIECES: Final = [
    b"a", b"data", b"x" * 40, "é".encode(), "\u2028€😀".encode(), b"[", b"}", b",", b":", b" ",
    rb"\"", rb"\\", rb"\/", rb"\n", rb"\u0000", rb"\u00e9", rb"\ud83d\ude00", rb"\ud800", rb"\uDFFF", rb"d\u0061ta",
]  # fmt: skip
_NUMBERS: Final = [b"0", b"1.0", b"-0", b"-12.50", b"1e5", b"1E-400", b"12345678901234567890.10", b"9" * 45, b"0.1e+9"]
_CONSTANTS: Final = [b"true", b"false", b"null", b"[]", b"{}", b'""']
_BENDS: Final = [
    b"", b"", b"]", b"[", b"}", b"{", b'"', b"\\", b",", b":", b"\xff", b"\0", b"\xc3", b"N", b"NaN", b"-", b"0", b".",
    b"\xef\xbb\xbf", b"\n", b"\r", b"1e", b"\\u", b"\\ud800", b'"data":', b'"data":[1],', b"//", b"'", b"\x1f",
    b"\xed\xa0\x80",
]  # fmt: skip


def space(rng: random.Random) -> bytes:
    return rng.choice(_SPACES)


def string(rng: random.Random) -> bytes:
    return b'"' + b"".join(rng.choices(_PIECES, k=rng.randrange(4))) + b'"'


def value(rng: random.Random, deepest: int = 4, *, gap: Callable[[random.Random], bytes] = space) -> bytes:
    """Any JSON value; `gap` makes the white space in it."""
    kind = rng.randrange(10 if deepest else 7)
    if kind < 3:
        return string(rng)
    if kind < 5:
        return rng.choice(_NUMBERS)
    if kind < 7:
        return rng.choice(_CONSTANTS)

    def inner() -> bytes:
        return gap(rng) + value(rng, deepest - 1, gap=gap) + gap(rng)

    if kind == 7:
        deep = rng.randrange(1, 300) if rng.random() < 0.05 else 1
        return b"[" * deep + b",".join(inner() for _ in range(rng.randrange(1, 4))) + b"]" * deep
    members = (gap(rng) + string(rng) + gap(rng) + b":" + inner() for _ in range(rng.randrange(1, 4)))
    return b"{" + b",".join(members) + b"}"


def collection(rng: random.Random) -> bytes:
    """A good collection. Its members may be in any order and have any names beside the one."""
    payloads = [value(rng) for _ in range(rng.choice([0, 1, 1, 2, 5, 40]))]
    array = b"[" + b",".join(space(rng) + payload + space(rng) for payload in payloads) + b"]"
    if not payloads:
        array = b"[" + space(rng) + b"]"
    members = [(rng.choice([b'"data"', b'"data"', b'"data"', rb'"d\u0061ta"']), array)]
    members += [(name, value(rng)) for name in (b'"version"', b'"token"', b'"other"') if rng.random() < 0.4]
    rng.shuffle(members)
    inside = b",".join(space(rng) + name + space(rng) + b":" + space(rng) + held + space(rng) for name, held in members)
    return space(rng) + b"{" + inside + b"}" + space(rng)


def lines(rng: random.Random) -> bytes:
    """Good lines, some of them empty; there is one at least."""
    ends = [b"\n", b"\r\n", b"\n\n", b" \n\t"]

    def no_gap(_: random.Random) -> bytes:
        return b""

    found = [value(rng, gap=no_gap) + rng.choice(ends) for _ in range(rng.choice([1, 1, 2, 5, 40]))]
    return b"".join(found).rstrip(b"\n") if rng.random() < 0.5 else b"".join(found)


def bent(rng: random.Random, body: bytes) -> bytes:
    """The body with a few bytes cut out, put in, repeated or moved."""
    begin = rng.randrange(len(body) + 1)
    end = min(len(body), begin + rng.choice([0, 0, 1, 1, 2, 8, 50]))
    match rng.randrange(6):
        case 0:
            return body[:begin]
        case 1:
            return body[:begin] + body[begin:end] * 2 + body[end:]
        case 2:
            return body[:begin] + bytes([rng.randrange(256)]) + body[begin + 1 :]
        case _:
            return body[:begin] + rng.choice(_BENDS) + body[end:]
