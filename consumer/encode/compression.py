"""Compression of a whole object, piece by piece: the pieces are never joined. Called in threads; both coders let the
interpreter go on with other work meanwhile. The same input gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import zstandard
from isal import isal_zlib

if TYPE_CHECKING:
    from collections.abc import Sequence

Compression = Literal["zstd", "gzip", "none"]

DEFAULT_LEVELS: Final[dict[Compression, int]] = {"zstd": 3, "gzip": 2, "none": 0}
LEVELS: Final[dict[Compression, range]] = {"zstd": range(1, 20), "gzip": range(4), "none": range(1)}
"""Levels that each kind knows; isal's gzip has 0 (fastest) to 3."""

_GZIP_WRAPPER: Final = 16
_WINDOW_BITS: Final = 15


def compress(parts: Sequence[bytes], kind: Compression, level: int) -> bytes:
    """The parts, one after the other, as one zstd frame with its content's size, or one gzip member, or as they are."""
    if kind == "none":
        return b"".join(parts)
    coder: Any
    if kind == "zstd":
        options = zstandard.ZstdCompressionParameters.from_level(level, write_content_size=True, write_checksum=True)
        coder = zstandard.ZstdCompressor(compression_params=options).compressobj(size=sum(map(len, parts)))
    else:
        coder = isal_zlib.compressobj(level, wbits=_GZIP_WRAPPER + _WINDOW_BITS)
    pieces = [coder.compress(part) for part in parts]
    pieces.append(coder.flush())
    return b"".join(pieces)
