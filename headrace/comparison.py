"""Archived records against Kafka's own, of one partition. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from headrace.record import StoredRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_NAMED: Final = 1_000
"""Offsets of a partition that are named when they differ. All of them are counted."""
FIELDS: Final = StoredRecord._fields[1:]


@dataclass(frozen=True, slots=True)
class Difference:
    """One offset. `what`: which fields differ; "missing": Kafka alone has it; "not in Kafka": the archive alone has."""

    offset: int
    what: str


@dataclass(slots=True)
class Comparison:
    """`equal` records are Kafka's to the byte; `dropped` are in the archive alone, for Kafka keeps them no longer.

    `unread` tells what could not be compared, and why.
    """

    equal: int = 0
    dropped: int = 0
    different: int = 0
    named: list[Difference] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not (self.different or self.unread)

    def add(
        self, archived: Sequence[StoredRecord], kept: Sequence[StoredRecord], *, log_start: int, compacted: bool
    ) -> None:
        """Take a range of offsets, as the archive has it and as Kafka has it.

        Kafka has dropped what lies below its log's start, and of a compacted topic it may have dropped any record.
        """
        if archived == kept:
            self.equal += len(kept)
            return
        ours = {record.offset: record for record in archived}
        theirs = {record.offset: record for record in kept}
        for offset in sorted(ours.keys() | theirs.keys()):
            mine, other = ours.get(offset), theirs.get(offset)
            if mine is None:
                self._differs(offset, "missing")
            elif other is None:
                if compacted or offset < log_start:
                    self.dropped += 1
                else:
                    self._differs(offset, "not in Kafka")
            elif mine == other:
                self.equal += 1
            else:
                fields = [name for name in FIELDS if getattr(mine, name) != getattr(other, name)]
                self._differs(offset, ", ".join(fields))

    def _differs(self, offset: int, what: str) -> None:
        self.different += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(Difference(offset, what))

    def problems(self, place: str) -> Iterator[str]:
        """A sentence each."""
        for why in self.unread:
            yield f"{place} could not be compared with Kafka: {why}"
        for it in self.named:
            match it.what:
                case "missing":
                    yield f"{place}: offset {it.offset} is in Kafka, but not in the archive"
                case "not in Kafka":
                    yield f"{place}: offset {it.offset} is in the archive, but not in Kafka"
                case fields:
                    yield f"{place}: offset {it.offset} differs from Kafka's: {fields}"
        if more := self.different - len(self.named):
            yield f"{place}: {more:,} more offsets differ"

    def as_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "not_in_kafka_any_more": self.dropped,
            "different": self.different,
            "unread": self.unread,
            "named": [{"offset": it.offset, "what": it.what} for it in self.named],
        }
