"""Mistakes about what is stored: where chunks end, when an upload counts, what a LIST tells."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import consumer.packer
import consumer.standing
import consumer.taking
from consumer.chunk import Bucket, OpenChunk
from consumer.packer import Packer
from consumer.taking import Taking
from consumer.uploader import Uploader
from tests.simulation.mutant import mutant, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator


@mutant("end-from-last-record", "erosion")
def end_from_last_record() -> Iterator[None]:
    """A chunk ends behind its last record, wherever the fetch has got to."""

    def take(original: Any) -> Any:
        def make(self: OpenChunk, records: Any, **rest: Any) -> int:
            count: int = original(self, records, **rest)
            if count:
                self.last = records[count - 1].offset  # type: ignore[attr-defined]
            return count

        return make

    def close(original: Any) -> Any:
        def make(self: OpenChunk) -> Any:
            if self.records:
                self.position = self.last + 1  # type: ignore[attr-defined]
            return original(self)

        return make

    with wrapped(OpenChunk, "take", take), wrapped(OpenChunk, "close", close):
        yield


@mutant("coder-forgotten")
def coder_forgotten() -> Iterator[None]:
    """What of a chunk was compressed while it was open is not in its object."""

    def press(original: Any) -> Any:
        async def make(self: Packer, bucket: Bucket) -> int:
            saved: int = await original(self, bucket)
            bucket.coder = None
            return saved

        return make

    with wrapped(Packer, "press", press):
        yield


@mutant("cancelled-upload-counted")
def cancelled_upload_counted() -> Iterator[None]:
    """An attempt that was cancelled at its deadline counts as an upload."""

    def make(original: Any) -> Any:
        async def upload(self: Uploader, *args: Any, **kwargs: Any) -> bool:
            try:
                async with asyncio.timeout(self._timeout * 0.95):
                    return bool(await original(self, *args, **kwargs))
            except TimeoutError:
                return True

        return upload

    with wrapped(Uploader, "upload", make):
        yield


@mutant("coverage-ignored", "resets")
def coverage_ignored() -> Iterator[None]:
    """What stands in S3 is not asked for."""

    async def standing(_store: Any, *, above: Any, **_: Any) -> Any:
        return {partition: [] for partition in above}

    with patch.object(consumer.taking, "standing", standing):
        yield


@mutant("no-quiet-period", "resets")
def no_quiet_period() -> Iterator[None]:
    """Where only S3 can tell, it is asked at once."""

    async def at_once(_self: Taking, _reasons: Any) -> None:
        pass

    with patch.object(Taking, "_be_quiet", at_once):
        yield


@mutant("covered-by-one-object", "resets")
def covered_by_one_object() -> Iterator[None]:
    """One object of a chunk is taken for the whole."""
    with patch.object(consumer.standing, "is_complete", lambda _present, _told: True):
        yield


@mutant("shrinking-overwrite", "erosion")
def shrinking_overwrite() -> Iterator[None]:
    """What is left of a chunk replaces what was stored of it."""

    def make(original: Any) -> Any:
        def missing_objects(layout: Any, partition: Any, offsets: Any, cargo: Any) -> Any:
            return original(layout, partition, offsets, replace(cargo, standing={}))

        return missing_objects

    with wrapped(consumer.packer, "missing_objects", make):
        yield


@mutant("below-the-log-is-whole", "claims forgotten")
def below_the_log_is_whole() -> Iterator[None]:
    """What lies below the log's start is taken for whole (as it was until the simulation found it)."""
    with (
        patch.object(consumer.taking, "_unsure_from", lambda log, need: getattr(need.committed, "start", log.start)),
        patch.object(consumer.taking, "LAST_CHUNKS", 0),
    ):
        yield


@mutant("quiet-for-two-deadlines", "cut off", seeds=3000)
def quiet_for_two_deadlines() -> Iterator[None]:
    """The wait does not count the time for which a PUT may land after it was given up (as it was, too)."""
    with patch.object(consumer.taking, "QUIET_DEADLINES", 2):
        yield
