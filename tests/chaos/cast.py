"""The processes of a trial: consumers and producers in their places, and how each of them has ended."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.local.process import Child

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

UNBORN_SECONDS = 5.0
ROOT = Path(__file__).parents[2]


@dataclass(eq=False)
class Member:
    """One place of the cast: a process, and after its end the next one. Whoever harms it holds its `lock`."""

    name: str
    module: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    most_seconds: float
    """A SIGTERM is obeyed within this time."""
    ends: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    child: Child | None = None
    _began: float = 0.0
    _spoke_from: int = 0

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running

    @property
    def _spoke(self) -> bool:
        return self.log.stat().st_size > self._spoke_from

    def start(self) -> None:
        self._began = time.monotonic()
        self._spoke_from = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", *self.module]
        self.child = Child(self.name, command, log=self.log, cwd=ROOT, env=self.environment)

    def look(self) -> None:
        """Has it ended by itself? Nothing that is done here may make it do so."""
        if self.child is not None and self.child.exit_code is not None:
            code, self.child = self.child.exit_code, None
            self.ends[f"by itself: {code}"] += 1
            self.complaints.append(f"{self.name} ended by itself with code {code}")

    async def kill(self) -> None:
        self.look()
        if self.child is not None:
            await asyncio.to_thread(self.child.kill)
            self.ends["SIGKILL"] += 1
            self.child = None

    async def end(self) -> None:
        """SIGTERM; the code must be 0."""
        self.look()
        if self.child is None:
            return
        began = time.monotonic()
        self.child.terminate()
        if not await asyncio.to_thread(self.child.wait, self.most_seconds):
            self.complaints.append(f"{self.name} did not end within {self.most_seconds:.0f} s of a SIGTERM")
            await asyncio.to_thread(self.child.kill)
        code, self.child = self.child.exit_code, None
        self.ends[f"SIGTERM: {code}"] += 1
        # Python's own answer to a SIGTERM, before ours is in place: nothing can be under way then.
        unborn = code == -signal.SIGTERM and began - self._began < UNBORN_SECONDS and not self._spoke
        if code != 0 and not unborn:
            self.complaints.append(
                f"{self.name} ended with code {code} {time.monotonic() - began:.1f} s after a SIGTERM"
            )

    def pause(self) -> None:
        self.look()
        if self.child is not None:
            self.child.pause()

    def resume(self) -> None:
        if self.child is not None:
            self.child.resume()


@dataclass
class Cast:
    """All members of one kind. `members` may grow; one that has left stays in it, without a process."""

    members: list[Member] = field(default_factory=list)

    def running(self) -> list[Member]:
        return [member for member in self.members if member.running]

    async def take(self, number: int) -> Member:
        """A running member that nobody harms just now, from `number` on; its lock is held then."""
        while True:
            at = number % len(self.members)
            for member in self.members[at:] + self.members[:at]:
                member.look()
                if member.running and not member.lock.locked():
                    await member.lock.acquire()
                    return member
            await asyncio.sleep(0.1)

    def complaints(self) -> list[str]:
        return [complaint for member in self.members for complaint in member.complaints]

    def ends(self) -> Counter[str]:
        return sum((member.ends for member in self.members), Counter())

    def kill_all(self) -> None:
        """At once, whatever their state; from a `finally`."""
        for member in self.members:
            if member.child is not None:
                member.child.kill()


def tails(logs: Iterable[Path], size: int) -> str:
    """The ends of log files, with their names."""
    found = []
    for log in logs:
        if log.exists():
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - size))
                found.append(f"--- {log}\n{file.read().decode(errors='replace')}")
    return "\n".join(found)
