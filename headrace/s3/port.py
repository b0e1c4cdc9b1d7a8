"""The port: what headrace asks of an S3 store, and how an answer can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime


class S3Unavailable(HeadraceError):
    """The store did not answer, or answered that it can't now. Try again."""


class S3Refused(HeadraceError):
    """The store answered no (403, no such bucket, …). Somebody has to change something; then try again.

    `code`: the store's word for it (AccessDenied, NoSuchBucket, …), or the client's where nothing was sent.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ListedObject:
    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What HEAD tells; `metadata` is the user metadata, names in lower case."""

    key: str
    size: int
    modified: datetime
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """A multipart upload that was begun and neither completed nor aborted; its parts cost money, and nobody sees them.

    `age_seconds` is told by the store's own clock.
    """

    key: str
    id: str
    age_seconds: float


class ObjectStore(Protocol):
    """Read-after-write listing is all that a store needs to promise.

    Every call raises S3Unavailable or S3Refused and nothing else of the client's.
    """

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        """Store one object, whole or not at all. On an error it may be stored all the same, now or later."""
        ...

    async def head(self, key: str) -> StoredObject | None: ...

    async def get(self, key: str) -> bytes | None: ...

    def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        """All objects below `prefix`, in the order of their keys."""
        ...


@runtime_checkable
class Uploads(Protocol):
    """A store that knows which multipart uploads are unfinished. Its calls raise what the others raise."""

    def unfinished(self, prefix: str) -> AsyncIterator[UnfinishedUpload]:
        """Uploads below `prefix` that are under way, or that somebody who died has left. A store may not know how."""
        ...

    async def abort(self, upload: UnfinishedUpload) -> None:
        """Let an upload's parts go; nothing happens where it has ended meanwhile."""
        ...
