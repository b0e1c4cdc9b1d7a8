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
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a process to end: SIGTERM, Ctrl-C, and a terminal that is closed, except under nohup."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) if nohup else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def on_ending_signals(noticed: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Have it called, in the running loop, for each signal that asks the process to end."""
    loop = asyncio.get_running_loop()
    numbers = ending_signals()
    for number in numbers:
        loop.add_signal_handler(number, noticed, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def stop_on_signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """The first signal that asks the process to end sets `stop`, a second one `hurry`."""
    asked = 0

    def noticed(number: signal.Signals) -> None:
        nonlocal asked
        asked += 1
        log.info("%s: stopping%s", number.name, " at once" if asked > 1 else "")
        stop.set()
        if asked > 1:
            hurry.set()

    with on_ending_signals(noticed):
        yield


async def unless(stop: asyncio.Event, work: Awaitable[Result]) -> Result | None:
    """Its result; None where `stop` was set before there was one: then it has been given up."""
    working = asyncio.ensure_future(work)
    try:
        await either(working, stop)
    finally:
        working.cancel()
        await asyncio.wait((working,))
        failed = None if working.cancelled() else working.exception()
    if failed is not None:
        raise failed
    return None if working.cancelled() else working.result()


async def either(work: asyncio.Future[Any], event: asyncio.Event) -> bool:
    """Wait for one of the two. Whether the work is done."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return work.done()


def clock() -> float:
    """Seconds that never go back and do not stop while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


PARENT_PIPE: Final = "HEADRACE_PARENT_PIPE"


def has_parent() -> bool:
    """Is this a child of `run_processes`?"""
    return os.environ.get(PARENT_PIPE) == "1"


@contextlib.asynccontextmanager
async def stop_with_parent(stop: asyncio.Event) -> AsyncIterator[None]:
    """In a child of `run_processes`: its standard input ends with its parent, however that ends."""
    if not has_parent():
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
    hurry: asyncio.Event,
    *,
    ending_seconds: float,
    restart_after_seconds: float = 3.0,
) -> int:
    """Run a copy of a command for each environment until `stop`; one that dies by itself is started again.

    `hurry` passes the wish on a second time; a copy that has not ended `ending_seconds` after `stop` is killed. One
    that ends by itself with 0 or 2 (settings) ends all. Returns the first exit code that isn't 0, as a shell tells it.
    """
    codes: list[int] = []

    async def keep(environment: Mapping[str, str]) -> None:
        while not stop.is_set():
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, env={**environment, PARENT_PIPE: "1"}, start_new_session=True
            )
            ended = asyncio.create_task(process.wait())
            try:
                await either(ended, stop)
            finally:
                code = await end_process(process, ended, hurry, ending_seconds)
            if stop.is_set() or code in {0, 2}:
                codes.append(code)
                stop.set()
                return
            log.error("process %d ended with %s; starting another", process.pid, told_exit(code))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(restart_after_seconds):
                    await stop.wait()

    async with asyncio.TaskGroup() as group:
        for environment in environments:
            group.create_task(keep(environment))
    # One that was asked to end before it could listen has ended as it was told to.
    codes = [code for code in codes if code not in {0, -signal.SIGTERM}]
    return 0 if not codes else codes[0] if codes[0] > 0 else 128 - codes[0]


def supervise(command: Sequence[str], environments: Sequence[Mapping[str, str]], *, ending_seconds: float) -> int:
    """`run_processes` in a loop of its own, until a signal asks this process to end; a second one is passed on, too."""

    async def run() -> int:
        stop, hurry = asyncio.Event(), asyncio.Event()
        with stop_on_signals(stop, hurry):
            return await run_processes(command, environments, stop, hurry, ending_seconds=ending_seconds)

    return asyncio.run(run())


async def end_process(process: Process, ended: asyncio.Task[int], hurry: asyncio.Event, seconds: float) -> int:
    """Ask a process to end, twice where `hurry` says so, and kill it after so many seconds. Its exit code."""
    if not ended.done():
        send_signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if not await either(ended, hurry):
                    send_signal(process, signal.SIGTERM)
                    await asyncio.wait((ended,))
        if not ended.done():
            log.error("process %d has not ended %g s after it was asked to: killed", process.pid, seconds)
            send_signal(process, signal.SIGKILL)
    return await ended


def send_signal(process: Process, number: signal.Signals) -> None:
    """To a process that may have ended.

    asyncio's own looks first whether it has, and takes the exit code from who waits for it, who is told 255 then.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def told_exit(code: int) -> str:
    """A process' end in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
