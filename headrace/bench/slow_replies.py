"""A TCP proxy whose replies come late: an S3 that is further away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_BYTES: Final = 256 * 1024


@contextlib.asynccontextmanager
async def slow_replies(target: str, seconds: float) -> AsyncIterator[str]:
    """The address (http://…) of a proxy to `target` for as long as the context lasts.

    What callers send goes on at once; what comes back is held for so many seconds, each piece for itself, so that a
    long reply is late but not slow.
    """
    place = urlsplit(target)
    open_now: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):  # either side may go at any time: both ends are closed then
                await _relay(reader, writer, (place.hostname or "", place.port or 80), seconds)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(handle(reader, writer))  # not the server's own: it complains of cancelled ones
        open_now.add(task)
        task.add_done_callback(open_now.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=READ_BYTES)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = list(open_now)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int], seconds: float
) -> None:
    there, back = await asyncio.open_connection(*target, limit=READ_BYTES)
    late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    clock = asyncio.get_running_loop().time

    async def requests() -> None:
        while data := await reader.read(READ_BYTES):
            back.write(data)
            await back.drain()
        back.write_eof()

    async def replies() -> None:
        ended = False
        while not ended:
            data = await there.read(READ_BYTES)
            ended = not data
            late.put_nowait((clock() + seconds, data))

    async def deliver() -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(due - clock())
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    try:
        async with asyncio.TaskGroup() as tasks:
            for way in (requests, replies, deliver):
                tasks.create_task(way())
    except* OSError:
        pass
    finally:
        back.close()
