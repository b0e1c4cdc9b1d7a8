"""An object in parts: begun, its parts sent side by side, completed. Only the last step makes it be there.

Against the claim protocol (ARCHITECTURE.md) a multipart upload is one attempt like a PUT: it begins within U of the
last good heartbeat (`consumer.uploader` looks right before), and all of it lasts U at most. What lands is the Complete,
which names key and content alike whoever sends it; it is sent within the attempt, never after its deadline, which is
looked at once more right before. So the latest moment at which it can land, U after it was given up, is the very one of
a PUT, and the quiet period of 3 U holds. Parts that were sent land nothing that anybody lists or reads. A process that
was paused meanwhile comes back to an expired attempt. Whoever aborts another's upload takes nothing from anybody: its
owner is told NoSuchUpload, and sends all of it again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from headrace.s3.parts import SentPart, cut
from headrace.s3.port import S3Refused, S3Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

log = logging.getLogger(__name__)

PARTS_AT_A_TIME: Final = 4
"""Of one object. More than one, so that a large object is not held to one connection's pace."""
PART_ATTEMPTS: Final = 3
"""Within the deadline of the whole: otherwise a store that fails one request in twenty never gets a hundred parts."""
PART_PAUSE_SECONDS: Final = 0.1
ABORT_SECONDS: Final = 1.0
"""Whoever gives an upload up may be in a hurry, and waits no longer for the store. What is left, the sweep finds."""


class Multipart:
    """Sends one body. `named` turns the client's errors into ours."""

    def __init__(
        self, client: Any, place: Mapping[str, str], named: Callable[[str, str], AbstractContextManager[None]]
    ) -> None:
        """`place`: Bucket and Key."""
        self._client = client
        self._place = place
        self._named = named

    async def send(self, body: bytes, threshold: int, *, deadline: float, parameters: Mapping[str, Any]) -> None:
        """All of it, or nothing that anybody sees: whatever goes wrong, and when cancelled, the upload is aborted.

        `deadline`: on the loop's clock. Raises TimeoutError then; no Complete is sent past it.
        """
        async with asyncio.timeout_at(deadline):
            begun = await self._client.create_multipart_upload(**self._place, **parameters)
        upload = {**self._place, "UploadId": begun["UploadId"]}
        try:
            # Over before the abort begins: this timer and a caller's go off together, and would cut it short.
            async with asyncio.timeout_at(deadline):
                parts = await self._send_parts(body, cut(len(body), threshold), upload)
                if asyncio.get_running_loop().time() >= deadline:
                    raise TimeoutError("its time is over")
                await self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            await self._abort(upload)
            raise

    async def _send_parts(
        self, body: bytes, spans: list[tuple[int, int]], upload: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """What Complete is to be told of each part, in order."""
        tags: dict[int, str] = {}
        left = iter(enumerate(spans, 1))

        async def work(left: Iterator[tuple[int, tuple[int, int]]]) -> None:
            for number, (start, stop) in left:
                tags[number] = await self._send_part(body, start, stop, {**upload, "PartNumber": number})

        running = asyncio.current_task()
        assert running is not None
        cancelled_before = running.cancelling()
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(work(left)) for _ in range(min(PARTS_AT_A_TIME, len(spans)))]
                # Waited for in here: see consumer.session on a TaskGroup of Python 3.11.
                await asyncio.wait(workers)
        except ExceptionGroup as failed:
            if running.cancelling() > cancelled_before:
                raise asyncio.CancelledError from None  # which a TaskGroup forgets where an error came at the same time
            raise failed.exceptions[0] from None
        return [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]

    async def _send_part(self, body: bytes, start: int, stop: int, upload: Mapping[str, Any]) -> str:
        for attempt in range(1, PART_ATTEMPTS + 1):
            try:
                with self._named(f"PUT part {upload['PartNumber']} of", self._place["Key"]):
                    answer = await self._client.upload_part(**upload, Body=SentPart(body, start, stop))
                    tag: str = answer["ETag"]
                    return tag
            except S3Unavailable:
                if attempt == PART_ATTEMPTS:
                    raise
                await asyncio.sleep(PART_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _abort(self, upload: Mapping[str, str]) -> None:
        try:
            with self._named("ABORT", upload["Key"]):
                async with asyncio.timeout(ABORT_SECONDS):
                    await self._client.abort_multipart_upload(**upload)
        except (S3Refused, S3Unavailable) as error:
            log.info("an unfinished upload is left to the sweep: %s", error)
