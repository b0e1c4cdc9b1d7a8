"""The topic's logs: offsets with holes, transactions that hold readers back, retention, compaction."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.record import StoredRecord

_offset = attrgetter("offset")


@dataclass
class Log:
    """One partition. `end` is the high watermark; readers get no further than `stable`, the first open transaction."""

    partition: int
    start: int = 0
    end: int = 0
    records: list[StoredRecord] = field(default_factory=list)
    """Those that a read_committed reader will get to see, and that are still there."""
    ever: dict[int, StoredRecord] = field(default_factory=dict)
    """All that were ever readable."""
    compacted: set[int] = field(default_factory=set)
    open: list[int] = field(default_factory=list)
    """First offsets of transactions that have not ended."""
    cut_short: bool = False

    @property
    def stable(self) -> int:
        return min(self.open, default=self.end)

    def append(self, record: StoredRecord, *, readable: bool = True) -> None:
        assert record.offset == self.end
        self.end += 1
        if readable:
            self.records.append(record)
            self.ever[record.offset] = record

    def abort(self, first: int) -> None:
        """An open transaction's records will never be read. (Nobody else's lie among them here.)"""
        del self.records[bisect_left(self.records, first, key=_offset) :]
        self.ever = {offset: record for offset, record in self.ever.items() if offset < first}

    def mark(self) -> None:
        """A position without a record: a transaction's marker."""
        self.end += 1

    def read(self, position: int, most: int) -> tuple[list[StoredRecord], int]:
        """Records from `position` on, and the position behind them, which may lie beyond the last one."""
        stable = self.stable
        first = bisect_left(self.records, position, key=_offset)
        last = bisect_left(self.records, stable, key=_offset)
        if last - first > most:
            found = self.records[first : first + most]
            return found, found[-1].offset + 1
        return self.records[first:last], max(position, stable)

    def delete_before(self, offset: int) -> None:
        """Retention, or DeleteRecords."""
        self.start = max(self.start, min(offset, self.end))
        del self.records[: bisect_left(self.records, self.start, key=_offset)]

    def cut(self, end: int) -> None:
        """An unclean election: what lay at `end` and beyond was acknowledged, and is no more."""
        self.end = end
        self.cut_short = True
        self.open.clear()
        del self.records[bisect_left(self.records, end, key=_offset) :]

    def compact(self, offsets: set[int]) -> None:
        """These have been superseded by later records of the same key."""
        self.compacted |= offsets
        self.records = [record for record in self.records if record.offset not in offsets]
