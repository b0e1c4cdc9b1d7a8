"""`headrace consume`, `headrace replay` and `headrace claims`."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console

from consumer.claims import ClaimsUnreadable, decode
from consumer.settings import ConsumerSettings
from headrace.errors import HeadraceError, SettingsError
from headrace.kafka import open_cluster
from headrace.nearby import adopt_local_stack
from headrace.objects import topic_folder
from headrace.points import parse
from headrace.settings import load
from headrace.table import show_table, slim_table

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from consumer.taking import Bounds
    from headrace.kafka import KafkaCluster


@click.command()
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Archivers on this machine.")
@click.option("--topic", help="Topics to archive, comma (KAFKA_TOPIC).")
@click.option("--group", help="Consumer group (KAFKA_GROUP).")
@click.option("--prefix", help="Folder in the bucket (S3_PREFIX).")
def consume(processes: int, topic: str | None, group: str | None, prefix: str | None) -> None:
    """Archive topics to S3, exactly once per offset, until SIGTERM or Ctrl-C.

    Start as many as there are partitions, here with --processes or on many machines: a group shares the work, and
    each takes over where another was killed. The group's committed offset is always what is stored. SIGTERM: store
    what is held within DRAIN_SECONDS, leave; what isn't stored by then, the next owner stores.
    """
    adopt_local_stack(kafka=True, s3=True)
    settings = load(ConsumerSettings, kafka_topic=topic, kafka_group=group, s3_prefix=prefix)
    from consumer.process import run, run_several

    if processes == 1:
        run(settings)
        return
    overrides = {"KAFKA_TOPIC": topic, "KAFKA_GROUP": group, "S3_PREFIX": prefix}
    sys.exit(run_several(settings, processes, {name: value for name, value in overrides.items() if value is not None}))


@click.command()
@click.option("--topic", help="Topic to replay (KAFKA_TOPIC).")
@click.option(
    "--since", default="earliest", show_default=True, help="First offset or time; a partition's own log clips it."
)
@click.option("--until", default="latest", show_default=True, help="Offset or time before which it ends.")
@click.option("--prefix", required=True, help="Folder in the bucket to write to: a new one, never the archive's own.")
@click.option("--group", help="Consumer group; by default one that belongs to this prefix and topic.")
@click.option("--json", "as_json", is_flag=True, help="Tell the ranges as JSON.")
def replay(topic: str | None, since: str, until: str, prefix: str, group: str | None, as_json: bool) -> None:
    """Archive a range of a topic again, from Kafka into another prefix, and end when it is whole.

    \b
    headrace replay --prefix again/2026-11-22 --since 2026-11-22 --until 2026-11-23
    headrace replay --prefix again/tail --since 120000 --until latest

    Times are those of the records, UTC unless they name a zone. The same guarantees hold as for the archive. A replay
    that was interrupted goes on, with the ranges it began with, when it is started again with the same prefix.
    """  # noqa: D301 - click knows its mark only as a character
    adopt_local_stack(kafka=True, s3=True)
    settings = load(ConsumerSettings, kafka_topic=topic, s3_prefix=prefix)
    if len(settings.kafka_topic) != 1:
        raise SettingsError(f"replay takes one topic, not {', '.join(settings.kafka_topic)}: say --topic")
    if load(ConsumerSettings, kafka_topic=topic).s3_prefix == settings.s3_prefix:
        raise SettingsError(f"--prefix {prefix} is S3_PREFIX, the archive's own: replay into another one")
    name = settings.kafka_topic[0]
    archive = topic_folder(load(ConsumerSettings, kafka_topic=topic).s3_prefix, name)
    if topic_folder(settings.s3_prefix, name).startswith(archive):
        raise SettingsError(f"--prefix {prefix} lies in the archive's own folder {archive}: replay into another one")
    from consumer.process import run
    from consumer.ranges import replay_group, resolve

    parse(since, "--since")
    parse(until, "--until")
    own_group = group or replay_group(name, settings.s3_bucket, settings.s3_prefix)
    settings = load(
        ConsumerSettings, kafka_topic=name, s3_prefix=prefix, kafka_group=own_group, kafka_topic_partitions=0
    )

    async def find() -> Bounds:
        async with open_cluster(settings) as cluster:
            return await resolve(cluster, (await cluster.topic(name)).topic_partitions, since, until)

    bounds = asyncio.run(find())
    if not run(settings, bounds):
        raise HeadraceError(
            f"The replay was stopped before it was whole. Start it again with --prefix {prefix} to go on."
        )
    # The ranges are those of the prefix's marker, should an earlier run have begun with others.
    _tell_replay(settings, bounds, as_json=as_json)


def _tell_replay(settings: ConsumerSettings, bounds: Bounds, *, as_json: bool) -> None:
    place = f"s3://{settings.s3_bucket}/{settings.s3_prefix}"
    rows = [(tp.partition, start, stop) for tp, (start, stop) in sorted(bounds.items())]
    if as_json:
        told = [{"partition": number, "start": start, "stop": stop} for number, start, stop in rows]
        click.echo(orjson.dumps({"topic": settings.kafka_topic[0], "place": place, "partitions": told}))
        return
    title = f"{settings.kafka_topic[0]} replayed into {place}"
    table = slim_table(title, ("partition", "start", "stop", "offsets"))
    for number, start, stop in rows:
        table.add_row(str(number), str(start), str(stop), str(stop - start))
    show_table(Console(), table)


@click.group()
def claims() -> None:
    """See the claims that the group's commits hold, or drop them."""
    adopt_local_stack(kafka=True, s3=True)


