"""Compressed bodies, inflated step by step: what a step gives is bounded, whatever its input says. Pure.

isal inflates gzip and deflate three times as fast as zlib. Both it and zstandard are loaded when the first such body
comes.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_BYTES: Final = 65_536
"""What a step of gzip or deflate gives at most."""
BLOCK_BYTES: Final = 128 * 1024
"""What a block of zstd may hold (RFC 8878, 3.1.1.2.4); a step gives no more than two."""
MAX_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Of zstd: senders are to use no more in HTTP (RFC 9659)."""
MAX_MEMBERS: Final = 1_024
"""gzip members or zstd frames in a body. Each costs the same to begin with, and need not give a byte."""
_SLICE_BYTES: Final = 16_384  # what is left over of a slice is copied at each step
_LOOKED_AT: Final = 256  # bytes of a Content-Encoding: what is kept of strangers' words is bounded
_SKIPPABLE: Final = 0x184D2A50
_RLE: Final = 1
_COMPRESSED: Final = 2


_spare: Final[list[Any]] = []
"""A context of zstd that nobody inflates with: making one costs more than a small body."""


class Coding(Enum):
    GZIP = "gzip"
    DEFLATE = "deflate"
    ZSTD = "zstd"


ACCEPTED: Final = ", ".join(coding.value for coding in Coding)


class BadPacking(ValueError):
    """Bytes that are not what their coding says; the message tells what is wrong with them."""


def coding_of(content_encoding: bytes) -> Coding | None:
    """What a Content-Encoding names; None for `identity` alone. Raises ValueError for what can't be inflated here."""
    if len(content_encoding) > _LOOKED_AT:
        raise ValueError(f"{len(content_encoding)} bytes")
    return _coding_of(content_encoding)


@lru_cache(256)
def _coding_of(content_encoding: bytes) -> Coding | None:
    names = [name.strip().lower() for name in content_encoding.decode("latin-1").split(",")]
    named = [name.removeprefix("x-") for name in names if name not in {"", "identity"}]
    if not named:
        return None
    (name,) = named
    return Coding(name)


def inflate(coding: Coding, packed: bytes) -> Iterator[bytes]:
    """The bytes that were packed, in pieces of at most 2 BLOCK_BYTES; a piece may be empty.

    All of `packed` is used: several gzip members or zstd frames follow each other. Raises BadPacking where it is not
    whole or not right, after the pieces before.
    """
    if coding is Coding.ZSTD:
        return _inflate_zstd(memoryview(packed))
    wbits = 31 if coding is Coding.GZIP else _deflate_wbits(packed)
    return _inflate_members(memoryview(packed), wbits, coding)


def _deflate_wbits(packed: bytes) -> int:
    """`deflate` is the zlib format (RFC 9110, 8.4.1.2), but some send it without zlib's two bytes and sum."""
    is_zlib = len(packed) > 1 and packed[0] & 0x0F == 8 and (packed[0] << 8 | packed[1]) % 31 == 0
    return 15 if is_zlib else -15


def _inflate_members(packed: memoryview, wbits: int, coding: Coding) -> Iterator[bytes]:
    from isal import isal_zlib

    damaged: Any = isal_zlib.error  # IsalError: untyped
    at = members = 0
    while at < len(packed) or not members:
        members += 1
        if members > 1 and coding is not Coding.GZIP:
            raise BadPacking("something follows its end")
        if members > MAX_MEMBERS:
            raise BadPacking(f"it has more than {MAX_MEMBERS} gzip members")
        inflater: Any = isal_zlib.decompressobj(wbits)
        rest: Any = b""
        while not inflater.eof:
            if not rest:
                rest, at = packed[at : at + _SLICE_BYTES], at + _SLICE_BYTES
            ends = not len(rest)
            try:
                piece = inflater.decompress(rest, STEP_BYTES)
            except damaged as error:
                what = "what follows its end is no gzip member" if members > 1 else "it is damaged"
                raise BadPacking(f"{what} ({error})") from None
            rest = inflater.unconsumed_tail
            if ends and not piece and not inflater.eof:
                raise BadPacking("it ends too early")
            yield piece
        at = min(at, len(packed)) - len(inflater.unused_data)


def _inflate_zstd(packed: memoryview) -> Iterator[bytes]:
    import zstandard

    at = frames = 0
    while at < len(packed) or not frames:
        frames += 1
        if frames > MAX_MEMBERS:
            raise BadPacking(f"it has more than {MAX_MEMBERS} zstd frames")
        if len(packed) - at >= 8 and int.from_bytes(packed[at : at + 4], "little") & ~0xF == _SKIPPABLE:
            at += 8 + int.from_bytes(packed[at + 4 : at + 8], "little")
            if at > len(packed):
                raise BadPacking("it ends too early")
            yield b""
            continue
        try:
            has_sum = zstandard.get_frame_parameters(packed[at : at + 18]).has_checksum
            end = at + zstandard.frame_header_size(packed[at : at + 18])
            context = _spare.pop() if _spare else zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            inflater = context.decompressobj()
            is_last = False
            while not is_last:
                end, is_last = _blocks(packed, end)
                if is_last and has_sum:
                    end += 4
                if end > len(packed):
                    raise BadPacking("it ends too early")
                yield inflater.decompress(packed[at:end])
                at = end
            _spare[:] = [context]
        except zstandard.ZstdError as error:
            raise BadPacking(f"it is damaged ({error})") from None


def _blocks(packed: memoryview, at: int) -> tuple[int, bool]:
    """Where blocks end that together hold up to BLOCK_BYTES, or one that does; and is a frame's last one among them?

    What is beyond the end of `packed` is not there yet to be looked at: the answer may be beyond it.
    """
    held = 0
    while at + 3 <= len(packed):
        header = packed[at] | packed[at + 1] << 8 | packed[at + 2] << 16
        size, kind = header >> 3, header >> 1 & 3
        holds = size if kind < _COMPRESSED else BLOCK_BYTES
        if held and held + holds > BLOCK_BYTES:
            return at, False
        held += holds
        at += 4 if kind == _RLE else 3 + size
        if header & 1:
            return at, True
    return at + 3, False
