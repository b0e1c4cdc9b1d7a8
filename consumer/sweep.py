"""Multipart uploads that a consumer who died has left: found by their names and their age, and aborted.

A kill -9 in the middle of an upload leaves parts that nobody lists, and that cost money for ever. An upload of a live
owner lasts one upload deadline U at most; only what is older than the quiet period (3 U, as in `consumer.taking`) is
touched. Even a wrong guess would lose nothing: who is told NoSuchUpload sends the object again.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final

from consumer.taking import QUIET_DEADLINES, QUIET_MARGIN_SECONDS
from headrace.objects import parse_key
from headrace.s3 import S3Refused, S3Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection

    from headrace.s3 import Uploads

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 3600.0
"""Between two looks where nothing was under way. It costs a request for each topic."""
AGAIN_SECONDS: Final = 60.0
"""After a look that got no answer."""
_PAYLOAD: Final = re.compile(r"-\d{5,10}-\d{20}\.[a-z0-9.]+\Z")


def is_ours(key: str) -> bool:
    """Is it the name of an object that headrace makes? Others may upload below the same folder."""
    return parse_key(key) is not None or _PAYLOAD.search(key) is not None


class Sweep:
    """Looks below some folders now and then. All members of a group may do so side by side."""

    def __init__(self, store: Uploads, folders: Collection[str], *, upload_timeout_seconds: float) -> None:
        self._store = store
        self._folders = folders
        self._safe_seconds = QUIET_DEADLINES * upload_timeout_seconds + QUIET_MARGIN_SECONDS

    async def run(self) -> None:
        """Until cancelled, or until the store says that it does not tell unfinished uploads: that is said once."""
        while True:
            try:
                pause = await self.once()
            except S3Unavailable as error:
                log.info("unfinished uploads can't be looked for now: %s", error)
                pause = AGAIN_SECONDS
            except S3Refused as error:
                log.warning(
                    "parts of uploads that were cut off stay in the bucket, since S3 does not tell of them: grant "
                    "s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or let a lifecycle rule abort them "
                    "(%s)",
                    error,
                )
                return
            await asyncio.sleep(pause)

    async def once(self) -> float:
        """Abort what is old enough. Returns after how many seconds it is worth to look again."""
        pause = EVERY_SECONDS
        for folder in self._folders:
            async for upload in self._store.unfinished(folder):
                if not is_ours(upload.key):
                    continue
                if upload.age_seconds > self._safe_seconds:
                    await self._store.abort(upload)
                    log.info("aborted an unfinished upload of %.0f s ago: %s", upload.age_seconds, upload.key)
                else:
                    # S3 tells whole seconds.
                    pause = min(pause, self._safe_seconds - max(0.0, upload.age_seconds) + 1)
        return pause