@claims.command("show")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show_claims(as_json: bool) -> None:
    """The chunks that are claimed and not yet committed past, by partition."""
    settings = load(ConsumerSettings)
    rows = asyncio.run(_read_claims(settings))
    if as_json:
        click.echo(orjson.dumps(rows))
        return
    columns = ("topic", "partition", "durable", "claimed", "layout", "remark")
    table = slim_table(f"group {settings.kafka_group}", columns, left=("topic", "claimed", "layout", "remark"))
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    show_table(Console(), table)


async def _read_claims(settings: ConsumerSettings) -> list[dict[str, Any]]:
    rows = []
    async with open_cluster(settings) as cluster:
        for topic in settings.kafka_topic:
            partitions = (await cluster.topic(topic)).topic_partitions
            for tp, (offset, metadata) in sorted((await cluster.committed(settings.kafka_group, partitions)).items()):
                rows.append(_claims_row(tp, offset, metadata))
    return rows


def _claims_row(tp: TopicPartition, offset: int, metadata: str) -> dict[str, Any]:
    row = {"topic": tp.topic, "partition": tp.partition, "durable": offset, "claimed": [], "layout": "", "remark": ""}
    try:
        committed = decode(offset, metadata)
    except ClaimsUnreadable as error:
        return row | {"remark": str(error)}
    if committed is None:
        return row | {"remark": "nothing committed" if offset < 0 else "committed by another tool"}
    edges = (committed.start, *committed.ends)
    claimed = [list(pair) for pair in itertools.pairwise(edges)]
    remark = f"repairing up to {committed.fill_until}" if committed.fill_until > offset else ""
    return row | {"claimed": claimed, "layout": committed.layout, "remark": remark}


@claims.command("drop")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop_claims(yes: bool) -> None:
    """Drop the group's claims, keeping its offsets. No consumer of the group may run.

    For a group whose former layout or version can't be started any more. Nothing is lost or doubled by it: the next
    owner waits until no upload of a former one can land (three times UPLOAD_TIMEOUT_SECONDS), looks into S3 for what is
    stored above the offset, and archives only what is missing.
    """
    from consumer.taking import QUIET_DEADLINES

    settings = load(ConsumerSettings)
    if not yes:
        click.confirm(f"Drop the claims of group {settings.kafka_group}?", abort=True)
    count = asyncio.run(_drop(settings))
    wait = QUIET_DEADLINES * settings.upload_timeout_seconds
    click.echo(f"Dropped the claims of {count} partitions. The next consumer waits {wait:g} s, then looks into S3.")


async def _drop(settings: ConsumerSettings) -> int:
    async with open_cluster(settings) as cluster:
        group = await cluster.group(settings.kafka_group)
        if group.members:
            raise HeadraceError(
                f"Group {settings.kafka_group} has {len(group.members)} members. Stop all of its consumers first "
                f"(one that was killed leaves after SESSION_TIMEOUT_SECONDS)."
            )
        return await _drop_of(cluster, settings)


async def _drop_of(cluster: KafkaCluster, settings: ConsumerSettings) -> int:
    offsets: dict[TopicPartition, int] = {}
    for topic in settings.kafka_topic:
        partitions = (await cluster.topic(topic)).topic_partitions
        committed = await cluster.committed(settings.kafka_group, partitions)
        offsets |= {tp: offset for tp, (offset, metadata) in committed.items() if offset >= 0 and metadata}
    if offsets:
        await cluster.set_offsets(settings.kafka_group, offsets)
    return len(offsets)
