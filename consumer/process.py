"""One archiver in a process of its own: event loop, signals, garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging

import uvloop

from consumer.runner import Archiver
from consumer.settings import ConsumerSettings
from consumer.taking import Bounds
from headrace.errors import HeadraceError
from headrace.lifecycle import stop_on_signals
from headrace.telemetry import setup_logging

log = logging.getLogger(__name__)


def run(settings: ConsumerSettings, bounds: Bounds | None = None) -> None:
    """Archive until SIGTERM or Ctrl-C; a second one does not wait for uploads. Raises HeadraceError."""
    setup_logging(settings.log_level, settings.log_format)
    # Records live shortly and form no cycles: collecting among the millions of them costs a third of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        uvloop.run(_main(settings, bounds))
    except* HeadraceError as failed:
        error: BaseException = failed
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _main(settings: ConsumerSettings, bounds: Bounds | None) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop, hurry):
        archiving = asyncio.create_task(Archiver(settings, bounds=bounds).run(stop))
        hurrying = asyncio.create_task(hurry.wait())
        try:
            await asyncio.wait((archiving, hurrying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurrying.cancel()
            archiving.cancel()  # no effect on one that is done
        with contextlib.suppress(asyncio.CancelledError):
            await archiving
