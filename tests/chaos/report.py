"""What a run has done and found, for people and for machines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.chaos.load import Outcome
    from tests.chaos.oracle import Verdict


@dataclass
class Report:
    """`violations` is empty when every promise was kept."""

    seed: int
    mutant: str | None
    consumers: int
    partitions: int
    load: float
    settings: Mapping[str, str]
    faults: dict[str, int] = field(default_factory=dict)
    s3_faults: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    payloads: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    sent_again: int = 0
    native_sent: int = 0
    native_acknowledged: int = 0
    consumer_ends: dict[str, int] = field(default_factory=dict)
    producer_ends: dict[str, int] = field(default_factory=dict)
    assignments: int = 0
    """Generations of the group that a consumer took part in."""
    quiet_waits: int = 0
    """Takeovers that had to ask S3, and waited first."""
    stored_before_healing: int = 0
    """Offsets stored while the harm was done: the rest came afterwards."""
    samples: int = 0
    seconds: float = 0.0
    seconds_until_whole: float | None = None
    verify: str = ""
    verdict: Verdict | None = None
    violations: list[str] = field(default_factory=list)
    logs: str = ""
    """The folder of the processes' logs, where it was kept."""
    tails: str = ""
    """The ends of these logs, where something was violated."""

    def as_json(self) -> dict[str, Any]:
        facts = dataclasses.asdict(self) | {"faults_in_all": sum(self.faults.values())}
        del facts["tails"]
        return facts

    def as_text(self) -> str:
        lines = [f"seed {self.seed}" + (f", mutant {self.mutant}" if self.mutant else "")]
        cast = f"{self.consumers} consumers at first, {self.partitions} partitions, {self.load:g} of the full load"
        lines.append(f"{cast}, {_list(self.settings)}")
        lines += _table(f"faults: {sum(self.faults.values())} in {self.seconds:.0f} s", self.faults)
        lines += _table("S3 requests, by what was done to them", self.s3_faults)
        lines += _table(f"requests: {sum(self.requests.values())}, {self.sent_again} of them sent again", self.requests)
        lines += _table("payloads, by what their client knows", self.payloads)
        lines += _table("answers", self.answers)
        lines += _table("ends of consumers", self.consumer_ends)
        lines += _table("ends of producers", self.producer_ends)
        verdict = self.verdict
        facts: dict[str, Any] = {
            "records of the native publisher, sent": self.native_sent,
            "  and acknowledged": self.native_acknowledged,
            "assignments taken up by consumers": self.assignments,
            "takeovers that waited, then asked S3": self.quiet_waits,
            "offsets stored before healing": self.stored_before_healing,
            "samples of committed against stored": self.samples,
            "seconds until whole, after healing": "never" if (s := self.seconds_until_whole) is None else round(s, 1),
            "headrace verify": self.verify,
        }
        if verdict is not None:
            facts |= {
                "records in Kafka": verdict.records,
                "objects in S3": verdict.objects,
                "chunks": verdict.chunks,
                "extra copies": verdict.copies,
                "missing": verdict.missing,
                "different": verdict.different,
                "payloads with a 200": verdict.accepted,
                "  of these missing in S3": verdict.accepted_missing,
                "requests of unknown outcome that are there, whole": verdict.unknown_present,
                "requests that are torn": verdict.torn,
                "refused requests that are there": verdict.refused_present,
                "native records twice in Kafka": verdict.native_twice,
            }
        lines += _table("found", facts)
        if self.violations:
            lines += ["", f"VIOLATIONS: {len(self.violations)}", *(f"  {line}" for line in self.violations[:40])]
            lines += [f"again: python -m tests.chaos --seed {self.seed}   logs: {self.logs}"]
        else:
            lines += ["", "Nothing lost, nothing twice.", *([f"logs: {self.logs}"] if self.logs else [])]
        return "\n".join(lines)


def outcomes(counts: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.value: count for outcome, count in counts.items()}


def _list(values: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    width = max(map(len, rows))
    cells = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in rows.items()}
    return ["", title, *(f"  {name:<{width}}  {cell:>10}" for name, cell in cells.items())]
