"""What a seed means: which kind of schedule, and what the dice make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.plan import HARM, Plan
from tests.simulation.world import Weather

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def profile_of(seed: int) -> str:
    """Every second schedule is of any kind, the others are directed ones in turn."""
    directed = list(PROFILES)[1:]
    return directed[seed // 2 % len(directed)] if seed % 2 else "any"


def draw(dice: random.Random, profile: str) -> Plan:
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
        exodus_rest=dice.choice((0.0, 0.0, dice.uniform(0, 8))),
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
        offset_errors=now_and_then(0.3),
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


def _answers_lost(plan: Plan, dice: random.Random) -> None:
    """Commits that get lost on their way, or arrive long after they were given up."""
    plan.weather.kafka_lost_request = 0.05
    plan.weather.kafka_late_request = 0.15
    plan.settings |= {"chunk_max_records": 8, "max_claims": 8, "session_timeout_seconds": 5.0}


def _resets(plan: Plan, dice: random.Random) -> None:
    """An operator moves the group while uploads of the killed are still in the air."""
    plan.harm = {"exodus": 3.0, "trap kill": 3.0, "kill": 1.0}
    plan.resets = {"zero": 1.0, "delete": 1.0, "middle": 1.0}
    plan.weather.s3_late = 0.4
    plan.workers = 1
    plan.settings |= {"upload_timeout_seconds": 6.0, "session_timeout_seconds": 2.0}


def _repairs(plan: Plan, dice: random.Random) -> None:
    """Objects are removed, the group is set back, and who fills the hole is killed at it."""
    plan.harm = {"exodus": 2.0, "trap kill": 3.0}
    plan.resets = {"remove": 1.0}
    plan.actions = dice.randrange(4, 10)
    plan.settings |= {"upload_timeout_seconds": 1.5, "session_timeout_seconds": 2.0, "chunk_max_records": 15}


def _zombies(plan: Plan, dice: random.Random) -> None:
    """Paused members wake up to an empty group whose offsets were moved."""
    plan.harm = {"exodus": 0.5, "sleep through exodus": 3.0}
    plan.pauses = ((2.5, 6),)
    plan.resets = {"remove": 2.0, "zero": 1.0}
    plan.exodus_keeps_paused = 1.0
    plan.exodus_rest = dice.uniform(4, 12)
    plan.workers = 1
    plan.actions = dice.randrange(4, 10)
    plan.weather.s3_slow = 0.7
    plan.settings |= {
        "upload_timeout_seconds": 6.0,
        "session_timeout_seconds": 2.0,
        "object_path": "dt=%Y-%m-%d/hour=%H",
        "max_workers": 1,
    }


def _erosion(plan: Plan, dice: random.Random) -> None:
    """Retention and compaction eat into chunks that are claimed, or stored in part."""
    plan.harm = {"retention": 3.0, "compact": 3.0, "trap kill": 5.0, "kill": 1.0}
    plan.compacting = dice.random() < 0.5
    plan.actions = dice.randrange(4, 10)
    plan.weather.s3_slow = 0.5
    plan.settings |= {
        "object_path": "dt=%Y-%m-%d/hour=%H",
        "chunk_max_records": dice.choice((15, 40)),
        "chunk_max_bytes": 4000,
        "memory_budget_bytes": 20_000,
    }


def _same_generation(plan: Plan, dice: random.Random) -> None:
    """A follower that joins once more keeps its generation, and may find the prefix as new as it was."""
    plan.harm = {"rejoin": 1.0}
    plan.actions = dice.randrange(4, 12)
    plan.workers = dice.choice((2, 3))
    plan.partitions = 3
    plan.weather.s3_late = 0.4
    plan.weather.coordinator_errors = 0.05
    plan.weather.offset_errors = 0.7
    plan.settings |= {"upload_timeout_seconds": 6.0, "session_timeout_seconds": 5.0}


def _takeovers(plan: Plan, dice: random.Random) -> None:
    """Members come and go all the time, while S3 is slow."""
    plan.harm = {"join": 2.0, "rejoin": 1.0, "terminate": 1.0, "kill": 1.0, "storm": 1.0, "trap pause": 1.0}
    plan.actions = dice.randrange(5, 12)
    plan.workers = 2
    plan.weather.s3_slow = 0.7
    plan.settings |= {"upload_timeout_seconds": 6.0, "max_claims": 8, "chunk_max_seconds": 0.3}


def _claims_forgotten(plan: Plan, dice: random.Random) -> None:
    """A chunk stands in S3 in part, a reset drops its claim, and the log's start passes it."""
    plan.harm = {"trap kill": 3.0, "exodus": 2.0, "retention": 2.0}
    plan.resets = {"zero": 1.0, "middle": 1.0, "beyond": 1.0, "delete": 1.0}
    plan.actions = dice.randrange(4, 10)
    plan.weather.s3_never = 0.3
    plan.settings |= {
        "object_path": "dt=%Y-%m-%d/hour=%H",
        "upload_timeout_seconds": 1.5,
        "session_timeout_seconds": 2.0,
        "max_claims": 8,
    }


