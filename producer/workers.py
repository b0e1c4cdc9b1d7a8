"""Several producers on one port, looked after as one: what dies is started again, and all are exchanged when asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

from headrace.lifecycle import PARENT_PIPE, either, end_process, send_signal, stop_on_signals, told_exit
from producer.listener import join_port

if TYPE_CHECKING:
    import socket
    from asyncio.subprocess import Process
    from collections.abc import Coroutine, Mapping, Sequence

logger = logging.getLogger(__name__)

LISTENER: Final = "HEADRACE_LISTENER"
"""The number under which a worker inherits its socket."""
ANNOUNCE: Final = "HEADRACE_ANNOUNCE"
"""That of a pipe, closed by a worker with a byte in it as soon as it takes connections."""
REPLACES: Final = "HEADRACE_REPLACES"
"""1 in one that is to take the place of another, which still runs."""
EXCHANGE: Final = signal.SIGUSR1
"""Asks who looks after workers to exchange all of them, one after the other."""
REPLACED: Final = signal.SIGUSR2
"""Tells a worker that another one has taken its place."""
EXCHANGE_SECONDS: Final = 60.0
RESTART_SECONDS: Final = 3.0


class Workers:
    """Runs a copy of a command for each environment.

    Each has a socket of its own, of which this process keeps a copy: so a worker and the one that takes its place
    have one queue of connections, and none that waits there is lost between them. One that dies takes its queue
    along: the others shall have what comes next.
    """

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        address: tuple[str, int],
        *,
        ending_seconds: float,
    ) -> None:
        self._command = command
        self._address = address
        self._ending_seconds = ending_seconds
        self._slots = [_Slot(environment) for environment in environments]
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._exchange = asyncio.Event()
        self._codes: list[int] = []

    async def run(self) -> int:
        """Until a signal asks to end; a second one is passed on, too. The first exit code that isn't 0."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(EXCHANGE, self._exchange.set)
        try:
            with stop_on_signals(self._stop, self._hurry):
                async with asyncio.TaskGroup() as group:
                    keeping = [group.create_task(self._keep(slot)) for slot in self._slots]
                    exchanging = group.create_task(self._exchange_all())
                    await asyncio.wait(keeping)
                    exchanging.cancel()
        finally:
            loop.remove_signal_handler(EXCHANGE)
        # One that was asked to end before it could listen has ended as it was told to.
        codes = [code for code in self._codes if code not in {0, -signal.SIGTERM}]
        return 0 if not codes else codes[0] if codes[0] > 0 else 128 - codes[0]

    async def _keep(self, slot: _Slot) -> None:
        while not self._stop.is_set():
            with join_port(*self._address) as listener:
                process, announced = await self._start(slot, listener)
                announced.close()
                process = await self._until_over(slot, process, listener)
            # The socket is closed: what ends now has the only one, and takes care of its queue.
            ended = asyncio.create_task(process.wait())
            code, _ = await asyncio.gather(
                end_process(process, ended, self._hurry, self._ending_seconds), self._end_parting(slot)
            )
            slot.settled.set()
            if self._stop.is_set() or code in {0, 2}:
                self._codes.append(code)
                self._stop.set()
                return
            logger.error("process %d ended with %s; starting another", process.pid, told_exit(code))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESTART_SECONDS):
                    await self._stop.wait()

    async def _until_over(self, slot: _Slot, process: Process, listener: socket.socket) -> Process:
        """Until the slot's process has ended, or all shall. The process that it has then."""
        while True:
            waits = {
                asyncio.create_task(process.wait()),
                asyncio.create_task(self._stop.wait()),
                asyncio.create_task(slot.exchange.wait()),
            }
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiting in waits:
                    waiting.cancel()
            if self._stop.is_set() or process.returncode is not None:
                return process
            slot.exchange.clear()
            process = await self._replace(slot, process, listener)
            slot.settled.set()

    async def _exchange_all(self) -> None:
        while True:
            await self._exchange.wait()
            self._exchange.clear()
            logger.info("%s: exchanging all workers, one after the other", EXCHANGE.name)
            for slot in self._slots:
                slot.settled.clear()
                slot.exchange.set()
                await slot.settled.wait()
            logger.info("All workers were exchanged")

    async def _replace(self, slot: _Slot, old: Process, listener: socket.socket) -> Process:
        """The process that the slot has now: a new one, or the old where the new one takes no connections."""
        new, announced = await self._start(slot, listener, {REPLACES: "1"})
        with announced:
            ready = asyncio.create_task(announced.wait())
            over = asyncio.create_task(_first(new.wait(), old.wait(), self._stop.wait()))
            try:
                async with asyncio.timeout(EXCHANGE_SECONDS):
                    await asyncio.wait((ready, over), return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError:
                pass
            finally:
                took_over = ready.done() and not ready.cancelled() and ready.result()
                ready.cancel()
                over.cancel()
                await asyncio.wait((ready, over))
        process, other = (new, old) if took_over else (old, new)
        if took_over:
            send_signal(other, REPLACED)
        else:
            logger.error("process %d takes no connections; process %d stays in its place", new.pid, old.pid)
            send_signal(other, signal.SIGTERM)
        ended = asyncio.create_task(other.wait())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._ending_seconds):
                await either(ended, self._stop)
        slot.parting = (other, ended)
        if not self._stop.is_set():
            await self._end_parting(slot)
        return process

    async def _end_parting(self, slot: _Slot) -> None:
        if slot.parting is not None:
            (process, ended), slot.parting = slot.parting, None
            await end_process(process, ended, self._hurry, self._ending_seconds)

    async def _start(
        self, slot: _Slot, listener: socket.socket, more: Mapping[str, str] | None = None
    ) -> tuple[Process, _Announcement]:
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                env={
                    **slot.environment,
                    PARENT_PIPE: "1",
                    LISTENER: str(listener.fileno()),
                    ANNOUNCE: str(writing),
                    **(more or {}),
                },
                pass_fds=(listener.fileno(), writing),
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return process, _Announcement(reading)


class _Slot:
    """A worker's place."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.exchange = asyncio.Event()
        """Its process shall be replaced."""
        self.settled = asyncio.Event()
        """That was done, or tried, or its process has ended by itself."""
        self.parting: tuple[Process, asyncio.Task[int]] | None = None
        """One that has left its place, and has to answer what it took before."""


class _Announcement(contextlib.AbstractContextManager["_Announcement"]):
    """The reading end of a worker's pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._told = asyncio.Event()

    async def wait(self) -> bool:
        """Whether it takes connections: False when it has ended before."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, self._told.set)
        try:
            await self._told.wait()
        finally:
            loop.remove_reader(self._descriptor)
        return bool(os.read(self._descriptor, 1))

    def close(self) -> None:
        os.close(self._descriptor)

    def __exit__(self, *_: object) -> None:
        self.close()


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Until one of them is done."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
