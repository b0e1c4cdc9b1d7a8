"""Archivers in processes of their own: event loop, signals, garbage collector."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import TYPE_CHECKING

import uvloop

from consumer.runner import Archiver
from headrace.errors import HeadraceError
from headrace.lifecycle import run_processes, stop_on_signals, stop_with_parent
from headrace.telemetry import setup_logging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumer.settings import ConsumerSettings
    from consumer.taking import Bounds


def run(settings: ConsumerSettings, bounds: Bounds | None = None) -> None:
    """Archive until SIGTERM or Ctrl-C, or until the replay of `bounds` is whole. Raises HeadraceError.

    A second signal does not wait for uploads.
    """
    setup_logging(settings.log_level, settings.log_format)
    # Records live shortly and form no cycles: collecting among the millions of them costs a third of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    error: BaseException | None = None
    try:
        uvloop.run(_archive(settings, bounds))
    except* HeadraceError as failed:
        error = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


async def _archive(settings: ConsumerSettings, bounds: Bounds | None) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop, hurry):
        async with stop_with_parent(stop):
            archiving = asyncio.create_task(Archiver(settings, bounds=bounds).run(stop))
            hurrying = asyncio.create_task(hurry.wait())
            await asyncio.wait((archiving, hurrying), return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
            if hurry.is_set():
                archiving.cancel()
                await asyncio.wait((archiving,))
            else:
                archiving.result()


def run_several(settings: ConsumerSettings, count: int, overrides: Mapping[str, str]) -> int:
    """`count` processes of `python -m consumer`, each with an event loop and a memory budget of its own.

    With MANAGEMENT_PORT set, each takes a port of its own from there on. Returns an exit code.
    """
    setup_logging(settings.log_level, settings.log_format)
    environments = []
    for number in range(count):
        environment = {**os.environ, **overrides}
        if settings.management_port:
            environment["MANAGEMENT_PORT"] = str(settings.management_port + number)
        environments.append(environment)

    async def supervise() -> int:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            return await run_processes([sys.executable, "-m", "consumer"], environments, stop)

    return asyncio.run(supervise())
