"""Pick the lines of a service's log that a person should see at once."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_STAMPED: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\S+ (?P<level>[A-Z]+)\b")
_JSON_LEVEL: Final = re.compile(r'"level":\s*"(?P<level>[a-z]+)"')
_SEVERE: Final = frozenset({"WARNING", "ERROR", "CRITICAL"})


class SevereLines:
    """Decides line by line. A line without a stamp of its own (a traceback's) goes with the one before it."""

    def __init__(self) -> None:
        self._showing = True  # what comes before any stamp is a crash of the start

    def wants(self, line: str) -> bool:
        stamp = _STAMPED.match(line) or (_JSON_LEVEL.search(line) if line.startswith("{") else None)
        if stamp is not None:
            self._showing = stamp["level"].upper() in _SEVERE
        return self._showing and bool(line.strip())


class Follower:
    """Reads what was added to a log since the last look, whole lines only."""

    def __init__(self, log: Path, start: int) -> None:
        self._log = log
        self._position = start
        self._severe = SevereLines()

    def severe_lines(self) -> list[str]:
        """Lines of WARNING and above that came since the last call."""
        try:
            with self._log.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:
                    self._position = 0
                file.seek(self._position)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._position += len(whole) + len(newline)
        return [line for line in whole.decode(errors="replace").splitlines() if self._severe.wants(line)]
