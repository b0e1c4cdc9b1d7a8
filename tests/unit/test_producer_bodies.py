"""Packed bodies: what comes out is what counts, what unfolds too far costs little, and nothing stays reserved."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from producer.bodies import Bodies
from producer.endpoint import headers_of
from producer.errors import Kind, Problem
from producer.inflating import BLOCK_BYTES
from producer.intake import Intake
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from starlette.types import Receive

    from producer.batches import Batch

BODY = b'{"data":[' + b",".join(b'{"n":%d}' % n for n in range(20_000)) + b"]}"
RLE_BLOCK = (BLOCK_BYTES << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
BOMB = b"\x28\xb5\x2f\xfd\x00\x58" + RLE_BLOCK * 2_500 + b"\x01\x00\x00"
"""10 KB of zstd that unfold to 328 MB."""


class Nowhere:
    def partitions(self) -> range:
        return range(1)

    def lanes(self) -> int:
        return 1

    def send(self, batch: Batch) -> None:
        raise AssertionError


def reader(**settings: object) -> tuple[Bodies, Intake]:
    checked = ProducerSettings.model_validate({"kafka_topic": "t", **settings})
    intake = Intake(checked)
    intake.open(Nowhere())
    return Bodies(checked, intake), intake


def sending(body: bytes) -> Receive:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def read(bodies: Bodies, body: bytes, encoding: str) -> bytes | None:
    headers = {b"content-encoding": encoding.encode(), b"content-length": b"%d" % len(body)}
    return await bodies.read(sending(body), headers)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("zstd", zstandard.ZstdCompressor().compress(BODY)),
        ("identity", BODY),
    ],
)
async def test_a_body_is_inflated_and_its_bytes_are_reserved(encoding: str, packed: bytes) -> None:
    bodies, intake = reader()
    assert await read(bodies, packed, encoding) == BODY
    assert (intake.budget.bytes, intake.budget.promised) == (len(BODY), 0)


@pytest.mark.parametrize(("encoding", "bomb"), [("zstd", BOMB), ("gzip", gzip.compress(b"\0" * 50_000_000, mtime=0))])
async def test_a_bomb_is_413_that_cost_little(encoding: str, bomb: bytes) -> None:
    """What is inflated of it, before it is given up, is what one body may have, and a step."""
    limit = 500_000
    bodies, intake = reader(max_inflated_bytes=limit)
    with pytest.raises(Problem):
        await read(bodies, b"", encoding)  # loads what inflates
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="MAX_INFLATED_BYTES") as refused:
            await read(bodies, bomb, encoding)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (refused.value.kind, refused.value.members) == (Kind.TOO_LONG, {"limit": limit})
    assert most < limit + 4 * BLOCK_BYTES
    assert intake.budget.bytes == 0


async def test_without_a_limit_of_its_own_what_is_inflated_may_be_as_long_as_a_body() -> None:
    bodies, intake = reader(max_length=100_000)
    assert await read(bodies, gzip.compress(b"\0" * 100_000, mtime=0), "gzip") is not None
    intake.release(100_000)
    with pytest.raises(Problem) as refused:
        await read(bodies, gzip.compress(b"\0" * 100_001, mtime=0), "gzip")
    assert refused.value.kind is Kind.TOO_LONG


async def test_no_room_for_what_is_inflated_is_503_and_gives_back_what_there_was() -> None:
    bodies, intake = reader(max_length=100_000, memory_budget_bytes=150_000)
    intake.reserve(60_000)
    with pytest.raises(Problem) as refused:
        await read(bodies, gzip.compress(b"\0" * 100_000, mtime=0), "gzip")
    assert refused.value.kind is Kind.QUEUE_FULL
    assert intake.budget.bytes == 60_000


@pytest.mark.parametrize(
    "body", [b"", b"garbage", gzip.compress(BODY, mtime=0)[:-1], gzip.compress(BODY, mtime=0) + b"more"]
)
async def test_what_is_not_packed_as_it_says_is_400(body: bytes) -> None:
    bodies, intake = reader()
    with pytest.raises(Problem) as refused:
        await read(bodies, body, "gzip")
    assert refused.value.kind is Kind.BAD_ENCODING
    assert intake.budget.bytes == 0


async def test_others_have_their_turn_while_much_is_inflated() -> None:
    bodies, _ = reader(max_inflated_bytes=10_000_000)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert await read(bodies, gzip.compress(b"\0" * 10_000_000, mtime=0), "gzip") == b"\0" * 10_000_000
    task.cancel()
    assert turns >= 10_000_000 // (16 * 65_536)


class Signed:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def check_signature(self, body: bytes) -> None:
        self.bodies.append(body)
        raise Problem(Kind.BAD_HEADER, "forged")

    def check_topic(self, topic: str) -> None:
        raise AssertionError

    def check_token(self, collection: bytes) -> None:
        raise AssertionError


async def test_what_is_signed_is_what_came_and_a_forged_bomb_is_not_inflated() -> None:
    bodies, intake = reader()
    caller = Signed()
    with pytest.raises(Problem, match="forged"):
        await bodies.read(sending(BOMB), {b"content-encoding": b"zstd"}, caller)
    assert caller.bodies == [BOMB]
    assert intake.budget.bytes == 0


@pytest.mark.parametrize(("named", "taken"), [(b"chunked", True), (b" Chunked", True), (b"gzip, chunked", False)])
async def test_what_is_packed_for_the_way_alone_is_not_taken_for_the_body(named: bytes, taken: bool) -> None:
    bodies, intake = reader()
    if taken:
        assert await bodies.read(sending(b"x"), {b"transfer-encoding": named}) == b"x"
    else:
        with pytest.raises(Problem, match="Transfer-Encoding"):
            await bodies.read(sending(b"x"), {b"transfer-encoding": named})
    assert intake.budget.bytes == taken


def test_a_header_that_stands_there_twice_is_a_list() -> None:
    once = [(b"host", b"x"), (b"content-encoding", b"gzip")]
    assert headers_of({"headers": once}) == dict(once)
    assert headers_of({"headers": [*once, (b"content-encoding", b"identity")]}) == {
        b"host": b"x",
        b"content-encoding": b"gzip, identity",
    }
