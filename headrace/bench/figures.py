"""What was measured, as plain data, and the arithmetic on it. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from headrace.bench.curves import Reading
    from headrace.bench.load import Answers
    from headrace.bench.usage import Usage

OURS: Final = "headrace"
MICRO: Final = 1e6


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of an ordered sequence does not exceed; 0 for an empty one."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRun:
    """One endpoint under load once. `used`: the endpoint is "server"; "kafka" and "s3" where they run for us."""

    subject: str
    round: int
    payloads: int
    payload_bytes: int
    connections: int
    answers: Answers
    used: dict[str, Usage]
    generator_cpu_seconds: float
    noise: float

    def cpu_us_request(self, process: str = "server") -> float | None:
        return self._each(process, self.answers.requests)

    def cpu_us_payload(self, process: str = "server") -> float | None:
        return self._each(process, self.answers.requests * self.payloads)

    @property
    def requests_second(self) -> float:
        return self.answers.requests / self.answers.seconds

    def _each(self, process: str, count: int) -> float | None:
        usage = self.used.get(process)
        return usage.cpu_seconds * MICRO / count if usage is not None and count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackRun:
    """One topic's records read once, by the archiver into S3 or by a reference reader.

    `start_cpu_seconds` went by before it was ready, and is part of what it used.
    """

    subject: str
    round: int
    records: int
    record_bytes: int
    partitions: int
    seconds: float
    used: dict[str, Usage]
    start_cpu_seconds: float
    stored_bytes: int | None
    noise: float

    def cpu_us_record(self, process: str = "consumer") -> float | None:
        usage = self.used.get(process)
        return usage.cpu_seconds * MICRO / self.records if usage is not None else None

    @property
    def cpu_us_record_running(self) -> float | None:
        """Without the start."""
        usage = self.used.get("consumer")
        return None if usage is None else (usage.cpu_seconds - self.start_cpu_seconds) * MICRO / self.records


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """Both halves under a load of `rate` requests a second.

    `to_s3`: seconds from POST until a marked payload could be read in S3, ordered; `unseen`: how many never could.
    `carried`: all payloads that CPU time went to, those of warming up and the marked ones too.
    """

    round: int
    rate: float
    payloads: int
    payload_bytes: int
    flush_seconds: float
    answers: Answers
    to_s3: list[float]
    unseen: int
    carried: int
    used: dict[str, Usage]
    generator_cpu_seconds: float
    noise: float

    def cpu_us_payload(self, process: str) -> float | None:
        usage = self.used.get(process)
        return usage.cpu_seconds * MICRO / self.carried if usage is not None and self.carried else None

    def to_s3_at(self, share: float) -> float:
        return percentile(self.to_s3, share)


@dataclass
class Figures:
    """All runs of one benchmark."""

    front: list[FrontRun] = field(default_factory=list)
    back: list[BackRun] = field(default_factory=list)
    whole: list[WholeRun] = field(default_factory=list)
    scaling: list[Reading] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Every run as it was measured, with what was worked out from it beside."""
        return {
            "front": [_front_json(run) for run in self.front],
            "back": [_back_json(run) for run in self.back],
            "together": [_whole_json(run) for run in self.whole],
            "scaling": [reading.as_json() for reading in self.scaling],
            "ratios": [
                {"half": half, "size": size, "subject": OURS, "to": other, "median": mid, "rounds": rounds}
                for half, size, other, mid, rounds in self.ratios()
            ],
        }

    def ratios(self) -> list[tuple[str, int, str, float, list[float]]]:
        """Our CPU time by each other subject's: half, payloads a request or bytes a record, name, median, by round."""
        found = []
        for payloads in ordered_set(run.payloads for run in self.front):
            runs = [run for run in self.front if run.payloads == payloads]
            for other, rounds in _ratios(runs, lambda run: run.cpu_us_request()):
                found.append(("front", payloads, other, median(rounds), rounds))
        for size in ordered_set(run.record_bytes for run in self.back):
            of_size = [run for run in self.back if run.record_bytes == size]
            for other, rounds in _ratios(of_size, lambda run: run.cpu_us_record()):
                found.append(("back", size, other, median(rounds), rounds))
        return found


def _ratios(runs: Sequence[Any], cost: Callable[[Any], float | None]) -> Iterable[tuple[str, list[float]]]:
    ours = {run.round: cost(run) for run in runs if run.subject == OURS}
    for other in ordered_set(run.subject for run in runs if run.subject != OURS):
        rounds = []
        for run in runs:
            mine, theirs = ours.get(run.round), cost(run)
            if run.subject == other and mine is not None and theirs:
                rounds.append(round(mine / theirs, 3))
        if rounds:
            yield other, rounds


def ordered_set(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of its first appearance."""
    return list(dict.fromkeys(values))


def middle(values: Iterable[float | None]) -> float | None:
    """The median of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _front_json(run: FrontRun) -> dict[str, Any]:
    return asdict(run) | {
        "requests_second": run.requests_second,
        "payloads_second": run.requests_second * run.payloads,
        "cpu_us_request": {name: run.cpu_us_request(name) for name in run.used},
        "cpu_us_payload": {name: run.cpu_us_payload(name) for name in run.used},
    }


def _back_json(run: BackRun) -> dict[str, Any]:
    return asdict(run) | {
        "records_second": run.records / run.seconds,
        "cpu_us_record": {name: run.cpu_us_record(name) for name in run.used},
        "cpu_us_record_running": run.cpu_us_record_running,
    }


def _whole_json(run: WholeRun) -> dict[str, Any]:
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return asdict(run) | {
        "cpu_us_payload": {name: run.cpu_us_payload(name) for name in run.used},
        "post_to_s3_seconds": {name: run.to_s3_at(share) for name, share in shares.items()},
    }
