"""Archivers in processes of their own: event loop, signals, garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

import uvloop

from consumer.runner import Archiver
from headrace.errors import HeadraceError
from headrace.lifecycle import either, stop_on_signals, stop_with_parent, supervise
from headrace.telemetry import setup_logging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumer.settings import ConsumerSettings
    from consumer.taking import Bounds

log = logging.getLogger(__name__)

SHOWN_EVERY_SECONDS: Final = 0.2
ENDING_SECONDS: Final = 5.0
"""A process that was asked to end is gone after DRAIN_SECONDS and these, whatever Kafka and S3 do."""
LEAVING_SECONDS: Final = 3.0
"""Of these: for leaving the group, so that the others need not wait for the session timeout."""


def run(settings: ConsumerSettings, bounds: Bounds | None = None) -> bool:
    """Archive until SIGTERM or Ctrl-C, or until the replay of `bounds` is whole: then it returns True.

    It ends within DRAIN_SECONDS and ENDING_SECONDS of a signal; a second one does not wait for uploads. Either way
    nothing is lost: what isn't stored then, the next owner stores. Raises HeadraceError.
    """
    setup_logging(settings.log_level, settings.log_format)
    # Records live shortly and form no cycles: collecting among the millions of them costs a third of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()  # `python -m consumer` has it off until here
    whole = False
    error: BaseException | None = None
    try:
        whole = uvloop.run(_archive(settings, bounds))
    except* HeadraceError as failed:
        error = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
    return whole


async def _archive(settings: ConsumerSettings, bounds: Bounds | None) -> bool:
    stop, hurry = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop, hurry):
        async with stop_with_parent(stop):
            archiver = Archiver(settings, bounds=bounds)
            archiving = asyncio.create_task(archiver.run(stop))
            watching = [
                asyncio.create_task(_hurry(stop, hurry, settings.drain_seconds + ENDING_SECONDS - LEAVING_SECONDS - 1)),
                asyncio.create_task(_show_progress(archiver, bounds or {})),
            ]
            await either(archiving, hurry)
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)
            for seconds in (LEAVING_SECONDS, 1.0):  # the second time it does not even leave the group in order
                if not archiving.done():
                    archiving.cancel()
                    await asyncio.wait((archiving,), timeout=seconds)
            if archiving.cancelled() and not stop.is_set():
                raise HeadraceError("The archiver ended though nobody asked for it. Nothing is lost; start it again.")
            return archiving.done() and not archiving.cancelled() and archiving.result()


async def _hurry(stop: asyncio.Event, hurry: asyncio.Event, seconds: float) -> None:
    """So long after `stop`, nothing may be waited for any more."""
    await stop.wait()
    await asyncio.sleep(seconds)
    log.warning("%g s after the signal: leaving without what is under way", seconds)
    hurry.set()


async def _show_progress(archiver: Archiver, bounds: Bounds) -> None:
    """How much of a replay is durable, on a terminal. Until cancelled."""
    if not bounds:
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task("replaying offsets", total=sum(stop - start for start, stop in bounds.values()))
        while True:
            progress.update(task, completed=archiver.replayed)
            await asyncio.sleep(SHOWN_EVERY_SECONDS)


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

    longest = settings.drain_seconds + ENDING_SECONDS + 5
    return supervise([sys.executable, "-m", "consumer"], environments, ending_seconds=longest)
