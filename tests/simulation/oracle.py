"""What must hold, asked at every landing of an object, at every commit, and in the end."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consumer.budget import Budget
from consumer.claims import decode
from headrace.archive import ArchiveError
from headrace.objects import BESIDE_FOLDER, GAP_SUFFIX, Range, parse_key
from tests.simulation.reading import records_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from aiokafka import TopicPartition

    from consumer.layout import Layout
    from headrace.objects import ObjectName
    from tests.simulation.logs import Log
    from tests.simulation.store import Stored
    from tests.simulation.virtual import Process
    from tests.simulation.world import World


FIRST_TOPIC_ID = "topic-1"


@dataclass
class Truth:
    """What is known of one partition from outside."""

    log: Log
    missing: set[int] = field(default_factory=set)
    """Offsets of records that neither stand in S3 nor were told to be lost."""
    objects: dict[Range, dict[str, frozenset[int]]] = field(default_factory=dict)
    committed: int = -1
    """Where the group stands."""
    floor: int = -1
    """No commit may say less, until an operator moves the group."""
    unset: bool = True
    """The group has no offset."""
    wrecked: set[Range] = field(default_factory=set)
    """Chunks of which an operator has removed an object."""
    origin: int = 0
    """Where the archive may begin: what lies below was never asked for."""
    stop: int | None = None
    """Where a replay ends."""
    known_end: int = 0
    """The highest end that was committed or claimed."""
    layouts: dict[Range, str] = field(default_factory=dict)

    @property
    def beyond_log(self) -> bool:
        """More was archived or claimed than the log has."""
        return max([self.known_end, *(offsets.end for offsets in self.objects)]) > self.log.end

    @property
    def end(self) -> int:
        """Where the archive is whole."""
        return self.log.end if self.stop is None else self.stop


class Oracle:
    """Watches one run from outside. Each finding goes to `world.violated`."""

    def __init__(self, world: World, logs: Mapping[int, Log], layouts: Sequence[Layout]) -> None:
        self._world = world
        self._layouts = {(layout.fingerprint, layout.prefix): layout for layout in layouts}
        self.truths = {number: Truth(log) for number, log in logs.items()}
        self._made_anew = False

    def appended(self, log: Log, offset: int) -> None:
        truth = self.truths[log.partition]
        if log is not truth.log:
            self._made_anew = True
        elif truth.stop is None or offset < truth.stop:
            truth.missing.add(offset)

    def wanted(self, spans: Mapping[int, tuple[int, int]]) -> None:
        """A replay of these ranges, and of nothing else."""
        for partition, (start, stop) in spans.items():
            truth = self.truths[partition]
            truth.origin, truth.stop = start, stop
            truth.missing = {offset for offset in truth.missing if start <= offset < stop}

    def made_anew(self) -> None:
        """The topic is another one now: nothing of it may be stored or committed as if it were the former."""
        self._made_anew = True

    def cut_short(self, partition: int, end: int) -> None:
        truth = self.truths[partition]
        truth.missing = {offset for offset in truth.missing if offset < end}

    def compacted(self, partition: int, offsets: set[int]) -> None:
        self.truths[partition].missing -= offsets

    # Objects

    def landed(self, key: str, objects: Mapping[str, Stored], process: Process) -> None:
        """An object stands in the store from now on, beside what else does."""
        name, stored = parse_key(key), objects[key]
        if name is None or f"/{BESIDE_FOLDER}/" in key:
            return  # looked at with the object that tells of it
        truth, say = self.truths[name.partition], self._world.violated
        offsets = name.range
        for other in truth.objects:
            if other != offsets and other.start < offsets.end and offsets.start < other.end:
                say(f"{process.name} stored {key}, which overlaps {other}")
                return
        before = truth.objects.get(offsets, {}).get(key)
        held = self._content(truth, key, name, objects)
        if held is None:
            return
        if truth.stop is not None and not truth.origin <= offsets.start < offsets.end <= truth.stop:
            say(f"{process.name} stored {key}; the replay is of {truth.origin}-{truth.stop}")
        layout = stored.metadata["headrace-layout"]
        if truth.layouts.setdefault(offsets, layout) != layout and offsets in truth.objects:
            say(f"{process.name} stored {key} with layout {layout}; {offsets} is of {truth.layouts[offsets]}")
        if before is not None and len(held) < len(before):
            say(f"{process.name} replaced {key} of {len(before)} records by one of {len(held)}")
            return
        for other_key, other_held in truth.objects.get(offsets, {}).items():
            if other_key != key and held & other_held:
                say(f"{process.name} stored {key}; {other_key} has the same records")
        truth.objects.setdefault(offsets, {})[key] = held
        kinds = {each.endswith(GAP_SUFFIX) for each in truth.objects[offsets]}
        if len(kinds) > 1:
            say(f"{process.name} stored {key}: {offsets} has both a gap and objects")
        truth.missing -= held
        if (lost := stored.metadata.get("headrace-lost")) is not None:
            start, end = map(int, lost.split("-"))
            if end > truth.log.start or not offsets.start <= start < end <= offsets.end:
                say(f"{process.name} says that {lost} of {key} is lost; the log starts at {truth.log.start}")
            truth.missing -= set(range(start, end))

    def _content(
        self, truth: Truth, key: str, name: ObjectName, objects: Mapping[str, Stored]
    ) -> frozenset[int] | None:
        """The offsets that an object holds; None when something is wrong with them."""
        stored = objects[key]
        say, log, metadata = self._world.violated, truth.log, stored.metadata
        if name.is_gap:
            return frozenset()
        try:
            records = records_of(key, objects)
        except ArchiveError as error:
            say(f"{key} can't be read: {error}")
            return None
        numbers = [record.offset for record in records]
        for record in records:
            if log.ever.get(record.offset) != record:
                say(f"{key} holds {record}, the log has {log.ever.get(record.offset)}")
                return None
        if any(left >= right for left, right in itertools.pairwise(numbers)):
            say(f"{key}: offsets are not in order: {numbers}")
        if metadata["headrace-records"] != str(len(records)):
            say(f"{key} holds {len(records)} records, its metadata says {metadata['headrace-records']}")
        if metadata["headrace-sha256"] != hashlib.sha256(stored.body).hexdigest():
            say(f"{key}: not the digest of its metadata")
        layout = self._layouts[metadata["headrace-layout"], key.partition("/")[0]]
        lost_from, lost_to = map(int, metadata.get("headrace-lost", "0-0").split("-"))
        for offset in range(name.range.start, name.range.end):
            known = log.ever.get(offset)
            if known is None or offset in log.compacted or (offset < log.start and lost_from <= offset < lost_to):
                continue
            bucket = layout.place(known)
            if (layout.key(name.topic, name.partition, name.range, bucket) == key) != (offset in numbers):
                say(f"{key}: offset {offset} is {'' if offset in numbers else 'not '}in it")
                return None
        return frozenset(numbers)

    def removed(self, key: str) -> Range:
        """An operator has removed an object from S3."""
        name = parse_key(key)
        assert name is not None
        truth = self.truths[name.partition]
        held = truth.objects[name.range].pop(key)
        if not truth.objects[name.range]:
            del truth.objects[name.range]
        truth.wrecked.add(name.range)
        truth.missing |= {offset for offset in held if offset >= truth.log.start and offset not in truth.log.compacted}
        return name.range

    # Commits

    def forgotten(self, tp: TopicPartition) -> None:
        """An operator has deleted the group's offset."""
        truth = self.truths[tp.partition]
        truth.committed = truth.floor = -1
        truth.known_end = 0
        truth.unset = True
        if truth.stop is None:
            truth.origin = min((truth.log.start, *(offsets.start for offsets in truth.objects)))

    def on_commit(self, tp: TopicPartition, offset: int, metadata: str, hint: str) -> None:
        truth = self.truths[tp.partition]
        if self._world.tracing:
            self._world.say(hint, f"committed {tp.partition}: {offset} {metadata}")
        else:
            self._world.counts["committed"] += 1
        before, truth.committed = truth.floor, offset
        starts = [offsets.start for offsets in truth.objects]
        if (said := decode(offset, metadata)) is not None:
            truth.known_end = max(truth.known_end, said.last_end, said.durable)
            if self._made_anew and said.topic_id != FIRST_TOPIC_ID:
                self._world.violated(f"{hint} committed {tp.partition} at {offset} of the topic that was made anew")
        if hint == "operator":
            truth.floor = -1
            truth.known_end = 0
            truth.unset = False
            truth.origin = min((offset, *starts))  # nothing tells that what lies below both was ever wanted
            return
        if truth.unset:
            truth.unset = False
            truth.origin = max(truth.origin, min((offset, truth.log.start, *starts)))  # it begins where the log does
        if offset < before:
            self._world.violated(f"{hint} moved {tp.partition} back from {before} to {offset}")
        truth.floor = offset
        first = min((number for number in truth.missing if number >= truth.origin), default=offset)
        if first < offset:
            self._world.violated(f"{hint} committed {tp.partition} at {offset}, but {first} is not stored")

    # The end

    def missing(self) -> dict[int, list[int]]:
        """What should be stored, and isn't, by partition."""
        lacks = {}
        for number, truth in self.truths.items():
            if wanted := sorted(offset for offset in truth.missing if offset >= truth.origin):
                lacks[number] = wanted
        return lacks

    def whole(self, halted: Collection[int] = ()) -> str | None:
        """None when everything is stored and committed, or has stopped where it must; else what is missing."""
        for number, truth in self.truths.items():
            if self._made_anew or truth.beyond_log:
                begun = bool(truth.known_end or truth.objects)
                if begun and number not in halted:
                    return f"partition {number} must halt: its log is another one"
                continue
            by_operator = truth.floor < 0 and any(offset >= truth.origin for offset in truth.missing)
            if truth.committed != truth.end or by_operator:
                return f"partition {number} is committed at {truth.committed}, its end is {truth.end}"
        return None

    def judge(self, counts: Mapping[str, Stored]) -> None:
        """After the run. `counts`: the objects as they stand in S3."""
        say = self._world.violated
        missing = self.missing()
        for number, truth in self.truths.items():
            if self._made_anew or truth.beyond_log:
                continue  # it has halted
            if number in missing:
                say(f"partition {number}: records {missing[number]} are not stored")
            ranges = sorted(truth.objects)
            for left, right in itertools.pairwise(ranges):
                if left.end < right.start:
                    say(f"partition {number}: a hole between {left} and {right}")
            for offsets in ranges:
                keys = truth.objects[offsets]
                told = {int(counts[key].metadata["headrace-chunk-objects"]) for key in keys}
                beyond_help = offsets in truth.wrecked and offsets.end <= truth.log.start
                if len(keys) < min(told) and not beyond_help:
                    say(f"partition {number}: {offsets} has {len(keys)} objects of {told}")


class WatchedBudget(Budget):
    """Counts as Budget does, and tells when more is held than may be."""

    def __init__(self, high: int, slack: int, world: World) -> None:
        super().__init__(high)
        self._slack = slack
        self._world = world

    def add(self, size: int) -> None:
        super().add(size)
        if self.held > self.high + self._slack:
            self._world.violated(f"{self.held} bytes are held, {self.high} is the budget (and {self._slack} a fetch)")
