"""What processes use: CPU time, memory at its highest, bytes written; a process counts with all of its children."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """A reading, or the difference of two. What a system does not tell is None.

    `cpu_seconds` is user and system time of all threads and all children, ended ones too. `bytes_out` is what was
    given to write(2), to files and sockets alike. `rss_peak_mib` is the largest process' high-water mark since its
    start, `processes` how many there are.
    """

    cpu_seconds: float
    bytes_out: int | None
    rss_peak_mib: float | None
    processes: int

    def since(self, before: Usage) -> Usage:
        """What was used from `before` until this reading."""
        out = None if self.bytes_out is None or before.bytes_out is None else self.bytes_out - before.bytes_out
        return Usage(self.cpu_seconds - before.cpu_seconds, out, self.rss_peak_mib, self.processes)


def read_usage(pid: int) -> Usage:
    """What a process and its children have used up to now. Raises HeadraceError when it is gone."""
    try:
        family = [psutil.Process(pid)]
        family += family[0].children(recursive=True)
    except psutil.NoSuchProcess:
        raise HeadraceError(f"Process {pid} ended while it was measured.") from None
    seconds, out, peaks = 0.0, 0, []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a child may end meanwhile: its parent has its time then
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            peaks.append(_peak(process.pid))
            with contextlib.suppress(AttributeError, psutil.AccessDenied):  # Linux alone has it
                out += process.io_counters().write_chars
    known = [peak for peak in peaks if peak is not None]
    return Usage(seconds, out or None, max(known, default=None), len(family))


def _peak(pid: int) -> float | None:
    """The resident set's high-water mark, MiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


class Meter:
    """Several processes over the same span, and how busy others kept the machine meanwhile."""

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        """Processes by name; one without a number is not on this machine, and is left out."""
        self._pids = {name: pid for name, pid in pids.items() if pid is not None}
        self._before = {name: read_usage(pid) for name, pid in self._pids.items()}
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def read(self) -> dict[str, Usage]:
        """What each has used since this meter was made."""
        return {name: read_usage(pid).since(self._before[name]) for name, pid in self._pids.items()}

    def children_seconds(self) -> float:
        """CPU time of this process' own children that have ended since."""
        times = os.times()
        return times.children_user + times.children_system - self._own[1]

    def noise(self, used: Mapping[str, Usage]) -> float:
        """The share of this machine, 0 to 1, that went to none of these nor to us. Much of it, and times say little."""
        own = _own_seconds()
        ours = sum(usage.cpu_seconds for usage in used.values()) + sum(own) - sum(self._own)
        there_was = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, _busy_seconds() - self._busy - ours) / there_was


def _own_seconds() -> tuple[float, float]:
    """CPU time of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system, times.children_user + times.children_system


def _busy_seconds() -> float:
    """CPU time of all cores that went to anything, time stolen by the machine's host included."""
    times = psutil.cpu_times()
    idle: float = times.idle + getattr(times, "iowait", 0.0)
    guests: float = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # within user and nice already
    return float(sum(times)) - idle - guests
