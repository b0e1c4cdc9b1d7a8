"""What an object holds: a format (how records become bytes) and a compression (how these become small)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from consumer.encode.compression import DEFAULT_LEVELS, LEVELS, Compression
from consumer.encode.compression import compress as compress_parts
from consumer.encode.jsonl import line_blocks
from headrace.objects import INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace.record import Record

__all__ = ["Compression", "Format", "FormatName", "open_format"]

FormatName = Literal["jsonl", "object"]

_ENCODERS: Final[dict[FormatName, tuple[Callable[[Sequence[Record]], list[bytes]], str]]] = {
    # format: (encoder, content type of what it writes)
    "jsonl": (line_blocks, "application/x-ndjson"),
    # Lines are how its records wait for their upload, too: consumer/encode/objects makes objects and an index of them.
    "object": (line_blocks, "application/x-ndjson"),
}
_SUFFIXES: Final[dict[FormatName, str]] = {"jsonl": "jsonl", "object": f"{INDEX}.jsonl"}
_COMPRESSED: Final[dict[Compression, tuple[str, str]]] = {
    # compression: (suffix, content type)
    "zstd": (".zst", "application/zstd"),
    "gzip": (".gz", "application/gzip"),
}


@dataclass(frozen=True, slots=True)
class Format:
    """How a chunk's records become an object's body: `compress([*encode(some), *encode(more), …])`.

    Neither knows anything but its arguments, and both may run in any thread, several at a time. Compression is told by
    suffix and content type; Content-Encoding stays unset, so that no HTTP client unpacks an object behind its reader's
    back.
    """

    name: FormatName
    compression: Compression
    level: int

    @property
    def suffix(self) -> str:
        """The object name's last part, without a dot before it: `jsonl.zst`."""
        return _SUFFIXES[self.name] + (_COMPRESSED[self.compression][0] if self.compression in _COMPRESSED else "")

    @property
    def one_by_one(self) -> bool:
        """Whether each payload is an object of its own, and the chunk's object an index of them."""
        return self.name == "object"

    @property
    def content_type(self) -> str:
        return _COMPRESSED[self.compression][1] if self.compression in _COMPRESSED else _ENCODERS[self.name][1]

    def encode(self, records: Sequence[Record]) -> list[bytes]:
        """These records' bytes, in parts; those of a whole chunk are all its parts, joined."""
        encoder, _ = _ENCODERS[self.name]
        return encoder(records)

    def compress(self, parts: list[bytes]) -> bytes:
        """The whole body out of its encoded parts, which are let go one by one: the list is empty afterwards."""
        return compress_parts(parts, self.compression, self.level)


def open_format(name: FormatName, compression: Compression, level: int | None = None) -> Format:
    """The format of these settings. Level None: the compression's default. Raises ValueError for an unknown one."""
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    if chosen not in LEVELS[compression]:
        known = LEVELS[compression]
        raise ValueError(f"{compression} has no level {chosen}; it has {known.start} to {known.stop - 1}")
    return Format(name, compression, chosen)
