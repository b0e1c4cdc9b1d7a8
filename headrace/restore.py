"""`headrace restore`: an archive back into a Kafka topic, each record once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from aiokafka import TopicPartition
from pydantic import Field
from rich.console import Console

from headrace.errors import HeadraceError
from headrace.kafka import EARLIEST, LATEST, open_cluster
from headrace.nearby import adopt_local_stack
from headrace.points import parse
from headrace.restoring import Restoring
from headrace.s3 import open_store
from headrace.settings import KafkaSettings, S3Settings, load
from headrace.span import chunk_times, span
from headrace.table import show_table, slim_table
from headrace.telemetry import setup_logging
from headrace.verify import HEADS_AT_A_TIME, inspect_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headrace.coverage import Coverage
    from headrace.findings import TopicReport
    from headrace.kafka import KafkaCluster
    from headrace.objects import Range
    from headrace.s3 import ObjectStore

SHOWN: Final = 5
"""Problems of the archive that are written out: `verify` has all of them."""

DAY_MS: Final = 86_400_000


class RestoreSettings(KafkaSettings, S3Settings):
    kafka_topic: str = Field(pattern=r"^[a-zA-Z0-9._-]+$", description="topic whose archive is restored")


class Restore:
    """One restore from its first look to its end."""

    def __init__(self, settings: RestoreSettings, to: str, since: str, until: str, *, anyway: bool) -> None:
        self._settings = settings
        self.to = to
        self._since = parse(since, "--since")
        self._until = parse(until, "--until")
        self._anyway = anyway
        self.name = restore_name(settings.s3_bucket, settings.s3_prefix, settings.kafka_topic, to, since, until)
        self.spans: dict[int, Range] = {}
        self.records: Mapping[int, int] = {}
        """Restored by this run, by partition."""

    async def run(self, progress: Callable[[str], None], warn: Callable[[str], None]) -> None:
        """Raises HeadraceError for what stands in the way, KafkaUnavailable or S3Unavailable."""
        source = self._settings.kafka_topic
        async with (
            open_store(self._settings, connections=HEADS_AT_A_TIME) as store,
            open_cluster(self._settings) as cluster,
        ):
            report = await inspect_topic(store, prefix=self._settings.s3_prefix, topic=source, progress=progress)
            if not report.partitions:
                raise HeadraceError(
                    f"No object of topic {source} lies below {self._settings.place}. Is the prefix right?"
                )
            coverages = {partition.coverage.partition: partition.coverage for partition in report.partitions}
            for number, coverage in coverages.items():
                progress(f"{source}/{number}: looking for the range")
                self.spans[number] = await span(store, coverage, self._since, self._until)
            await self._room(cluster)

            async def check(begun: bool) -> None:
                """A topic may hold records when they are ours; an archive with holes would be restored with them."""
                problems = _wrong(report)
                if not begun:
                    problems += await self._obstacles(store, cluster, coverages)
                for problem in problems if self._anyway else ():
                    warn(problem)
                if problems and not self._anyway:
                    what = ["Nothing was restored now (--anyway does it all the same):", *problems]
                    raise HeadraceError("\n  ".join(what))

            restoring = Restoring(
                coverages,
                self.spans,
                settings=self._settings,
                store=store,
                cluster=cluster,
                topic=self.to,
                name=self.name,
                progress=progress,
            )
            self.records = restoring.records
            await restoring.run(check)

    async def _room(self, cluster: KafkaCluster) -> None:
        """The topic is there, made where the settings say so, and has a partition for each that is restored."""
        topic = await cluster.ensure_topic(
            self.to,
            partitions=self._settings.kafka_topic_partitions,
            replication=self._settings.kafka_topic_replication,
        )
        if without := sorted(self.spans.keys() - set(topic.partitions)):
            raise HeadraceError(
                f"Topic {self.to} has {len(topic.partitions)} partitions, too few for the archive's "
                f"{', '.join(map(str, without))}: give it {max(without) + 1}."
            )

    async def _obstacles(
        self, store: ObjectStore, cluster: KafkaCluster, coverages: Mapping[int, Coverage]
    ) -> list[str]:
        partitions = [TopicPartition(self.to, number) for number in self.spans]
        starts, ends = [await cluster.log_offsets(partitions, edge) for edge in (EARLIEST, LATEST)]
        times = []
        for number, offsets in self.spans.items():
            for chunk in coverages[number].chunks:
                if offsets.start < chunk.offsets.end and not chunk.is_gap:
                    times.append(await chunk_times(store, chunk))
                    break
        return obstacles(
            self.to,
            offsets=sum(ends[tp] - starts[tp] for tp in partitions),
            config=await cluster.topic_configs(self.to) or {},
            oldest_ms=min((told[0] for told in times if told is not None), default=None),
            now_ms=int(time.time() * 1000),
        )


def restore_name(bucket: str, prefix: str, topic: str, to: str, since: str, until: str) -> str:
    """Group and transactional id, the same for the same restore: one that was interrupted goes on where it stopped."""
    facts = (bucket, prefix, topic, since, until)
    return f"headrace-restore-{to}-{hashlib.sha256(orjson.dumps(facts)).hexdigest()[:8]}"


def obstacles(topic: str, *, offsets: int, config: Mapping[str, str], oldest_ms: int | None, now_ms: int) -> list[str]:
    """What makes a topic a place where records would not be as they were, or not stay. Pure.

    `offsets` that it holds, the entries of its `config` (none where they may not be read), the time of the first record
    that would come.
    """
    problems = []
    if offsets:
        problems.append(f"Topic {topic} holds {offsets:,} offsets already: the records would be mixed with those.")
    if config.get("message.timestamp.type") == "LogAppendTime":
        problems.append(f"Topic {topic} has message.timestamp.type=LogAppendTime: all times would be today's.")
    retention_ms = int(config.get("retention.ms", -1))
    if retention_ms >= 0 and "delete" in config.get("cleanup.policy", "") and oldest_ms is not None:
        days = (now_ms - oldest_ms) / DAY_MS
        if oldest_ms >= 0 and now_ms - oldest_ms > retention_ms:
            problems.append(
                f"Topic {topic} has retention.ms={retention_ms}, and the first records are {days:,.1f} days old: Kafka "
                f"would delete them at once. Set retention.ms=-1 until they have been read."
            )
    return problems


def _wrong(report: TopicReport) -> list[str]:
    """What `verify` finds wrong with the archive."""
    found = [problem for partition in report.partitions for problem in partition.problems()]
    more = [f"… and {len(found) - SHOWN:,} more: headrace verify tells all"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


@click.command()
@click.option("--topic", help="Topic whose archive is restored (KAFKA_TOPIC).")
@click.option("--to", help="Topic to write to (default: the same name).")
@click.option("--bucket", help="Bucket (default: S3_BUCKET).")
@click.option("--prefix", help="Folder in the bucket (default: S3_PREFIX).")
@click.option(
    "--since", default="earliest", show_default=True, help="First offset or time; a partition's own archive clips it."
)
@click.option("--until", default="latest", show_default=True, help="Offset or time before which it ends.")
@click.option("--anyway", is_flag=True, help="Only warn of what otherwise forbids it.")
@click.option("--json", "as_json", is_flag=True, help="Tell what was restored as JSON.")
def restore(
    topic: str | None,
    to: str | None,
    bucket: str | None,
    prefix: str | None,
    since: str,
    until: str,
    anyway: bool,
    as_json: bool,
) -> None:
    """Bring an archive, or a range of it, back into a Kafka topic: from S3, each record once.

    \b
    headrace restore --to payloads-again
    headrace restore --to november --since 2026-11-01 --until 2026-12-01

    Records keep their partition, order, timestamp, key, value and headers; offsets are new ones. They come in Kafka
    transactions, a chunk or 32 MiB of one at a time: consumers with read_committed see nothing twice. A restore that
    was stopped or killed goes on where it was, without a copy, when it is started again in the same words.

    Refused is an archive that is not whole, and a topic that holds records already, would delete them soon (retention),
    or would give them new times. A missing topic is made only where KAFKA_TOPIC_PARTITIONS says so.

    Exit codes: 0 all of it is there; 1 refused, or it failed; 2 wrong usage or settings.
    """  # noqa: D301 - click knows its mark only as a character
    adopt_local_stack(kafka=True, s3=bucket is None)
    settings = load(RestoreSettings, kafka_topic=topic, s3_bucket=bucket, s3_prefix=prefix)
    setup_logging(settings.log_level, settings.log_format)
    job = Restore(settings, to or settings.kafka_topic, since, until, anyway=anyway)
    errors = Console(stderr=True, soft_wrap=True)
    with errors.status(settings.kafka_topic) as status:  # silent where standard error is no terminal
        asyncio.run(job.run(status.update, lambda problem: errors.print(problem, style="yellow", markup=False)))
    _tell(job, settings, as_json=as_json)


def _tell(job: Restore, settings: RestoreSettings, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"partition": number, "start": offsets.start, "stop": offsets.end, "records": job.records[number]}
        for number, offsets in sorted(job.spans.items())
    ]
    if as_json:
        click.echo(
            orjson.dumps({"topic": settings.kafka_topic, "place": settings.place, "to": job.to, "partitions": rows})
        )
        return
    table = slim_table(
        f"{settings.kafka_topic} in {settings.place} restored to {job.to}",
        ("partition", "start", "stop", "records now"),
    )
    for row in rows:
        table.add_row(str(row["partition"]), str(row["start"]), str(row["stop"]), f"{row['records']:,}")
    show_table(Console(), table)
