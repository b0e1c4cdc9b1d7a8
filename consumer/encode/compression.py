"""Compression of a whole object, piece by piece: the pieces are never joined. Called in threads; both coders let the
interpreter go on with other work meanwhile. A body that was compressed as it came has the same content as one that was
compressed at once, though not the same bytes.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, Final, Literal

import zstandard
from isal import isal_zlib

Compression = Literal["zstd", "gzip", "none"]
Codec = Literal["zstd", "gzip", "snappy", "none"]
"""What COMPRESSION may say; snappy is for formats that compress inside of their objects."""

DEFAULT_LEVELS: Final[dict[Compression, int]] = {"zstd": 1, "gzip": 2, "none": 0}
LEVELS: Final[dict[Compression, range]] = {"zstd": range(1, 20), "gzip": range(4), "none": range(1)}
"""Levels that each kind knows; isal's gzip has 0 (fastest) to 3."""

_NEAR: Final = 17
"""Level 1 looks back 128 KiB, as logarithm: what it works on stays in the processor's cache, a fifth of its time is
saved, and objects grow by 0-2 %. (By itself it looks back 512 KiB, mostly across a seam, which has a slower way.)"""
_GZIP_WRAPPER: Final = 16
_WINDOW_BITS: Final = 15


_HEAD: Final = struct.Struct("<IBB")
_LONG_HEAD: Final = struct.Struct("<IBBQ")
_ROOM: Final = _LONG_HEAD.size - _HEAD.size
_ZSTD_MAGIC: Final = 0xFD2FB528
_HAS_CHECKSUM: Final = 0x04
_EIGHT_BYTES_OF_SIZE: Final = 0xC0

_IN_AND_OUT_BYTES: Final = 2 * 128 * 1024
_GZIP_CODER_BYTES: Final = 384 * 1024


def _zstd_options(level: int, *, sized: bool) -> Any:
    near = {"window_log": _NEAR} if level == 1 else {}
    return zstandard.ZstdCompressionParameters.from_level(level, write_content_size=sized, write_checksum=True, **near)


def coder_bytes(kind: Compression, level: int) -> int:
    """Bytes of memory that a Coder holds beside what it has written, about."""
    if kind != "zstd":
        return _GZIP_CODER_BYTES
    options = _zstd_options(level, sized=False)
    context: int = options.estimated_compression_context_size()
    window: int = 1 << options.window_log
    return context + window + _IN_AND_OUT_BYTES


class Coder:
    """An object's body that is compressed while more of it comes: one zstd frame with its content's size, or one gzip
    member. Not for two threads at a time.

    zstd wants the content's size before it begins, in the frame's head, and readers want it there (`decompress` of
    Python's zstandard refuses a frame without): where it isn't known, room is left, and the head written anew when all
    is there (RFC 8878, 3.1.1.1).
    """

    def __init__(self, kind: Literal["zstd", "gzip"], level: int, size: int | None = None) -> None:
        """`size`: of all that is to come, where that is known."""
        self._idle = coder_bytes(kind, level) if size is None else 0
        self._body = BytesIO()  # unlike a list of pieces to be joined, it never holds all of them twice
        self._taken = 0
        self._coder: Any
        self._head_is_short = kind == "zstd" and size is None
        if self._head_is_short:
            self._body.write(bytes(_ROOM))
        if kind == "zstd":
            options = _zstd_options(level, sized=size is not None)
            self._coder = zstandard.ZstdCompressor(compression_params=options).compressobj(-1 if size is None else size)
        else:
            self._coder = isal_zlib.compressobj(level, wbits=_GZIP_WRAPPER + _WINDOW_BITS)

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return self._body.tell() + self._idle

    def write(self, parts: list[bytes]) -> None:
        """Compress these parts. They are let go one by one: the list is empty afterwards."""
        parts.reverse()
        while parts:
            part = parts.pop()
            self._taken += len(part)
            self._body.write(self._coder.compress(part))

    def end(self, parts: list[bytes]) -> bytes:
        """The whole body, these parts its last. Nothing may be called afterwards."""
        self.write(parts)
        self._body.write(self._coder.flush())
        if self._head_is_short:
            magic, descriptor, window = _HEAD.unpack_from(self._body.getbuffer(), _ROOM)
            assert (magic, descriptor) == (_ZSTD_MAGIC, _HAS_CHECKSUM), "a head without a size or a dictionary"
            self._body.seek(0)
            self._body.write(_LONG_HEAD.pack(magic, descriptor | _EIGHT_BYTES_OF_SIZE, window, self._taken))
        return self._body.getvalue()


def compress(parts: list[bytes], kind: Compression, level: int) -> bytes:
    """The parts, one after the other, as one zstd frame with its content's size, or one gzip member, or as they are.

    Lets the parts go as it comes to them, and leaves the list empty: memory holds a part or its compressed form, not
    both.
    """
    if kind != "none":
        return Coder(kind, level, sum(map(len, parts))).end(parts)
    body = BytesIO()
    parts.reverse()
    while parts:
        body.write(parts.pop())
    return body.getvalue()
