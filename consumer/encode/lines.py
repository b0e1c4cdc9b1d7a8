"""Formats of a line a record, compressed as a whole: jsonl, and the indexes of FORMAT=object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from consumer.encode.compression import Coder, Compression, coder_bytes, compress
from consumer.encode.form import Format, Packed, Place
from consumer.encode.jsonl import line_blocks
from consumer.encode.objects import index_lines
from headrace.objects import INDEX, payload_stem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.record import Record

_COMPRESSED: Final[dict[Compression, tuple[str, str]]] = {
    # compression: (suffix, content type)
    "zstd": (".zst", "application/zstd"),
    "gzip": (".gz", "application/gzip"),
}

_WORTH: Final = 2
"""A coder is for so many times the memory that it needs itself."""


@dataclass(frozen=True, slots=True)
class Lines(Format):
    """FORMAT=jsonl: an object is the lines of its records, each the lossless envelope of consumer/encode/jsonl."""

    compression: Compression
    level: int
    bare_suffix: ClassVar[str] = "jsonl"
    bare_content_type: ClassVar[str] = "application/x-ndjson"
    in_order: ClassVar[bool] = True
    """An object is its parts one after the other, and nothing else."""

    @property
    def suffix(self) -> str:
        return self.bare_suffix + (_COMPRESSED[self.compression][0] if self.compression in _COMPRESSED else "")

    @property
    def content_type(self) -> str:
        return _COMPRESSED[self.compression][1] if self.compression in _COMPRESSED else self.bare_content_type

    def encode(self, records: Sequence[Record]) -> list[bytes]:
        return line_blocks(records)

    def compress(self, parts: list[bytes]) -> bytes:
        """The whole body out of its encoded parts, which are let go one by one: the list is empty afterwards."""
        return compress(parts, self.compression, self.level)

    @property
    def press_bytes(self) -> int:
        if not self.in_order or self.compression == "none":
            return 0
        return _WORTH * coder_bytes(self.compression, self.level)

    def coder(self) -> Coder:
        assert self.compression != "none"
        return Coder(self.compression, self.level)

    def pack(self, parts: list[bytes], place: Place) -> Packed:
        del place
        return Packed(self.compress(parts))


@dataclass(frozen=True, slots=True)
class Indexed(Lines):
    """FORMAT=object: lines are how its records wait; consumer/encode/objects makes objects and an index of them."""

    one_by_one: ClassVar[bool] = True
    bare_suffix: ClassVar[str] = f"{INDEX}.jsonl"
    in_order: ClassVar[bool] = False

    def pack(self, parts: list[bytes], place: Place) -> Packed:
        stem = payload_stem(prefix="", topic=place.topic, partition=place.partition, bucket=place.bucket)
        content = self.compress([index_lines(part, stem) for part in parts])
        return Packed(content, lines=compress(parts, "none", 0))  # lets them go one by one, so that they are held once
