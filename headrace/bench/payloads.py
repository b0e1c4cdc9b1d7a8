"""What the benchmark sends: events of an exact size, the same in every run, and marked ones. Pure."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST: Final = 64
"""Bytes that a payload has at least: an id must find room."""

_MARK: Final = "bench_mark"
_WORDS: Final = (
    "river",
    "stone",
    "water",
    "mill",
    "wheel",
    "grain",
    "flour",
    "bread",
    "north",
    "south",
    "market",
    "morning",
    "evening",
    "light",
    "basket",
    "blue",
    "green",
    "seven",
    "quiet",
    "narrow",
    "bridge",
    "garden",
    "window",
)


def make_payloads(count: int, size: int, seed: int = 1) -> list[bytes]:
    """`count` JSON objects of exactly `size` bytes: names that repeat, numbers and words that don't, as events have.

    The same for the same arguments. zstd makes about a quarter of them, in batches.
    """
    if size < SMALLEST:
        raise ValueError(f"a payload has at least {SMALLEST} bytes, not {size}")
    dice = random.Random(seed)  # noqa: S311 - data, no secrets
    return [_event(dice, number, size) for number in range(count)]


def _event(dice: random.Random, number: int, size: int) -> bytes:
    begin = f'{{"id":"evt-{dice.getrandbits(48):012x}","user":"user-{dice.randrange(10_000):04d}"'
    long = (
        f',"ts":"2026-11-22T01:{number // 60_000 % 60:02d}:{number // 1000 % 60:02d}.{number % 1000:03d}Z",'
        f'"type":"page_view","url":"https://example.com/products/{dice.randrange(100_000)}",'
        f'"props":{{"a":{dice.randrange(1000)},"c":[1,2,{dice.randrange(10)}],"d":true}}'
    )
    end = ',"b":"'
    if size >= len(begin) + len(long) + len(end) + 2:
        begin += long
    room = size - len(begin) - len(end) - 2
    words: list[str] = []
    length = 0
    while length < room:
        words.append(dice.choice(_WORDS))
        length += len(words[-1]) + 1
    return f'{begin}{end}{" ".join(words)[:room].ljust(room)}"}}'.encode()


def make_bodies(payloads: Sequence[bytes], a_request: int, count: int) -> list[bytes]:
    """`count` bodies for POST /payloads of `a_request` payloads each, taken in turn from `payloads`."""
    bodies = []
    for number in range(count):
        chosen = [payloads[(number * a_request + index) % len(payloads)] for index in range(a_request)]
        bodies.append(b'{"version":"1","token":"bench","data":[' + b",".join(chosen) + b"]}")
    return bodies


def marked_payload(run: str, number: int, size: int) -> bytes:
    """A payload of `size` bytes that `find_marks` knows again among others."""
    begin = f'{{"{_MARK}":"{run}-{number:08d}","pad":"'
    return f'{begin}{"." * (size - len(begin) - 2)}"}}'.encode()


def find_marks(run: str, content: bytes) -> set[int]:
    """The numbers of this run's marked payloads in `content`, whatever stands around them."""
    return {int(found) for found in re.findall(rf'"{_MARK}":"{re.escape(run)}-(\d{{8}})"'.encode(), content)}
