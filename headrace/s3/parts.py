"""How a body is cut into parts, and how bytes go out without being copied."""

from __future__ import annotations

import io
from typing import Any, Final

MEBIBYTE: Final = 1024 * 1024
LEAST_PART_BYTES: Final = 5 * MEBIBYTE
"""S3 refuses smaller ones, but for the last."""
PART_BYTES: Final = 16 * MEBIBYTE
"""Two seconds at 8 MB/s: a lost part is soon repeated, and its own request costs nothing beside its bytes."""
MOST_PARTS: Final = 10_000
SMALL_BYTES: Final = MEBIBYTE


def cut(size: int, threshold: int) -> list[tuple[int, int]]:
    """[start, stop) of each part, in order. No part but the last is smaller than S3 takes them."""
    length = max(min(PART_BYTES, threshold), LEAST_PART_BYTES, -(-size // MOST_PARTS))
    return [(start, min(start + length, size)) for start in range(0, size, length)]


class Sent(io.BytesIO):
    """A body on its way. aiohttp asks for its buffer to learn its length; a plain BytesIO copies itself for that."""

    def getbuffer(self) -> memoryview:
        return memoryview(self.getvalue())


def ask_for_long_ones(params: dict[str, Any], **_: object) -> None:
    """Botocore's event before a call: no `Expect: 100-continue` for a small body.

    It waits for one answer more, which takes as long as the upload itself where the store is far away. Worth it for a
    long one, which is not sent at all where it would be refused.
    """
    body = params.get("body")
    if isinstance(body, Sent) and len(body.getbuffer()) <= SMALL_BYTES:
        params["headers"].pop("Expect", None)


class SentPart(io.BytesIO):
    """A piece of a body on its way, which is not copied out of it: the client reads some 64 KiB at a time."""

    def __init__(self, body: bytes, start: int, stop: int) -> None:
        super().__init__()
        self._view = memoryview(body)[start:stop]
        self._at = 0

    def getbuffer(self) -> memoryview:
        return self._view[:]  # whoever asks releases it

    def read(self, size: int | None = -1, /) -> bytes:
        stop = len(self._view) if size is None or size < 0 else self._at + size
        piece = bytes(self._view[self._at : stop])
        self._at += len(piece)
        return piece

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = max(0, base + position)
        return self._at

    def tell(self) -> int:
        return self._at
