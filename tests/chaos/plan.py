"""What a seed means: the trial's settings, and which harm is done when. Pure: the same seed, the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from consumer.layout import DEFAULT_OBJECT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Kind(Enum):
    """One kind of harm, as the report names it."""

    KILL_CONSUMER = "consumer: kill -9"
    KILL_ALL_CONSUMERS = "consumers, all at once: kill -9"
    PAUSE_CONSUMER = "consumer: SIGSTOP past the session timeout, SIGCONT"
    END_CONSUMER = "consumer: SIGTERM, start again"
    JOIN_OR_LEAVE = "consumer: one more joins, or one leaves"
    KILL_PRODUCER = "producer: kill -9"
    PAUSE_PRODUCER = "producer: SIGSTOP, SIGCONT"
    END_PRODUCER = "producer: SIGTERM, start again"
    KILL_BROKER = "broker: kill -9, start again"
    PAUSE_BROKER = "broker: SIGSTOP, SIGCONT"
    KILL_S3 = "S3 server: kill -9, start again"
    S3_OUTAGE = "S3: connections reset, all of them, 10-20 s"
    S3_UNAVAILABLE = "S3: 503 to everything, 5-15 s"
    S3_FORBIDDEN = "S3: 403 to everything, 5-10 s"
    RESET_TO_MIDDLE = "group: reset to the middle of chunks"
    RESET_TO_ZERO = "group: reset to zero"
    RESET_TO_END = "group: reset to the end"
    DELETE_GROUP = "group: deleted"
    DELETE_RECORDS = "topic: DeleteRecords into what is stored"


@dataclass(frozen=True, slots=True)
class Odds:
    """How often, against the others, and for how many seconds."""

    weight: float
    least: float = 0.0
    most: float = 0.0


ODDS: Final[Mapping[Kind, Odds]] = {
    Kind.KILL_CONSUMER: Odds(32),
    Kind.KILL_ALL_CONSUMERS: Odds(4),
    Kind.PAUSE_CONSUMER: Odds(20, 4, 12),
    Kind.END_CONSUMER: Odds(16),
    Kind.JOIN_OR_LEAVE: Odds(20),
    Kind.KILL_PRODUCER: Odds(16),
    Kind.PAUSE_PRODUCER: Odds(8, 3, 14),
    Kind.END_PRODUCER: Odds(10),
    Kind.KILL_BROKER: Odds(9, 0, 5),
    Kind.PAUSE_BROKER: Odds(8, 2, 9),
    Kind.KILL_S3: Odds(6, 0, 5),
    Kind.S3_OUTAGE: Odds(6, 10, 20),
    Kind.S3_UNAVAILABLE: Odds(7, 5, 15),
    Kind.S3_FORBIDDEN: Odds(6, 5, 10),
    Kind.RESET_TO_MIDDLE: Odds(6),
    Kind.RESET_TO_ZERO: Odds(4),
    Kind.RESET_TO_END: Odds(4),
    Kind.DELETE_GROUP: Odds(4),
    Kind.DELETE_RECORDS: Odds(10),
}

RESETS: Final = frozenset({Kind.RESET_TO_MIDDLE, Kind.RESET_TO_ZERO, Kind.RESET_TO_END, Kind.DELETE_GROUP})
"""After these, consumers wait until nothing of the past can land; each rebalance begins that wait anew."""

SHORT: Final = frozenset(Kind) - {Kind.KILL_S3, Kind.RESET_TO_ZERO, Kind.RESET_TO_END}
"""What the short form consists of: one of each, and some more. The rest takes long."""


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `calm` seconds, then do harm of this kind, for so many `seconds` where it lasts.

    `member`: which process, where there are several; the next one where that is busy. `place`, from 0 to 1: where in a
    log. `hard`: the consumers are killed, not ended, before the group is reset. `settle`: first wait until something
    more is stored, so that there is something to take over.
    """

    calm: float
    kind: Kind
    member: int
    seconds: float
    place: float
    hard: bool
    settle: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run is set up. `consumers`: so many at first; `settings`: what all of them are told.

    `load`: the share of the full load that is sent.
    """

    consumers: int
    partitions: int
    load: float
    reply_seconds: float
    lost_share: float
    settings: Mapping[str, str]
    settle_seconds: float

    @property
    def upload_timeout(self) -> float:
        return float(self.settings["UPLOAD_TIMEOUT_SECONDS"])

    @property
    def session_timeout(self) -> float:
        return float(self.settings["SESSION_TIMEOUT_SECONDS"])

    @property
    def drain(self) -> float:
        return float(self.settings["DRAIN_SECONDS"])


def draw_names(seed: int) -> Mapping[str, str]:
    """A format and a layout: half of the runs have the default ones."""
    dice = random.Random(f"names {seed}")
    return {
        "FORMAT": dice.choice(("jsonl", "jsonl", "jsonl", "raw", "parquet", "object")),
        "OBJECT_PATH": dice.choice((DEFAULT_OBJECT_PATH, DEFAULT_OBJECT_PATH, "none", "of={/of}/dt=%F", "{key}/%F")),
    }


def draw_setting(
    seed: int, *, short: bool = False, names: Mapping[str, str] | None = None, load: float | None = None
) -> Setting:
    """Small chunks and short time-outs, so that many claims, commits and takeovers happen in every minute.

    When chunks close, `draw_limits` says. `names`: a format and a layout, and other settings, where they are not to be
    drawn. `load` is a tenth where each payload is an object: so it takes a PUT a record, and a store, a proxy in Python
    and consumers on one machine give some hundred of them a second. Replies take a tenth of the time then, too.
    """
    dice = random.Random(f"setting {seed}")
    names = draw_names(seed) if names is None else names
    if load is None:
        load = 0.1 if names.get("FORMAT") == "object" else 1.0
    return Setting(
        consumers=dice.choice((2, 3, 4)),
        partitions=dice.choice((4, 6)),
        load=load,
        reply_seconds=load * (1.5 if short else 3.0),
        lost_share=dice.choice((0.03, 0.06)),
        settings={
            "MAX_CLAIMS": dice.choice(("4", "32")),
            "MAX_WORKERS": dice.choice(("4", "16")),
            "COMPRESSION": dice.choice(("zstd", "zstd", "gzip", "none")),
            "UPLOAD_TIMEOUT_SECONDS": "1.5" if short else "2.5",
            "SESSION_TIMEOUT_SECONDS": "2" if short else "3",
            "DRAIN_SECONDS": "3" if short else "5",
            **names,
        },
        settle_seconds=5 if short else 40,
    )


def draw_limits(seed: int, consumer: int) -> Mapping[str, str]:
    """When one consumer closes its chunks. Each has limits of its own, so that no two would cut a log alike.

    With the same ones, a backlog would be cut at the same places by whoever takes it over, claims or not.
    """
    dice = random.Random(f"limits {seed} {consumer}")
    return {
        "CHUNK_MAX_SECONDS": dice.choice(("0.3", "0.7", "1.5")),
        "CHUNK_MAX_RECORDS": str(dice.randrange(100, 2000)),
    }


def draw_steps(seed: int, faults: int, *, short: bool = False, only: frozenset[Kind] | None = None) -> Iterator[Step]:
    """Endless: decks of `faults` steps, in each of which every kind comes at least once, in a new order each time."""
    dice = random.Random(f"steps {seed}")
    kinds = [kind for kind in ODDS if kind in (only or (SHORT if short else frozenset(Kind)))]
    last: Kind | None = None
    while True:
        for kind in _deck(kinds, faults, dice):
            odds = ODDS[kind]
            yield Step(
                calm=dice.uniform(0.1, 1.0) if short else dice.choice((dice.uniform(0.2, 2), dice.uniform(1, 7))),
                kind=kind,
                member=dice.randrange(8),
                seconds=dice.uniform(odds.least, odds.most) * (0.45 if short else 1),
                place=dice.random(),
                hard=dice.random() < 0.5,
                settle=dice.random() < (0.3 if short else 0.6) or last in RESETS,
            )
            last = kind


def _deck(kinds: list[Kind], size: int, dice: random.Random) -> list[Kind]:
    deck = kinds[:size] if size >= len(kinds) else dice.sample(kinds, size)
    weights = [ODDS[kind].weight for kind in kinds]
    # By their weights and not by chance, so that a long deck holds what the odds say.
    while len(deck) < size:
        lacking = [weight / sum(weights) * size - deck.count(kind) for kind, weight in zip(kinds, weights, strict=True)]
        deck.append(kinds[lacking.index(max(lacking))])
    dice.shuffle(deck)
    return deck
