"""Compression of a whole object, piece by piece: the pieces are never joined. Called in threads; both coders let the
interpreter go on with other work meanwhile. The same input gives the same bytes.
"""

from __future__ import annotations

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


def compress(parts: list[bytes], kind: Compression, level: int) -> bytes:
    """The parts, one after the other, as one zstd frame with its content's size, or one gzip member, or as they are.

    Lets the parts go as it comes to them, and leaves the list empty: memory holds a part or its compressed form, not
    both.
    """
    coder: Any = None
    if kind == "zstd":
        near = {"window_log": _NEAR} if level == 1 else {}
        options = zstandard.ZstdCompressionParameters.from_level(
            level, write_content_size=True, write_checksum=True, **near
        )
        coder = zstandard.ZstdCompressor(compression_params=options).compressobj(size=sum(map(len, parts)))
    elif kind == "gzip":
        coder = isal_zlib.compressobj(level, wbits=_GZIP_WRAPPER + _WINDOW_BITS)
    body = BytesIO()  # unlike a list of pieces to be joined, it never holds all of them twice
    parts.reverse()
    while parts:
        part = parts.pop()
        body.write(part if coder is None else coder.compress(part))
    if coder is not None:
        body.write(coder.flush())
    return body.getvalue()
