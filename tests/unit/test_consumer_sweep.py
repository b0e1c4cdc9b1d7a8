"""Which unfinished uploads are aborted, and when it is looked again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from consumer.sweep import AGAIN_SECONDS, EVERY_SECONDS, Sweep, is_ours
from headrace.objects import all_folders
from headrace.s3 import S3Refused, S3Unavailable, UnfinishedUpload, Uploads
from tests.fakes import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

U = 10.0
OURS = "p/t/dt=2026-11-22/hour=01/t-00000-00000000000000000000-00000000000000000500.jsonl.zst"
PAYLOAD = "p/_payloads/t/dt=2026-11-22/hour=01/t-00000-00000000000000000007.json"
BESIDE = "p/_beside/t/dt=2026-11-22/hour=01/t-00000-00000000000000000000-00000000000000000500.3.jsonl.zst"
FOLDERS = all_folders("p", "t")


class Begun:
    """A store that knows what was begun. `errors` are raised first."""

    def __init__(self, *uploads: UnfinishedUpload, errors: tuple[Exception, ...] = ()) -> None:
        self.uploads = list(uploads)
        self.errors = list(errors)
        self.asked = 0

    async def unfinished(self, prefix: str) -> AsyncIterator[UnfinishedUpload]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        for upload in list(self.uploads):
            if upload.key.startswith(prefix):
                yield upload

    async def abort(self, upload: UnfinishedUpload) -> None:
        self.uploads.remove(upload)


def test_it_is_a_store_that_knows() -> None:
    assert isinstance(Begun(), Uploads)


async def test_only_what_is_ours_and_too_old_for_a_live_owner() -> None:
    old, young = 3 * U + 1.5, 3 * U - 1
    kept = [
        UnfinishedUpload(OURS, "young", young),
        UnfinishedUpload("p/t/backup.tar", "somebody else's", 9e9),
        UnfinishedUpload("q/t/" + OURS.rpartition("/")[2], "another prefix", 9e9),
    ]
    gone = [UnfinishedUpload(key, "x", old) for key in (OURS, PAYLOAD, BESIDE)]
    store = Begun(*gone, *kept)
    pause = await Sweep(store, FOLDERS, upload_timeout_seconds=U).once()
    assert store.uploads == kept
    assert young + pause > old - 0.5
    store.uploads = kept[1:]
    assert await Sweep(store, FOLDERS, upload_timeout_seconds=U).once() == EVERY_SECONDS


def test_whose_names_these_are() -> None:
    assert is_ours(OURS)
    assert is_ours(PAYLOAD)
    assert is_ours(BESIDE)
    assert all_folders("", "t") == ["t/", "_payloads/t/", "_beside/t/"]
    assert not is_ours("p/t/t-1.jsonl")


@in_virtual_time
async def test_a_store_that_is_away_is_asked_again() -> None:
    loop = asyncio.get_running_loop()
    store = Begun(UnfinishedUpload(OURS, "1", 9e9), errors=(S3Unavailable("503"),))
    sweeping = asyncio.create_task(Sweep(store, FOLDERS, upload_timeout_seconds=U).run())
    await asyncio.sleep(AGAIN_SECONDS + 1)
    assert store.uploads == []
    assert loop.time() < EVERY_SECONDS
    sweeping.cancel()


async def test_a_store_that_does_not_tell_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Begun(errors=(S3Refused("501 NotImplemented"),))
    await Sweep(store, FOLDERS, upload_timeout_seconds=U).run()
    assert store.asked == 1
    assert "s3:ListBucketMultipartUploads" in caplog.text
