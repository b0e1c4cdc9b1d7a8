"""The interface of formats: records become waiting parts, and the parts of an object become what is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.encode.compression import Coder
    from headrace.objects import Range
    from headrace.record import Record


@dataclass(frozen=True, slots=True)
class Place:
    """Whose records they are: those of one bucket of one chunk. `bucket` is its path, empty for a flat layout."""

    prefix: str
    topic: str
    partition: int
    offsets: Range
    bucket: str
    records: int


@dataclass(frozen=True, slots=True)
class Beside:
    """An object that belongs to a chunk's and is stored before it: where the one stands, the other does, too."""

    key: str
    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Packed:
    """One bucket, ready to be sent.

    `content` is the chunk's object of this bucket: the claim protocol, `verify` and takeovers look at it alone.
    `beside`: what must be stored before it. `lines`: payloads that are to be objects of their own, before it, too.
    `odd`: records that the format can't keep among the others, and keeps in `beside`.
    """

    content: bytes
    beside: Sequence[Beside] = ()
    lines: bytes = b""
    odd: int = 0


class Format(ABC):
    """How records become objects. Whoever has the same records in the same place makes the same names of them.

    Between `encode` and `pack` a record waits as bytes, which are counted and bounded. Where a format has a coder, many
    of a bucket may go there before the others are known; its end is the object then, and nothing is packed. Neither
    call knows anything but its arguments, and both may run in any thread, several at a time. Compression is told by
    suffix and content type; Content-Encoding stays unset, so that no HTTP client unpacks an object behind its reader's
    back.
    """

    one_by_one: ClassVar[bool] = False
    """Whether each payload is an object of its own, and the chunk's object an index of them."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """The object name's last part, without a dot before it: `jsonl.zst`. It tells readers all of the format."""

    @property
    @abstractmethod
    def content_type(self) -> str: ...

    @abstractmethod
    def encode(self, records: Sequence[Record]) -> list[bytes]:
        """These records' bytes, in parts; those of a whole bucket are all its parts, joined."""

    @property
    def press_bytes(self) -> int:
        """Waiting bytes that are worth a coder: it needs memory, too. 0: none are, the format has no coder."""
        return 0

    def coder(self) -> Coder:
        """A new one for a bucket's parts, of a format that has `press_bytes`."""
        raise AssertionError("a format without press_bytes has no coder")

    @abstractmethod
    def pack(self, parts: list[bytes], place: Place) -> Packed:
        """All there is to store out of a bucket's parts. They are let go one by one: the list is empty afterwards."""
