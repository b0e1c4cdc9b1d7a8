"""`headrace verify`: does an archive hold every offset once? The bucket alone tells."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from pydantic import Field
from rich.console import Console
from rich.text import Text

from headrace.archive import patiently, survey
from headrace.coverage import is_complete, told_lost, told_objects
from headrace.inventory import take_inventory
from headrace.nearby import adopt_local_stack
from headrace.s3 import open_store
from headrace.settings import CommaList, S3Settings, load
from headrace.table import show_table, slim_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headrace.coverage import Chunk, Coverage
    from headrace.inventory import Inventory
    from headrace.objects import Range
    from headrace.s3 import ObjectStore

HEADS_AT_A_TIME: Final = 32
SHOWN: Final = 20
"""Problems of one kind and partition that are written out; --json has all of them."""


class VerifySettings(S3Settings):
    kafka_topic: CommaList = Field(min_length=1, description="topics whose archives are verified, comma")


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A chunk that lacks objects. `told`: how many it should have; None when no object's metadata says so."""

    chunk: Chunk
    told: int | None


@dataclass(slots=True)
class PartitionReport:
    """`eaten`: what Kafka had dropped of chunks that were stored in part; their objects' metadata tells.

    `payloads`: those that are objects of their own; None where there is no index, or nobody asked.
    """

    coverage: Coverage
    incomplete: list[Incomplete] = field(default_factory=list)
    eaten: list[Range] = field(default_factory=list)
    payloads: Inventory | None = None

    @property
    def whole(self) -> bool:
        payloads_there = self.payloads is None or self.payloads.whole
        return payloads_there and not (self.coverage.holes or self.coverage.overlaps or self.incomplete)

    @property
    def lost(self) -> list[Range]:
        """What was gone from Kafka before it could be archived, in order."""
        return sorted({*self.coverage.lost, *self.eaten})

    def problems(self) -> Iterator[str]:
        """A sentence each."""
        place = f"{self.coverage.topic}/{self.coverage.partition}"
        for hole in self.coverage.holes:
            yield f"{place}: {hole} is missing, {_count(hole)}"
        for left, right in self.coverage.overlaps:
            yield f"{place}: {right.keys[0]} overlaps {left.keys[0]}"
        for item in self.incomplete:
            have = f"{place}: {item.chunk.offsets} has {len(item.chunk.keys)} of"
            if item.told is None:
                yield f"{have} nobody knows how many objects: no metadata tells (--names-only does not ask)"
            else:
                yield f"{have} {item.told} objects"
        if self.payloads is not None:
            yield from self.payloads.unreadable
            for it in self.payloads.named:
                what = "is gone" if it.present is None else f"has {it.present:,} bytes, {it.size:,} were stored"
                yield f"{place}: the payload of offset {it.offset} {what}: {it.key}"
            if more := self.payloads.gone - len(self.payloads.named):
                yield f"{place}: {more:,} more payloads are gone"

    def as_json(self) -> dict[str, Any]:
        coverage = self.coverage
        return {
            "partition": coverage.partition,
            "whole": self.whole,
            "start": coverage.start,
            "end": coverage.end,
            "chunks": len(coverage.chunks),
            "objects": coverage.objects,
            "bytes": coverage.size,
            "holes": [_pair(hole) for hole in coverage.holes],
            "overlaps": [
                {"offsets": [_pair(left.offsets), _pair(right.offsets)], "keys": [left.keys, right.keys]}
                for left, right in coverage.overlaps
            ],
            "incomplete": [
                {"offsets": _pair(item.chunk.offsets), "present": len(item.chunk.keys), "told": item.told}
                for item in self.incomplete
            ],
            "lost": [_pair(lost) for lost in self.lost],
            "payloads": None if self.payloads is None else self.payloads.as_json(),
        }


@dataclass(frozen=True, slots=True)
class TopicReport:
    topic: str
    strangers: int
    partitions: tuple[PartitionReport, ...]

    @property
    def whole(self) -> bool:
        """No hole, no overlap, nothing incomplete, no payload gone, and there is something at all."""
        return bool(self.partitions) and all(partition.whole for partition in self.partitions)

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "whole": self.whole,
            "partitions": [partition.as_json() for partition in self.partitions],
            "other_objects": self.strangers,
        }


