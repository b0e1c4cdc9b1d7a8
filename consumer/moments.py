"""When a record happened, where its payload says so: TIME_FIELD and TIME_FORMAT; and clocks of places: TIME_ZONE. Pure.

A time without a distance from UTC is UTC. What can't be read is no time: such records go to the bucket of those
without one.
"""

from __future__ import annotations

import hashlib
import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from consumer.pointer import scalar

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

ISO: Final = "iso8601"
UNIX: Final = {"unix_s": 1_000_000_000, "unix_ms": 1_000_000, "unix_us": 1_000, "unix_ns": 1}
"""Nanoseconds of one of each."""
NO_MOMENT: Final = -1
"""In the place of milliseconds since 1970."""
UTC_NAME: Final = "UTC"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_NANOSECONDS: Final = 1_000_000
_LONGEST: Final = 64
"""Bytes of a time, however it is written. Numbers beyond it are none, and would take long to read."""
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*")
_SAMPLE: Final = datetime(2026, 9, 30, 13, 14, 15, tzinfo=UTC)


def reader(time_format: str) -> Callable[[bytes], int]:
    """How a field's JSON text becomes milliseconds since 1970, or NO_MOMENT. Raises ValueError for no known format."""
    if time_format == ISO:
        return _read_iso
    if time_format in UNIX:
        unit = UNIX[time_format]
        return lambda token: _read_number(token, unit)
    if "%" not in time_format:
        raise ValueError(f"is neither {ISO}, {', '.join(UNIX)} nor a strptime pattern such as %d/%b/%Y:%H:%M:%S %z")
    try:
        told = datetime.strptime(_SAMPLE.strftime(time_format), time_format)  # noqa: DTZ007 - looked at below
    except ValueError as error:
        raise ValueError(f"is no strptime pattern: {error}") from None
    if told.date() != _SAMPLE.date():
        raise ValueError("is a pattern that does not tell year, month and day")
    return lambda token: _read_pattern(token, time_format)


def _milliseconds(told: datetime) -> int:
    at = told if told.tzinfo is not None else told.replace(tzinfo=UTC)
    return (at - _EPOCH) // _MILLISECOND


def _short_text(token: bytes) -> str:
    """Raises ValueError for what is longer than any time."""
    text = scalar(token) if len(token) <= _LONGEST else None
    if text is None:
        raise ValueError("no time")
    return text.decode()


def _read_iso(token: bytes) -> int:
    try:
        return _milliseconds(datetime.fromisoformat(_short_text(token).upper()))
    except (ValueError, OverflowError):
        return NO_MOMENT


def _read_pattern(token: bytes, pattern: str) -> int:
    try:
        return _milliseconds(datetime.strptime(_short_text(token), pattern))  # noqa: DTZ007 - made UTC where it has none
    except (ValueError, OverflowError):
        return NO_MOMENT


def _read_number(token: bytes, unit: int) -> int:
    try:
        text = _short_text(token)
    except ValueError:
        return NO_MOMENT
    if text.isascii() and text.isdigit():
        return int(text) * unit // _NANOSECONDS
    if not _NUMBER.fullmatch(text):
        return NO_MOMENT
    number = Decimal(text)
    if number.adjusted() > _LONGEST:
        return NO_MOMENT
    return int((number * unit / _NANOSECONDS).to_integral_value("ROUND_FLOOR"))


def open_zone(name: str) -> tuple[tzinfo, str]:
    """A zone's clock, and what its rules are known by: two machines with other rules would name objects differently.

    Rules come from the package tzdata, never from the machine. Raises ValueError for an unknown zone.
    """
    if name == UTC_NAME:
        return UTC, ""
    file = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    if not _ZONE.fullmatch(name) or not file.is_file():
        raise ValueError(f"{name!r} is no zone's name; it is one of IANA's, such as Europe/Berlin")
    rules = file.read_bytes()
    try:
        zone = ZoneInfo.from_file(io.BytesIO(rules), key=name)
    except ValueError:
        raise ValueError(f"{name!r} is no zone's name; it is one of IANA's, such as Europe/Berlin") from None
    return zone, hashlib.sha256(rules).hexdigest()[:12]
