"""A wall clock that can be moved while a process runs: Python imports this first where it lies on PYTHONPATH.

CLOCK_SHIFT_FILE names a file with seconds, read at each look at the clock. Monotonic clocks go on as they are, just as
they do when an administrator or NTP sets the time.
"""

import datetime  # noqa: ICN001 - it is changed
import os
import time
from pathlib import Path
from typing import Any

_file = os.environ.get("CLOCK_SHIFT_FILE")
_time = time.time
_datetime: Any = datetime.datetime


def shift() -> float:
    return float(Path(_file or "/dev/null").read_text() or 0)


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)


class Shifted(_datetime, metaclass=_Kind):  # type: ignore[misc]
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


class _Broken:
    """Seconds broken down into fields; no function, so that it stays what it is as a class's attribute."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __call__(self, seconds: float | None = None) -> Any:
        return self._real(time.time() if seconds is None else seconds)


if _file:
    time.time = lambda: _time() + shift()
    time.time_ns = lambda: int(time.time() * 1e9)
    time.gmtime = _Broken(time.gmtime)  # type: ignore[assignment]
    time.localtime = _Broken(time.localtime)  # type: ignore[assignment]
    datetime.datetime = Shifted  # type: ignore[misc]