async def inspect_topic(
    store: ObjectStore,
    *,
    prefix: str,
    topic: str,
    names_only: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> TopicReport:
    """LIST a topic's objects, see how they join, ask whether each chunk has all of them, and LIST its payloads, if any.

    Raises S3Unavailable or S3Refused.
    """
    found = await survey(
        store, prefix=prefix, topic=topic, progress=lambda seen: progress(f"{topic}: {seen:,} objects")
    )
    reports = {number: PartitionReport(coverage) for number, coverage in found.partitions().items()}
    if not names_only:
        chunks = [
            (report, chunk) for report in reports.values() for chunk in report.coverage.chunks if not chunk.is_gap
        ]
        waiting = iter(chunks)
        done = 0

        async def work() -> None:
            nonlocal done
            for report, chunk in waiting:
                lacking, eaten = await _ask(store, chunk)
                if lacking is not None:
                    report.incomplete.append(lacking)
                report.eaten += eaten
                done += 1
                if done % 100 == 0:
                    progress(f"{topic}: {done:,} of {len(chunks):,} chunks")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(HEADS_AT_A_TIME, len(chunks))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        for report in reports.values():
            report.incomplete.sort(key=lambda item: item.chunk)
        # After the indexes were listed: whatever these tell of was stored before.
        payloads = await take_inventory(
            store,
            prefix=prefix,
            topic=topic,
            partitions=found.partitions(),
            progress=lambda done, of: progress(f"{topic}: payloads of {done:,} of {of:,} indexes"),
        )
        for number, inventory in payloads.items():
            reports[number].payloads = inventory
    return TopicReport(topic, found.strangers, tuple(reports.values()))


async def _ask(store: ObjectStore, chunk: Chunk) -> tuple[Incomplete | None, set[Range]]:
    """What a chunk lacks, if anything, and what of it Kafka had dropped: any of its objects may tell."""
    told: list[int | None] = []
    eaten = set()
    for key in chunk.keys:
        found = await patiently(lambda key=key: store.head(key))  # type: ignore[misc]
        told.append(None if found is None else told_objects(found.metadata))
        if found is not None and (lost := told_lost(found.metadata)) is not None:
            eaten.add(lost)
    if is_complete(len(chunk.keys), told):
        return None, eaten
    return Incomplete(chunk, min((number for number in told if number is not None), default=None)), eaten


def _count(offsets: Range) -> str:
    count = offsets.end - offsets.start
    return f"{count:,} offset{'' if count == 1 else 's'}"


def _pair(offsets: Range) -> tuple[int, int]:
    return offsets.start, offsets.end


def _show(console: Console, report: TopicReport, place: str, *, names_only: bool) -> None:
    if not report.partitions:
        console.print(Text(f"No object of topic {report.topic} lies below {place}. Is the prefix right?", "bold red"))
        return
    columns = ("part", "start", "end", "chunks", "objects", "bytes", "lost", "holes", "overlaps", "incomplete")
    one_by_one = any(partition.payloads for partition in report.partitions)
    table = slim_table(f"{report.topic} in {place}", (*columns, "payloads", "gone") if one_by_one else columns)
    for partition in report.partitions:
        coverage = partition.coverage
        numbers = (len(coverage.holes), len(coverage.overlaps), len(partition.incomplete))
        table.add_row(
            str(coverage.partition),
            str(coverage.start),
            str(coverage.end),
            f"{len(coverage.chunks):,}",
            f"{coverage.objects:,}",
            f"{coverage.size:,}",
            str(sum(lost.end - lost.start for lost in partition.lost)),
            *(str(number) for number in numbers[:2]),
            "not asked" if names_only else str(numbers[2]),
            *((f"{payloads.told:,}", f"{payloads.gone:,}") if (payloads := partition.payloads) else ()),
            style="" if partition.whole else "bold red",
        )
    show_table(console, table)
    for partition in report.partitions:
        for lost in partition.lost:
            place = f"{report.topic}/{partition.coverage.partition}"
            console.print(Text(f"{place}: {lost} was gone from Kafka before it could be archived", "yellow"))
        problems = list(partition.problems())
        for problem in problems[:SHOWN]:
            console.print(Text(problem, "red"))
        if len(problems) > SHOWN:
            console.print(Text(f"… and {len(problems) - SHOWN:,} more; --json has them all", "red"))
    if report.whole:
        console.print(Text(f"{report.topic}: whole. Every offset from start to end is there once.", "bold green"))
    else:
        console.print(Text(f"{report.topic}: not whole.", "bold red"))


async def _verify(settings: VerifySettings, *, names_only: bool, as_json: bool) -> bool:
    place = "/".join(filter(None, [f"s3://{settings.s3_bucket}", settings.s3_prefix]))
    console = Console(soft_wrap=True)
    reports = []
    async with open_store(settings, connections=HEADS_AT_A_TIME) as store:
        for topic in settings.kafka_topic:
            with Console(stderr=True).status(topic) as status:  # silent where standard error is no terminal
                reports.append(
                    await inspect_topic(
                        store, prefix=settings.s3_prefix, topic=topic, names_only=names_only, progress=status.update
                    )
                )
            if not as_json:
                _show(console, reports[-1], place, names_only=names_only)
    whole = all(report.whole for report in reports)
    if as_json:
        answer: Mapping[str, Any] = {
            "whole": whole,
            "bucket": settings.s3_bucket,
            "prefix": settings.s3_prefix,
            "names_only": names_only,
            "topics": [report.as_json() for report in reports],
        }
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    return whole


@click.command()
@click.option("--topic", help="Topics, comma between them (default: KAFKA_TOPIC).")
@click.option("--bucket", help="Bucket (default: S3_BUCKET).")
@click.option("--prefix", help="Folder in the bucket (default: S3_PREFIX).")
@click.option("--names-only", is_flag=True, help="Don't ask each chunk how many objects it has: LIST alone.")
@click.option("--json", "as_json", is_flag=True, help="For machines, with all details.")
def verify(topic: str | None, bucket: str | None, prefix: str | None, names_only: bool, as_json: bool) -> None:
    """Show that an archive holds every offset once, from the bucket alone.

    The ranges in the objects' names must join, partition by partition, without hole or overlap, and every chunk must
    have all its objects. Offsets that Kafka had dropped before they could be archived count as lost, not as holes.
    With FORMAT=object every payload that an index tells of must be there, with the size that it tells.

    Exit codes: 0 whole; 1 a hole, an overlap, an incomplete chunk, a payload gone, or nothing there; 2 wrong usage or
    settings.
    """
    if bucket is None:
        adopt_local_stack(s3=True)
    settings = load(VerifySettings, kafka_topic=topic, s3_bucket=bucket, s3_prefix=prefix)
    if not asyncio.run(_verify(settings, names_only=names_only, as_json=as_json)):
        sys.exit(1)
