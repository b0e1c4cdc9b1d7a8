"""One schedule: settings, weather, load, and which harm is done when. Drawn before the run begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.world import Weather

HARM = {
    # action: how often, against each other
    "kill": 3.0,
    "pause": 2.0,
    "terminate": 2.0,
    "join": 2.0,
    "rejoin": 1.0,
    "storm": 0.5,
    "trap kill": 4.0,
    "trap pause": 2.0,
    "s3 forbidden": 0.5,
    "s3 down": 0.7,
    "retention": 0.7,
    "compact": 0.7,
    "exodus": 1.5,
    "sleep through exodus": 0.5,
    "cut off": 1.0,
    "be cut off at exodus": 0.5,
    "trap terminate": 1.0,
    "cancel": 0.7,
    "trap cancel": 0.7,
    "clock": 0.7,
}
RESETS = {
    "zero": 2.0,
    "middle": 2.0,
    "delete": 1.0,
    "beyond": 0.5,
    "carried": 0.5,
    "remove": 2.0,
    "delete group": 0.7,
    "drop": 0.7,
}
REBALANCE_MOMENTS = ("revoking", "join sent", "sync sent", "assigned")
MOMENTS = ("commit sent", "commit arrives", "commit stored", "put sent", "put landed")


@dataclass
class Plan:
    """One schedule. Durations in virtual seconds."""

    settings: dict[str, Any]
    partitions: int
    workers: int
    seconds: float
    records: int
    compacting: bool
    calm: bool
    weather: Weather
    harm: dict[str, float] = field(default_factory=lambda: dict(HARM))
    resets: dict[str, float] = field(default_factory=lambda: dict(RESETS))
    actions: int = 0
    transactions: float = 0.0
    most_records: int = 50
    most_metadata: int = 4096
    exodus_keeps_paused: float = 0.3
    pauses: tuple[tuple[float, float], ...] = ((0.1, 3), (3, 25))
    uploads_wait_when_cut: bool = False
    replay: bool = False
    others: tuple[dict[str, str], ...] = ()
    """Settings of names that the operator may change."""
    most_buckets: tuple[int, ...] = (1000,)
    """CHUNK_MAX_BUCKETS, of one process after the other."""
    mixed: bool = False
    """Records have keys, fields, and values that are no JSON."""
    finally_: str | None = None
    """What is done when all other harm has been."""
    exodus_rest: float = 0.0
    """Seconds until somebody comes again."""
