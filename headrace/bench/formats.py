"""What each format costs, beside the bare library that it rests on. Needs neither Kafka nor S3."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from headrace.bench.encoding import ALONE, FORMATS
from headrace.bench.figures import middle, ordered_set
from headrace.bench.report import Sheet, number, span
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUBJECTS: Final = (*FORMATS, *ALONE)
CHUNK_BYTES: Final = 64 * 1024 * 1024
CHUNK_RECORDS: Final = 100_000
"""A chunk closes at whichever is first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatRun:
    """One chunk made by one subject in a process of its own. `rss_peak_mib`: of all of that process."""

    subject: str
    round: int
    records: int
    record_bytes: int
    cpu_us_record: float
    stored_bytes: int
    rss_peak_mib: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"stored_share": self.stored_share}

    @property
    def stored_share(self) -> float:
        """Of the payloads' bytes."""
        return self.stored_bytes / (self.records * self.record_bytes)


def measure_formats(
    *, record_bytes: Sequence[int], rounds: int, most_records: int = CHUNK_RECORDS, subjects: Sequence[str] = SUBJECTS
) -> Iterator[FormatRun]:
    """Each subject once a round, one after the other, for each size: a chunk of the default settings."""
    for round_number in range(1, rounds + 1):
        for size in record_bytes:
            records = max(1, min(most_records, CHUNK_BYTES // size))
            for subject in subjects:
                told = _child(subject, records, size)
                yield FormatRun(subject=subject, round=round_number, records=records, record_bytes=size, **told)


def _child(subject: str, records: int, size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "headrace.bench.encoding", subject, str(records), str(size)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if ended.returncode:
        raise HeadraceError(f"{subject} could not be measured: {ended.stderr.strip().splitlines()[-1:]}")
    told: dict[str, Any] = orjson.loads(ended.stdout)
    return told


def format_sheet(runs: Sequence[FormatRun]) -> Sheet:
    """Medians over the rounds, the least and the most CPU time."""
    rows = []
    for subject, size in ordered_set((run.subject, run.record_bytes) for run in runs):
        same = [run for run in runs if (run.subject, run.record_bytes) == (subject, size)]
        costs = [run.cpu_us_record for run in same]
        rows.append(
            [
                subject,
                f"{size:,} B",
                number(middle(costs), 2),
                span(costs, 2),
                number(middle(run.stored_bytes / run.records for run in same), 1),
                f"{middle(run.stored_share for run in same):.1%}",
                number(middle(run.rss_peak_mib for run in same), 0),
            ]
        )
    rows.sort(key=lambda row: int(row[1].split()[0].replace(",", "")))
    title = "Formats: a chunk from records to what is stored, CPU-µs and bytes a record"
    return Sheet(title, ["subject", "record", "µs/record", "least-most", "B/record", "stored", "RSS MiB"], rows)


def format_line(run: FormatRun) -> str:
    """One run in a line, to be read while the next goes on."""
    return (
        f"formats {run.round}: {run.subject}, {run.record_bytes} B: {run.cpu_us_record:.2f} CPU-µs a record, "
        f"{run.stored_share:.1%} stored, {run.rss_peak_mib:.0f} MiB"
    )
