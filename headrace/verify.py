"""`headrace verify`: does an archive hold every offset once? The bucket alone tells."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from pydantic import Field
from rich.console import Console
from rich.text import Text

from headrace.archive import patiently, survey
from headrace.coverage import is_complete, told_lost, told_objects, told_records
from headrace.findings import Incomplete, PartitionReport, TopicReport
from headrace.inventory import list_beside, take_inventory
from headrace.nearby import adopt_local_stack
from headrace.objects import beside_keys
from headrace.s3 import open_store
from headrace.settings import CommaList, IsolationLevel, KafkaSettings, S3Settings, load
from headrace.table import show_table, slim_table
from headrace.telemetry import setup_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from headrace.coverage import Chunk
    from headrace.deep import Deep
    from headrace.s3 import ObjectStore

HEADS_AT_A_TIME: Final = 32
SHOWN: Final = 20
"""Problems of one kind and partition that are written out; --json has all of them."""


class VerifySettings(S3Settings):
    kafka_topic: CommaList = Field(min_length=1, description="topics whose archives are verified, comma")


class DeepSettings(KafkaSettings, VerifySettings):
    kafka_isolation_level: IsolationLevel = Field("read_committed", description="as it was when the archive was made")


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
        # After the topic's objects were listed: whatever belongs to these was stored before.
        lines = any(chunk.is_lines for _, chunk in chunks)
        beside = await list_beside(store, prefix, topic) if lines else frozenset()
        waiting = iter(chunks)
        done = 0

        async def work() -> None:
            nonlocal done
            for report, chunk in waiting:
                await _ask(store, chunk, beside, report)
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
            report.alone.sort()
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


async def _ask(store: ObjectStore, chunk: Chunk, beside: frozenset[str], report: PartitionReport) -> None:
    """What a chunk lacks, and what of it Kafka had dropped: any of its objects may tell."""
    told: list[int | None] = []
    eaten = set()
    for key in chunk.keys:
        found = await patiently(lambda key=key: store.head(key))  # type: ignore[misc]
        told.append(None if found is None else told_objects(found.metadata))
        if found is None:
            continue
        if (lost := told_lost(found.metadata)) is not None:
            eaten.add(lost)
        if chunk.is_lines and (records := told_records(found.metadata)):
            places = beside_keys(key, records)
            if beside.isdisjoint(places):
                report.alone.append(places[0] if places else key)
    report.eaten += eaten
    if not is_complete(len(chunk.keys), told):
        least = min((number for number in told if number is not None), default=None)
        report.incomplete.append(Incomplete(chunk, least))


def _show(console: Console, report: TopicReport, place: str, *, names_only: bool) -> None:
    if not report.partitions:
        console.print(Text(f"No object of topic {report.topic} lies below {place}. Is the prefix right?", "bold red"))
        return
    columns = ["part", "start", "end", "chunks", "objects", "bytes", "lost", "holes", "overlaps", "incomplete"]
    one_by_one = any(partition.payloads for partition in report.partitions)
    if one_by_one:
        columns += ["payloads", "gone"]
    deep = any(partition.comparison for partition in report.partitions)
    if deep:
        columns += ["as in Kafka", "no longer there", "different"]
    table = slim_table(f"{report.topic} in {place}", columns)
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
            *((f"{it.told:,}", f"{it.gone:,}") if (it := partition.payloads) else ("", "") if one_by_one else ()),
            *((f"{its.equal:,}", f"{its.dropped:,}", f"{its.different:,}") if (its := partition.comparison) else ()),
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
        equal = " Every record that Kafka still has is as it is there." if deep else ""
        console.print(
            Text(f"{report.topic}: whole. Every offset from start to end is there once.{equal}", "bold green")
        )
    else:
        console.print(Text(f"{report.topic}: not whole.", "bold red"))


@contextlib.asynccontextmanager
async def _open_deep(
    settings: DeepSettings, store: ObjectStore, progress: Callable[[str], None]
) -> AsyncIterator[Deep]:
    from headrace.deep import Deep
    from headrace.kafka import open_cluster
    from headrace.log import open_reader

    async with open_cluster(settings) as cluster, open_reader(settings, settings.kafka_isolation_level) as reader:
        yield Deep(store, cluster, reader, progress=progress)


async def _verify(settings: VerifySettings, *, names_only: bool, as_json: bool) -> bool:
    console = Console(soft_wrap=True)
    reports = []
    async with contextlib.AsyncExitStack() as stack:
        status = stack.enter_context(Console(stderr=True).status(""))  # silent where standard error is no terminal
        store = await stack.enter_async_context(open_store(settings, connections=HEADS_AT_A_TIME))
        deep = None
        if isinstance(settings, DeepSettings):
            deep = await stack.enter_async_context(_open_deep(settings, store, status.update))
        for topic in settings.kafka_topic:
            status.start()
            status.update(topic)
            report = await inspect_topic(
                store, prefix=settings.s3_prefix, topic=topic, names_only=names_only, progress=status.update
            )
            if deep is not None:
                await deep.compare(report)
            status.stop()
            reports.append(report)
            if not as_json:
                _show(console, report, settings.place, names_only=names_only)
    whole = all(report.whole for report in reports)
    if as_json:
        answer: Mapping[str, Any] = {
            "whole": whole,
            "bucket": settings.s3_bucket,
            "prefix": settings.s3_prefix,
            "names_only": names_only,
            "deep": deep is not None,
            "topics": [report.as_json() for report in reports],
        }
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    return whole


@click.command()
@click.option("--topic", help="Topics, comma between them (default: KAFKA_TOPIC).")
@click.option("--bucket", help="Bucket (default: S3_BUCKET).")
@click.option("--prefix", help="Folder in the bucket (default: S3_PREFIX).")
@click.option("--names-only", is_flag=True, help="Don't ask each chunk how many objects it has: LIST alone.")
@click.option("--deep", is_flag=True, help="Read all of it, and compare each record with Kafka's.")
@click.option("--json", "as_json", is_flag=True, help="For machines, with all details.")
def verify(
    topic: str | None, bucket: str | None, prefix: str | None, names_only: bool, deep: bool, as_json: bool
) -> None:
    """Show that an archive holds every offset once, from the bucket alone; with --deep, that each record is Kafka's.

    The ranges in the objects' names must join, partition by partition, without hole or overlap, and every chunk must
    have all its objects. Offsets that Kafka had dropped before they could be archived count as lost, not as holes.
    With FORMAT=object every payload that an index tells of must be there, with the size that it tells; with FORMAT=raw,
    what belongs beside the lines.

    --deep reads every object, and the same offsets in Kafka by a client of its own (KAFKA_BOOTSTRAP_SERVERS): offset,
    timestamp, key, value and headers must be the same. What Kafka has dropped meanwhile (retention, compaction) is
    counted; what it has beyond the archive's end is not asked for: `headrace status` tells.

    Exit codes: 0 whole; 1 a hole, an overlap, an incomplete chunk, something gone or different, or nothing there;
    2 wrong usage or settings.
    """
    if deep and names_only:
        raise click.UsageError("--names-only reads nothing, --deep everything: say one of them")
    adopt_local_stack(kafka=deep, s3=bucket is None)
    kind = DeepSettings if deep else VerifySettings
    settings = load(kind, kafka_topic=topic, s3_bucket=bucket, s3_prefix=prefix)
    setup_logging(settings.log_level, settings.log_format)
    if not asyncio.run(_verify(settings, names_only=names_only, as_json=as_json)):
        sys.exit(1)
