"""What a new owner of a partition does, from what Kafka and S3 tell of it: `assess`, then maybe `fill`.

Pure. Most of the protocol's mends live here (ARCHITECTURE.md, "Taking over"): whatever can't be told apart from a lost
or foreign log halts the partition with a sentence that says how to go on.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from consumer.claims import Committed, decode
from headrace.errors import HaltError
from headrace.objects import Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


NAMING: Final = "S3_PREFIX, OBJECT_PATH, TIME_FIELD, TIME_FORMAT, TIME_ZONE, FORMAT, PARQUET_COLUMNS and COMPRESSION"
"""The settings that names and contents depend on, for people who have changed one."""


class SegmentKind(enum.Enum):
    """What lies ahead of a lane.

    RECUT: cut exactly this range. DONE: it is stored whole. GAP: Kafka has lost it, say so in S3.
    """

    RECUT = "recut"
    DONE = "done"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Segment:
    """A range whose ends are given. `claimed`: Kafka has its claim already. `lost`: the part that Kafka has dropped."""

    kind: SegmentKind
    offsets: Range
    claimed: bool
    lost: Range | None = None
    standing: Mapping[str, int] = field(default_factory=dict)
    """Objects of this range that are stored already, and their records: none is replaced by one with fewer."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """How a lane begins: the claims' state, then the segments in order; between and behind them it cuts freely.

    `known`: `committed` is what Kafka has. Otherwise it is the first thing to commit.
    `floor`: no offset below it needs to be fetched, or can be.
    """

    committed: Committed
    known: bool
    segments: tuple[Segment, ...]
    floor: int
    remark: str = ""


@dataclass(frozen=True, slots=True)
class NeedsList:
    """Only S3 can tell. `quiet`: first wait until no PUT of a former owner can land any more (consumer/taking)."""

    why: str
    quiet: bool
    committed: Committed | None
    origin: int


@dataclass(frozen=True, slots=True)
class Covered:
    """A range that S3 has objects of: their keys with their numbers of records. `complete`: all of them are there."""

    offsets: Range
    complete: bool
    layout: str
    objects: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Log:
    """The partition as Kafka has it now. `start`: first offset that is left. `end`: the high watermark."""

    topic: str
    partition: int
    topic_id: str
    start: int
    end: int
    compacted: bool = False

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


def assess(*, log: Log, offset: int, metadata: str | None, layout: str, origin: int | None) -> Takeover | NeedsList:
    """Decide from the group's commit alone, where it suffices. `origin`: where a replay starts; None for an archive.

    Raises HaltError where the log isn't the one that was archived, or the claims are of another layout.
    """
    committed = decode(offset, metadata)
    if committed is None:
        what = "nothing is committed" if offset < 0 else f"offset {offset} was committed by another tool"
        return NeedsList(what, quiet=True, committed=None, origin=offset if offset >= 0 or origin is None else origin)
    if committed.topic_id != log.topic_id:
        raise made_anew(log.topic, was=committed.topic_id, now=log.topic_id)
    known_end = max(committed.last_end, committed.durable)
    if log.end < known_end:
        raise HaltError(
            f"{log}: the log ends at {log.end}, but offsets up to {known_end} were archived or claimed: Kafka has lost "
            f"acknowledged records (unclean leader election?). To go on, from what is "
            f"left of the log, use another S3_PREFIX and KAFKA_GROUP."
        )
    if committed.layout != layout:
        # Where a repair is under way, too: under another prefix nothing would tell what is stored already.
        if committed.ends or committed.durable < committed.fill_until:
            until = max(committed.last_end, committed.fill_until)
            raise HaltError(
                f"{log}: {Range(committed.start, until)} is claimed under another layout "
                f"({committed.layout}, now {layout}). Start once with the former {NAMING} until the lag is zero, or "
                f"run `headrace claims drop`."
            )
        committed = replace(committed, layout=layout)
    shrunk = log.start > committed.durable
    if committed.ends and (shrunk or log.compacted):
        why = (
            f"Kafka has dropped {Range(committed.durable, log.start)}"
            if shrunk
            else "a compacted topic's claims are open"
        )
        return NeedsList(why, quiet=True, committed=committed, origin=committed.last_end)
    if committed.durable < committed.fill_until:
        return NeedsList("a repair is under way", quiet=False, committed=committed, origin=committed.last_end)
    if shrunk:
        lost = Range(committed.durable, log.start)
        gap = Segment(SegmentKind.GAP, Range(committed.start, log.start), claimed=False, lost=lost)
        return Takeover(committed, True, (gap,), log.start, f"Kafka dropped {lost} before it was archived")
    return Takeover(committed, True, tuple(_claimed(committed)), committed.durable)


def made_anew(topic: str, *, was: str, now: str) -> HaltError:
    """The topic of this name has another id than the one that was archived."""
    return HaltError(
        f"Topic {topic} was deleted and made anew (its id was {was}, now {now}): its offsets count from the start "
        f"again. Archive the new topic with another S3_PREFIX and KAFKA_GROUP."
    )


def _claimed(committed: Committed) -> list[Segment]:
    segments, start = [], committed.start
    for end in committed.ends:
        segments.append(Segment(SegmentKind.RECUT, Range(start, end), claimed=True))
        start = end
    return segments


def fill(*, log: Log, need: NeedsList, covered: Sequence[Covered], layout: str) -> Takeover:
    """Decide with the LIST at hand: keep what is stored, claim what is not. `covered` is in the order of the ranges.

    Raises HaltError where objects overlap, reach beyond the log, or are incomplete under another layout.
    """
    _check(log, covered)
    stored_end = covered[-1].offsets.end if covered else 0
    segments: list[Segment] = []
    if need.committed is not None:
        committed, remark = need.committed, ""
        by_range = {item.offsets: item for item in covered}
        for claim in _claimed(committed):
            standing = by_range.get(claim.offsets)
            if standing is None and any(_overlap(claim.offsets, item.offsets) for item in covered):
                raise HaltError(
                    f"{log}: an object in S3 overlaps the claimed {claim.offsets}, without being it. "
                    f"Run `headrace verify`."
                )
            item = standing or Covered(claim.offsets, False, layout)
            segments.append(_judge(log, item, claimed=True, layout=layout, empty_below=committed.durable))
        origin = max(committed.last_end, committed.durable)
    else:
        origin, remark = _origin(log, need, covered)
        committed = Committed(origin, origin, (), 0, layout, log.topic_id)
    segments += _walk(log, committed.last_end, origin, covered, layout)
    committed = replace(committed, fill_until=stored_end if stored_end > committed.durable else 0)
    floor = max(committed.durable, log.start)
    return Takeover(committed, need.committed == committed, tuple(segments), floor, remark)


def _overlap(left: Range, right: Range) -> bool:
    return left.start < right.end and right.start < left.end


def _check(log: Log, covered: Sequence[Covered]) -> None:
    for left, right in itertools.pairwise(covered):
        if right.offsets.start < left.offsets.end:
            raise HaltError(
                f"{log}: objects {left.offsets} and {right.offsets} overlap in S3. "
                f"Run `headrace verify`, remove the wrong one, start again."
            )
    if covered and covered[-1].offsets.end > log.end:
        raise HaltError(
            f"{log}: S3 has objects up to offset {covered[-1].offsets.end}, but the log ends at {log.end}: "
            f"this is another log, or Kafka has lost records. To archive it, use another "
            f"S3_PREFIX and KAFKA_GROUP."
        )


def _origin(log: Log, need: NeedsList, covered: Sequence[Covered]) -> tuple[int, str]:
    """Where to start without claims, never inside a range that S3 has objects of."""
    remark = ""
    origin = need.origin if need.origin >= 0 else log.start
    if covered and (whole := _whole_until(covered)) < origin:
        origin = whole
        if need.origin >= 0:
            remark = f"the group stood at {need.origin}, beyond what is stored: going on from {whole}"
    if origin > log.end:
        raise HaltError(
            f"{log}: the group stands at offset {origin}, but the log ends at {log.end}. Is it the same topic? "
            f"Reset the group's offsets with kafka-consumer-groups.sh, or use another KAFKA_GROUP."
        )
    for item in covered:
        if item.offsets.start < origin < item.offsets.end:
            origin = item.offsets.end if item.complete else item.offsets.start
    return origin, remark


def _whole_until(covered: Sequence[Covered]) -> int:
    """Where the first thing is missing. Chunks are stored side by side, so that holes may lie before the stored end."""
    end = covered[0].offsets.start
    for item in covered:
        if item.offsets.start != end or not item.complete:
            break
        end = item.offsets.end
    return end


def _walk(log: Log, chunk_start: int, origin: int, covered: Sequence[Covered], layout: str) -> list[Segment]:
    """Segments from `chunk_start` on: what is covered, and gaps where Kafka has lost what isn't."""
    segments, at = [], chunk_start

    def gap_until(end: int) -> None:
        nonlocal at
        until = min(end, log.start)
        if max(at, origin) < until:
            segments.append(
                Segment(SegmentKind.GAP, Range(at, until), claimed=False, lost=Range(max(at, origin), until))
            )
            at = until

    for item in covered:
        if item.offsets.end <= at:
            continue
        if item.offsets.start < at:
            raise HaltError(
                f"{log}: the object {item.offsets} in S3 reaches beyond {at}, where the next chunk must start. "
                f"Run `headrace verify`."
            )
        gap_until(item.offsets.start)
        segments.append(_judge(log, item, claimed=False, layout=layout, empty_below=origin))
        at = item.offsets.end
    gap_until(log.start)
    return segments


def _judge(log: Log, item: Covered, *, claimed: bool, layout: str, empty_below: int) -> Segment:
    """A range whose name and ends stand: is it whole, to be cut again, or gone?"""
    offsets = item.offsets
    if item.complete:
        return Segment(SegmentKind.DONE, offsets, claimed)
    if item.layout != layout:
        raise HaltError(
            f"{log}: {offsets} is incomplete in S3 and was written with another layout ({item.layout}, now {layout}). "
            f"Start once with the former {NAMING} to complete it."
        )
    first = max(offsets.start, empty_below)
    lost = Range(first, min(log.start, offsets.end)) if first < log.start else None
    # Where a part of it stands, an empty object of the same kind completes it: a gap object would contradict that part.
    kind = SegmentKind.GAP if offsets.end <= log.start and not item.objects else SegmentKind.RECUT
    return Segment(kind, offsets, claimed, lost, item.objects)
