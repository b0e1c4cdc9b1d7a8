"""Mistakes about names and formats: what a bucket depends on, what a cap may do, what must stand before what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from consumer.chunk import OpenChunk
from consumer.layout import Layout
from consumer.packer import Packer
from tests.simulation.mutant import mutant, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator


@mutant("bucket-of-the-fetch", kind="jsonl/field")
def bucket_of_the_fetch() -> Iterator[None]:
    """All records of a fetch go where its first and last one do, if these are the same."""

    def make(original: Any) -> Any:
        def by_bucket(self: Layout, records: Any) -> Any:
            groups = original(self, records)
            if len(records) > 2 and self.place(records[0]) == self.place(records[-1]):
                return [groups[0]._replace(records=records)]
            return groups

        return by_bucket

    with wrapped(Layout, "by_bucket", make):
        yield


@mutant("paths-by-time-alone", kind="jsonl/field")
def paths_by_time_alone() -> Iterator[None]:
    """A path that was made for one value is taken for another of the same hour."""

    def make(original: Any) -> Any:
        def keep(self: Layout, mark: Any, path: str) -> str:
            if isinstance(mark, tuple):
                self._paths[mark[0], mark[1], *[b'"fr"' for _ in mark[2:]]] = path
            return str(original(self, mark, path))

        return keep

    with wrapped(Layout, "_keep", make):
        yield


@mutant("overflow-into-the-last-bucket", kind="jsonl/key")
def overflow_into_the_last_bucket() -> Iterator[None]:
    """A chunk with all the buckets that it may have puts what comes next into the last of them."""

    def make(_: Any) -> Any:
        def within(self: OpenChunk, most: int, records: Any, groups: Any, _layout: Any) -> Any:
            last = list(self._buckets)[-1] if self._buckets else groups[0].path
            allowed = most - len(self._buckets)
            new = [group.path for group in groups if group.path not in self._buckets][max(allowed, 0) :]
            return records, [group._replace(path=last) if group.path in new else group for group in groups]

        return within

    with wrapped(OpenChunk, "_within", make):
        yield


@mutant("claimed-chunk-ends-at-the-cap", kind="jsonl/key")
def claimed_chunk_ends_at_the_cap() -> Iterator[None]:
    """Who cuts a claimed chunk again closes it where its own CHUNK_MAX_BUCKETS says."""

    def make(original: Any) -> Any:
        def take(self: OpenChunk, records: Any, *, layout: Layout, limits: Any, **rest: Any) -> int:
            if self.exact and len(records) > 1:
                paths = dict.fromkeys([*self._buckets, *map(layout.place, records)])
                if len(paths) > limits.max_buckets and records[0].offset > self.start:
                    self.limit = records[0].offset
            return int(original(self, records, layout=layout, limits=limits, **rest))

        return take

    with wrapped(OpenChunk, "take", make):
        yield


def reversed_bodies(original: Any) -> Any:
    async def bodies(self: Packer, *arguments: Any) -> Any:
        return (await original(self, *arguments))[::-1]

    return bodies


@mutant("index-before-payloads", kind="object/hours")
def index_before_payloads() -> Iterator[None]:
    """An index stands before what it tells of."""
    with wrapped(Packer, "bodies", reversed_bodies):
        yield


@mutant("lines-before-what-is-beside-them", kind="raw/hours")
def lines_before_what_is_beside_them() -> Iterator[None]:
    """Payloads stand before their offsets, keys and headers do."""
    with wrapped(Packer, "bodies", reversed_bodies):
        yield


@mutant("prefix-not-in-the-fingerprint", "layouts", kind="jsonl/hours")
def prefix_not_in_the_fingerprint() -> Iterator[None]:
    """Another prefix is not taken for another layout: what is claimed is stored there once more."""
    fingerprint = Layout.fingerprint.fget  # type: ignore[attr-defined]

    def without_prefix(self: Layout) -> str:
        return str(fingerprint(Layout("", self.object_path, self.suffix, self.isolation_level)))

    with patch.object(Layout, "fingerprint", property(without_prefix)):
        yield
