"""What was packed comes out in bounded steps, byte for byte; what is damaged is told, whatever is wrong with it."""

from __future__ import annotations

import contextlib
import random
import zlib
from itertools import zip_longest
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from producer.inflating import BLOCK_BYTES, MAX_MEMBERS, BadPacking, Coding, coding_of, inflate

if TYPE_CHECKING:
    from collections.abc import Callable


def deflated(wbits: int) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        packer = zlib.compressobj(6, zlib.DEFLATED, wbits)
        return packer.compress(data) + packer.flush()

    return pack


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def streamed(data: bytes) -> bytes:
    """As a client that does not know the length yet, and flushes now and then, does it."""
    packer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    pieces = [packer.compress(data[at : at + 700]) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for at in (0, 700)]
    return b"".join([*pieces, packer.compress(data[1400:]), packer.flush()])


def skippable(data: bytes) -> bytes:
    return b"\x5a\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


PACKERS = {
    "gzip": (Coding.GZIP, deflated(31)),
    "zlib": (Coding.DEFLATE, deflated(15)),
    "raw": (Coding.DEFLATE, deflated(-15)),
    "zstd": (Coding.ZSTD, zstd),
    "streamed zstd": (Coding.ZSTD, streamed),
}
EVERY = pytest.mark.parametrize("packer", PACKERS)
NOISE = random.Random(7).randbytes(300_000)
DATA = [b"", b"x", b"\0" * 3_000_000, NOISE, (b"0123456789" * 20 + NOISE[:30]) * 2_000]


def inflated(coding: Coding, packed: bytes) -> bytes:
    pieces = list(inflate(coding, packed))
    assert all(len(piece) <= 2 * BLOCK_BYTES for piece in pieces)
    return b"".join(pieces)


@EVERY
@pytest.mark.parametrize("data", DATA, ids=len)
def test_what_was_packed_comes_out(packer: str, data: bytes) -> None:
    coding, pack = PACKERS[packer]
    assert inflated(coding, pack(data)) == data


@given(st.binary(max_size=3000), st.sampled_from(sorted(PACKERS)))
def test_whatever_it_was(data: bytes, packer: str) -> None:
    coding, pack = PACKERS[packer]
    assert inflated(coding, pack(data)) == data


@EVERY
@pytest.mark.parametrize("data", [b"", b'{"data":[1,2,3]}', NOISE[:40_000]], ids=len)
def test_what_is_cut_short_ends_too_early(packer: str, data: bytes) -> None:
    coding, pack = PACKERS[packer]
    packed = pack(data)
    for length in {*range(min(len(packed), 40)), *range(max(len(packed) - 40, 0), len(packed)), len(packed) // 2}:
        with pytest.raises(BadPacking):
            inflated(coding, packed[:length])


@EVERY
def test_what_follows_the_end_is_told(packer: str) -> None:
    coding, pack = PACKERS[packer]
    for rest in (b"x", b"\0", b"\0" * 100, b"garbage" * 10_000):
        with pytest.raises(BadPacking):
            inflated(coding, pack(b"abc") + rest)


@pytest.mark.parametrize("packer", ["gzip", "zstd", "streamed zstd"])
def test_members_and_frames_follow_each_other(packer: str) -> None:
    coding, pack = PACKERS[packer]
    parts = [b"", b"one", NOISE[:20_000], b"", b"two" * 30_000]
    assert inflated(coding, b"".join(map(pack, parts))) == b"".join(parts)
    with pytest.raises(BadPacking, match=f"more than {MAX_MEMBERS}"):
        inflated(coding, pack(b"") * (MAX_MEMBERS + 1))
    assert inflated(coding, pack(b"1") * MAX_MEMBERS) == b"1" * MAX_MEMBERS


def test_frames_that_are_to_be_skipped_are() -> None:
    assert inflated(Coding.ZSTD, skippable(b"meta") + zstd(b"data") + skippable(b"")) == b"data"
    for packed in (skippable(b"meta")[:-1], skippable(b"")[:7], b"\x50\x2a\x4d\x18\xff\xff\xff\xff"):
        with pytest.raises(BadPacking):
            inflated(Coding.ZSTD, packed)


def test_bodies_that_are_inflated_by_turns_do_not_mix() -> None:
    bodies = [bytes([65 + number]) * 400_000 + NOISE[number * 7 :] for number in range(3)]
    for _ in range(2):
        turns = zip_longest(*(inflate(Coding.ZSTD, zstd(body)) for body in bodies), fillvalue=b"")
        assert list(map(b"".join, zip(*turns, strict=True))) == bodies
        with pytest.raises(BadPacking):
            inflated(Coding.ZSTD, zstd(NOISE)[:-1])


def test_zstd_that_wants_much_memory_is_refused() -> None:
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=24)).compressobj()
    with pytest.raises(BadPacking, match="too much memory"):
        inflated(Coding.ZSTD, wide.compress(b"x" * 1000) + wide.flush())
    most = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=23)).compressobj()
    assert inflated(Coding.ZSTD, most.compress(b"x" * 1000) + most.flush()) == b"x" * 1000


def test_blocks_that_unfold_to_much_come_one_by_one() -> None:
    """4 bytes for each 128 KiB: what `decompress` would give of 4,000 bytes at once is 128 MiB."""
    frame = b"\x28\xb5\x2f\xfd\x00\x58"  # a window of 2 MiB
    block = (BLOCK_BYTES << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (0 << 3 | 1).to_bytes(3, "little")
    steps = inflate(Coding.ZSTD, frame + block * 1_000 + last)
    assert max(map(len, steps)) <= 2 * BLOCK_BYTES
    assert sum(map(len, inflate(Coding.ZSTD, frame + block * 1_000 + last))) == 1_000 * BLOCK_BYTES


@EVERY
@given(st.data())
def test_damage_is_told_or_harmless(packer: str, data: st.DataObject) -> None:
    """Nothing but BadPacking is ever raised; and where there is a checksum nothing wrong passes for right."""
    coding, pack = PACKERS[packer]
    original = data.draw(st.binary(max_size=200)) * data.draw(st.integers(1, 50))
    packed = bytearray(pack(original))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(packed)))
        packed[where : where + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = inflated(coding, bytes(packed))
    except BadPacking:
        return
    if packer in {"zlib", "gzip"}:
        # isal lets gzip's reserved flags pass, which zlib refuses; what they tell changes no content.
        if packer == "gzip" and len(packed) > 3:
            packed[3] &= 0x1F
        assert found == zlib.decompressobj(15 if packer == "zlib" else 31).decompress(packed)


@given(st.binary(max_size=300), st.sampled_from(Coding))
def test_garbage_raises_nothing_else(garbage: bytes, coding: Coding) -> None:
    with contextlib.suppress(BadPacking):
        inflated(coding, garbage)


@pytest.mark.parametrize(
    ("named", "coding"),
    [
        (b"gzip", Coding.GZIP),
        (b" X-GZIP ", Coding.GZIP),
        (b"deflate", Coding.DEFLATE),
        (b"identity, zstd", Coding.ZSTD),
        (b"identity", None),
        (b"", None),
    ],
)
def test_codings_are_known_by_name(named: bytes, coding: Coding | None) -> None:
    assert coding_of(named) is coding


@pytest.mark.parametrize("named", [b"br", b"gzip" + b",identity" * 100, b"gzip, gzip", b"gzip zstd", b"\xff"])
def test_other_codings_are_not_taken(named: bytes) -> None:
    with pytest.raises(ValueError):
        coding_of(named)
