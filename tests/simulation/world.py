"""What all parts of a simulated run share: its loop, its dice, its weather, its trace, and the first violation."""

from __future__ import annotations

import contextvars
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.virtual import VirtualLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from tests.simulation.virtual import Process


@dataclass
class Weather:
    """How often what goes wrong: shares of all calls, from 0 to 1; durations in virtual seconds."""

    kafka_slow: float = 0.0
    kafka_lost_request: float = 0.0
    kafka_lost_answer: float = 0.0
    kafka_late_request: float = 0.0
    kafka_unconnected: float = 0.0
    coordinator_errors: float = 0.0
    offset_errors: float = 0.0
    cluster_errors: float = 0.0
    fetch_errors: float = 0.0
    metadata_too_large: float = 0.0
    s3_slow: float = 0.0
    s3_lost_answer: float = 0.0
    s3_unavailable: float = 0.0
    s3_late: float = 0.0
    s3_silent: bool = False
    s3_stalled_until: float = 0.0
    s3_never: float = 0.0
    s3_read_errors: float = 0.0
    s3_latency: float = 0.05
    s3_forbidden: bool = False
    s3_down: bool = False


BASE_MS = 1_763_772_600_000
"""When runs begin by the wall clock: half an hour before an hour's end."""


class World:
    """One run. Everything that is random comes from `dice`; everything that happens is in `trace`, where wanted."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.loop = VirtualLoop()
        self.weather = Weather()
        self.wall_jump_ms = 0
        self.violation: str | None = None
        self.over: asyncio.Future[None] = self.loop.create_future()
        self.tracing = tracing
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self.context = contextvars.Context()
        """Of what belongs to no process: servers, and messages under way."""
        self.traps: list[Trap] = []
        self.spring: Callable[[Trap, Process], None] = lambda _trap, _process: None

    @property
    def now(self) -> float:
        return self.loop.now

    def wall_ms(self) -> int:
        """The wall clock of all machines, which somebody may have set wrong."""
        return BASE_MS + int(self.loop.now * 1000) + self.wall_jump_ms

    def say(self, who: str, what: str) -> None:
        self.counts[what.partition(" ")[0]] += 1
        if self.tracing:
            self.trace.append(f"{self.loop.now:9.4f} {who:<10} {what}")

    def violated(self, what: str) -> None:
        """An oracle has spoken. The run ends with the first one."""
        if self.violation is None:
            self.violation = f"at {self.loop.now:.3f} s: {what}"
            self.say("oracle", f"VIOLATION {what}")
            if not self.over.done():
                self.over.set_result(None)

    def chance(self, share: float) -> bool:
        return share > 0 and self.dice.random() < share

    def later(self, delay: float, what: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Let it happen whatever becomes of the process that asked for it."""
        return self.loop.call_at(self.loop.now + delay, what, *args, context=self.context)

    def passing(self, moment: str, process: Process) -> None:
        """A process has come to a moment that a trap may wait for."""
        for trap in self.traps:
            if trap.moment == moment and process.running:
                trap.count -= 1
                if trap.count < 0:
                    self.traps.remove(trap)
                    self.spring(trap, process)
                return


@dataclass
class Trap:
    """Harm that is done to whichever process comes next to a moment, so many times from now."""

    moment: str
    count: int
    harm: str


@dataclass
class Tally:
    """How the run went, for reports."""

    seed: int
    profile: str
    violation: str | None
    seconds: float
    steps: int
    counts: Counter[str] = field(default_factory=Counter)
    trace: Sequence[str] = ()
