"""What the process has freed goes back to the system, where the C library would keep it."""

from __future__ import annotations

import ctypes
import gc
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_SECONDS: Final = 10.0
"""Between two times: each takes some milliseconds, and pages that are wanted again must be had anew."""


def _malloc_trim() -> Any:
    """The GNU C library's; None elsewhere."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows: no such library or function
        return None


class Trimmer:
    """Gives back free memory, now and then.

    The collection is for what cycles hold and a quiet collector leaves: botocore's parsers, three objects an answer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._trim = _malloc_trim()
        self._next = float("-inf")

    def __call__(self) -> None:
        """Call it where much has been freed, in a thread. Mostly it does nothing."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + PAUSE_SECONDS
        gc.collect()
        if self._trim is not None:
            self._trim(0)


trim: Final = Trimmer()
