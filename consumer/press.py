"""Lines of open chunks are compressed while more of them come.

So they wait a fifth as large, are read while the processor's cache still has them, and an object may have more of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumer.chunk import Bucket, Cargo
    from consumer.lane import Lane


class Press:
    """Knows which lanes have lines that are worth it, and compresses them one bucket after the other."""

    def __init__(
        self,
        compress: Callable[[Bucket], Awaitable[int]],
        *,
        turn: asyncio.Semaphore,
        changed: Callable[[int], None],
    ) -> None:
        """`compress` returns how many bytes fewer memory holds then; it has its `turn` with whoever packs chunks.

        `changed` is told by how many bytes what a lane holds has changed: by nothing where the lane has let go of them.
        """
        self._compress = compress
        self._turn = turn
        self._changed = changed
        self._ripe: dict[Lane, None] = {}
        """In the order of their turn."""
        self._ripened = asyncio.Event()

    def look_at(self, lane: Lane) -> None:
        """It has taken records."""
        if lane.ripe_bytes:
            self._ripe[lane] = None
            self._ripened.set()

    @property
    def bytes_due(self) -> int:
        """Bytes of lines that are about to be compressed."""
        return sum(lane.ripe_bytes for lane in self._ripe)

    async def run(self) -> None:
        """The body of one task. Until cancelled."""
        while True:
            await self._ripened.wait()
            self._ripened.clear()
            while self._ripe:
                lane = next(iter(self._ripe))
                async with self._turn:
                    del self._ripe[lane]
                    if (found := lane.next_ripe()) is not None:
                        await self._press(lane, *found)
                if lane.ripe_bytes:
                    self._ripe[lane] = None

    async def _press(self, lane: Lane, cargo: Cargo, bucket: Bucket) -> None:
        saved = await self._compress(bucket)
        before = lane.held_bytes  # it may have closed the chunk meanwhile, or let it go
        cargo.saved += saved
        self._changed(lane.held_bytes - before)
