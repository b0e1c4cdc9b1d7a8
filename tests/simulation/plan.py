"""What a seed means: settings, weather, load, and which harm is done when. Drawn before the run begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.world import Weather

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

HARM = {
    # action: how often, against each other
    "kill": 3.0,
    "pause": 2.0,
    "terminate": 2.0,
    "join": 2.0,
    "storm": 0.5,
    "trap kill": 4.0,
    "trap pause": 2.0,
    "s3 forbidden": 0.5,
    "s3 down": 0.7,
    "retention": 0.7,
    "compact": 0.7,
    "exodus": 1.5,
}
RESETS = {"zero": 2.0, "middle": 2.0, "delete": 1.0, "beyond": 0.5, "carried": 0.5, "remove": 2.0}
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


def draw(dice: random.Random, profile: str = "any") -> Plan:
    """A schedule out of the dice; a profile makes what it is named after more likely."""
    chunk_bytes = dice.choice((600, 1500, 4000))
    settings = {
        "session_timeout_seconds": dice.choice((2.0, 3.0, 5.0)),
        "upload_timeout_seconds": dice.choice((1.5, 3.0, 6.0)),
        "chunk_max_records": dice.choice((3, 8, 15, 40)),
        "chunk_max_bytes": chunk_bytes,
        "chunk_max_seconds": dice.choice((0.3, 1.0, 3.0)),
        "memory_budget_bytes": chunk_bytes * dice.choice((1, 2, 5)),
        "max_workers": dice.choice((1, 2, 4)),
        "max_queue": dice.choice((1, 2, 8)),
        "max_claims": dice.choice((1, 2, 3, 8)),
        "drain_seconds": dice.choice((1.0, 4.0)),
        "object_path": dice.choice(("none", "dt=%Y-%m-%d/hour=%H", "dt=%Y-%m-%d/hour=%H")),
        "compression": dice.choice(("none", "none", "none", "zstd")),
    }
    calm = dice.random() < 0.1
    weather = Weather() if calm else _weather(dice)
    plan = Plan(
        settings=settings,
        partitions=dice.choice((1, 1, 2, 3)),
        workers=dice.choice((1, 2, 2, 3)),
        seconds=dice.uniform(8, 25),
        records=dice.randrange(20, 200),
        compacting=dice.random() < 0.2,
        calm=calm,
        weather=weather,
        actions=0 if calm else dice.randrange(1, 9),
        transactions=dice.choice((0.0, 0.0, 0.2)),
        most_records=dice.choice((5, 20, 50)),
        most_metadata=dice.choice((4096, 4096, 4096, 85)),
    )
    PROFILES[profile](plan, dice)
    return plan


def _weather(dice: random.Random) -> Weather:
    def now_and_then(most: float, share: float = 0.4) -> float:
        return dice.uniform(0, most) if dice.random() < share else 0.0

    return Weather(
        kafka_slow=now_and_then(0.2),
        kafka_lost_request=now_and_then(0.04),
        kafka_lost_answer=now_and_then(0.04),
        kafka_late_request=now_and_then(0.04),
        kafka_unconnected=now_and_then(0.1),
        coordinator_errors=now_and_then(0.15),
        cluster_errors=now_and_then(0.2),
        fetch_errors=now_and_then(0.05),
        s3_slow=now_and_then(0.5),
        s3_lost_answer=now_and_then(0.3),
        s3_unavailable=now_and_then(0.3),
        s3_late=now_and_then(0.3),
        s3_never=now_and_then(0.2),
        s3_read_errors=now_and_then(0.2),
        s3_latency=dice.choice((0.05, 0.05, 0.5)),
    )


def _any(plan: Plan, dice: random.Random) -> None:
    pass


PROFILES: dict[str, Callable[[Plan, random.Random], None]] = {"any": _any}
"""Directed schedules, for mutants that random ones meet too seldom."""
