"""Endings: signals become an event, and several processes of one command are looked after as one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_on_signals(stop: asyncio.Event, hurry: asyncio.Event | None = None) -> Iterator[None]:
    """SIGTERM and Ctrl-C set `stop`; a second one sets `hurry`."""
    loop = asyncio.get_running_loop()

    def noticed(name: str) -> None:
        if stop.is_set() and hurry is not None:
            hurry.set()
        log.info("%s: stopping%s", name, " at once" if stop.is_set() else "")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, noticed, number.name)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def clock() -> float:
    """Seconds that never go back and do not stop while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


PARENT_PIPE: Final = "HEADRACE_PARENT_PIPE"


@contextlib.asynccontextmanager
async def stop_with_parent(stop: asyncio.Event) -> AsyncIterator[None]:
    """In a child of `run_processes`: its standard input ends with its parent, however that ends."""
    if os.environ.get(PARENT_PIPE) != "1":
        yield
        return
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )

    async def wait() -> None:
        await reader.read()
        stop.set()

    waiting = asyncio.create_task(wait())
    try:
        yield
    finally:
        waiting.cancel()
        transport.close()


async def run_processes(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    stop: asyncio.Event,
    *,
    restart_after_seconds: float = 3.0,
) -> int:
    """Run a copy of a command for each environment until `stop`; one that dies by itself is started again.

    A copy that ends by itself with 0 or 2 (settings) ends all. Returns the first exit code that isn't 0.
    """
    codes: list[int] = []

    async def keep(environment: Mapping[str, str]) -> None:
        while not stop.is_set():
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, env={**environment, PARENT_PIPE: "1"}, start_new_session=True
            )
            ended = asyncio.create_task(process.wait())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                if process.returncode is None:
                    process.terminate()
                code = await ended
            if stop.is_set() or code in {0, 2}:
                codes.append(code)
                stop.set()
                return
            log.error("process %d ended with exit code %d; starting another", process.pid, code)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(restart_after_seconds):
                    await stop.wait()

    async with asyncio.TaskGroup() as group:
        for environment in environments:
            group.create_task(keep(environment))
    return next((code for code in codes if code != 0), 0)
