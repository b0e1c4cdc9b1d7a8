"""Endings: signals become an event, and several processes of one command are looked after as one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


async def run_processes(
    command: Sequence[str], count: int, stop: asyncio.Event, *, restart_after_seconds: float
) -> int:
    """Run `count` copies of a command until `stop`; one that dies by itself is started again after a pause.

    A copy that ends with exit code 2 (settings) or 0 by itself ends all. Returns the first exit code that isn't 0.
    """
    codes: list[int] = []

    async def keep(number: int) -> None:
        while not stop.is_set():
            process = await asyncio.create_subprocess_exec(*command, start_new_session=True)
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
            log.error(
                "process %d ended with exit code %d; starting it again in %g s", number, code, restart_after_seconds
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(restart_after_seconds):
                    await stop.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(keep(number + 1))
    return next((code for code in codes if code != 0), 0)