def _cut_off(plan: Plan, dice: random.Random) -> None:
    """Who can't reach Kafka goes on uploading for a while, whatever becomes of the group."""
    plan.harm = {"be cut off at exodus": 1.0}
    plan.resets = {"zero": 1.0, "delete": 1.0}
    plan.pauses = ((15, 30),)
    plan.exodus_keeps_paused = 1.0
    plan.exodus_rest = 0.0
    plan.uploads_wait_when_cut = True
    plan.workers = plan.partitions = plan.actions = 1
    plan.seconds = 35
    plan.weather.s3_late = 0.0
    # With one claim at a time nothing is left to commit meanwhile, which would end the session.
    plan.settings |= {
        "upload_timeout_seconds": 6.0,
        "session_timeout_seconds": 2.0,
        "max_claims": 1,
        "chunk_max_seconds": 0.3,
        "chunk_max_records": 40,
    }


def _replays(plan: Plan, dice: random.Random) -> None:
    """A range of the log is archived again into a prefix of its own, and the process ends by itself."""
    plan.replay = True
    plan.resets = {"delete": 1.0, "delete group": 0.5, "drop": 1.0, "nothing": 1.0}
    plan.harm = {name: often for name, often in HARM.items() if name != "compact"}
    plan.seconds = dice.uniform(4, 15)


def _endings(plan: Plan, dice: random.Random) -> None:
    """Told to stop in the middle of rebalances, and cancelled at any step, while clocks are set."""
    plan.harm = {
        "trap terminate": 3.0,
        "trap cancel": 3.0,
        "cancel": 3.0,
        "terminate": 1.0,
        "join": 2.0,
        "rejoin": 2.0,
        "storm": 0.5,
        "clock": 1.0,
    }
    plan.actions = dice.randrange(4, 12)


def _layouts(plan: Plan, dice: random.Random) -> None:
    """The object path is changed while claims are open, by a restart of all or by and by, and back again."""
    plan.harm = {
        "change layout": 4.0,
        "trap kill": 3.0,
        "kill": 1.0,
        "pause": 1.0,
        "terminate": 1.0,
        "join": 1.0,
        "retention": 0.3,
    }
    plan.resets = {"nothing": 4.0, "drop": 2.0, "zero": 1.0, "delete": 0.5}
    other = dice.choice([path for path in PATHS if path != plan.settings["object_path"]])
    plan.others = ({"object_path": other},)
    plan.actions = dice.randrange(2, 8)
    plan.settings |= {"max_claims": dice.choice((2, 8)), "upload_timeout_seconds": dice.choice((1.5, 3.0))}


def _another_log(plan: Plan, dice: random.Random) -> None:
    """In the end the topic is made anew under its name, or a log is cut short."""
    plan.finally_ = dice.choice(("make anew", "cut short"))
    plan.actions = min(plan.actions, 4)
    plan.seconds = dice.uniform(5, 15)


PATHS = ("none", "dt=%Y-%m-%d/hour=%H", "at=%Y%m%dT%H%M")
PROFILES: dict[str, Callable[[Plan, random.Random], None]] = {
    "any": _any,
    "answers lost": _answers_lost,
    "resets": _resets,
    "repairs": _repairs,
    "zombies": _zombies,
    "erosion": _erosion,
    "same generation": _same_generation,
    "takeovers": _takeovers,
    "claims forgotten": _claims_forgotten,
    "cut off": _cut_off,
    "replays": _replays,
    "endings": _endings,
    "layouts": _layouts,
    "another log": _another_log,
}
"""Directed schedules, for mistakes that random ones meet too seldom."""
