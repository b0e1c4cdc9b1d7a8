"""--since and --until of every command: an offset, a time, or an edge of the log. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from headrace.errors import SettingsError

EDGES: Final = ("earliest", "latest")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse(text: str, option: str) -> int | datetime | str:
    """An offset, a time (ISO 8601, UTC where it names no zone), or an edge of the log. Raises SettingsError."""
    if text in EDGES:
        return text
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option} {text!r} is neither an offset (1500), a time (2026-11-22 or 2026-11-22T01:30:00+01:00), "
            f"earliest nor latest"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    """Since 1970, as Kafka counts; exact, which a float of seconds is not."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
