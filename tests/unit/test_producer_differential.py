"""The splitters against the standard library's JSON: what both take is the same slices, and neither takes more."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.jsontext import BadJson, check_value
from producer.errors import Problem
from producer.payloads import split_envelope, split_lines
from tests.fuzz import oracle
from tests.fuzz.texts import bent, collection, lines

if TYPE_CHECKING:
    from collections.abc import Callable

SPLITTERS: dict[str, tuple[Callable[[bytes], list[bytes]], Callable[[bytes], list[bytes]]]] = {
    "collection": (lambda body: list(map(bytes, split_envelope(body))), oracle.collection),
    "lines": (split_lines, oracle.lines),
}


def agree(splitter: str, body: bytes) -> bool:
    """Was the body taken by both, as the same?"""
    split, told = SPLITTERS[splitter]
    try:
        payloads: list[bytes] | None = split(body)
    except Problem as problem:
        assert problem.kind.status == 400, problem  # noqa: PT017
        payloads = None
    try:
        expected: list[bytes] | None = told(body)
    except oracle.Refused:
        expected = None
    except oracle.TooDeep:
        return False
    if payloads is None and oracle.depth(body) > oracle.DEEPEST:
        return False
    assert payloads == expected
    return payloads is not None


@pytest.mark.parametrize("splitter", SPLITTERS)
@settings(max_examples=400)
@given(seed=st.integers(0, 2**32), bends=st.integers(0, 3))
def test_bodies_and_bent_ones_are_what_they_are_to_the_standard_library(splitter: str, seed: int, bends: int) -> None:
    rng = random.Random(seed)
    body = collection(rng) if splitter == "collection" else lines(rng)
    for _ in range(bends):
        body = bent(rng, body)
    taken = agree(splitter, body)
    assert taken or bends, "what was made right is taken"


@pytest.mark.parametrize("splitter", SPLITTERS)
@settings(max_examples=300)
@given(st.text('[]{}",:\\u0d8aeE+-.1 \t\n', max_size=40).map(lambda text: '{"data":' + text))
@example('{"data":[1]}')
@example(' {"d\\u0061ta":[1 , "\\ud800"]}\n')
def test_texts_of_nothing_but_syntax(splitter: str, body: str) -> None:
    agree(splitter, body.encode())


@pytest.mark.parametrize("splitter", SPLITTERS)
@given(body=st.binary(max_size=100))
def test_any_bytes(splitter: str, body: bytes) -> None:
    agree(splitter, body)


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32), bends=st.integers(0, 3))
def test_values(seed: int, bends: int) -> None:
    rng = random.Random(seed)
    body = lines(rng).partition(b"\n")[0] or b"1"
    for _ in range(bends):
        body = bent(rng, body)
    try:
        body.decode()
        expected = bool(oracle.value(body))
    except (oracle.Refused, UnicodeDecodeError):
        expected = False
    try:
        body.decode()
        check_value(body)
    except (BadJson, UnicodeDecodeError):
        assert not expected or oracle.depth(body) > oracle.DEEPEST
    else:
        assert expected or body.startswith(b"\xef\xbb\xbf")
