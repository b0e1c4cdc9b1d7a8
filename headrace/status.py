"""`headrace status`: how far the archive is behind, from what Kafka knows."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import orjson
from pydantic import Field
from rich.console import Console
from rich.text import Text

from headrace.kafka import EARLIEST, LATEST, open_cluster
from headrace.nearby import adopt_local_stack
from headrace.settings import CommaList, KafkaSettings, load
from headrace.table import show_table, slim_table

if TYPE_CHECKING:
    from headrace.kafka import Group, KafkaCluster


class StatusSettings(KafkaSettings):
    kafka_topic: CommaList = Field(min_length=1, description="topics that are archived, comma")
    kafka_group: str = Field("headrace", min_length=1, description="consumer group that archives them")


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition. `committed` is the durable watermark: everything before it is in S3; None before the first commit.

    `claims`: chunks on their way to S3; None when the metadata of the commit isn't headrace's.
    """

    topic: str
    partition: int
    log_start: int
    log_end: int
    committed: int | None
    claims: int | None
    member: str

    @property
    def lag(self) -> int:
        """Offsets that Kafka has and S3 doesn't have yet."""
        return max(0, self.log_end - max(self.log_start, self.committed or 0))

    @property
    def lost(self) -> int:
        """Offsets that Kafka has dropped before they were stored."""
        return 0 if self.committed is None else max(0, self.log_start - self.committed)

    def as_json(self) -> dict[str, Any]:
        names = ("topic", "partition", "log_start", "log_end", "committed", "lag", "claims", "lost")
        return {**{name: getattr(self, name) for name in names}, "member": self.member or None}


def count_claims(metadata: str) -> int | None:
    """How many chunks are claimed, by the metadata of a commit; None when it isn't headrace's.

    The metadata is words with a blank between them, `headrace/1 <layout> <topic id> <durable> <start> <fill until>
    <claims>`; the last one is the chunks' lengths with commas between them, or a dash. consumer/claims.py writes it.
    """
    words = metadata.split(" ")
    if not words[0].startswith("headrace/"):
        return 0 if not metadata else None
    return 0 if words[-1] == "-" else len(words[-1].split(","))


async def look(cluster: KafkaCluster, topics: tuple[str, ...], group_name: str) -> tuple[Group, list[PartitionStatus]]:
    """Ask Kafka. Raises KafkaUnavailable, TopicMissing, or HeadraceError for a refusal."""
    group = await cluster.group(group_name)
    # The end of a member id tells consumers of one machine apart.
    names = {member.id: f"{member.host.lstrip('/')} {member.id[-6:]}" for member in group.members}
    owners = {tp: names[member.id] for member in group.members for tp in member.partitions}
    found = []
    for name in topics:
        partitions = (await cluster.topic(name)).topic_partitions
        # The commits first: an end that is asked later can't lie before them.
        commits = await cluster.committed(group_name, partitions)
        starts = await cluster.log_offsets(partitions, EARLIEST)
        ends = await cluster.log_offsets(partitions, LATEST)
        for tp in partitions:
            offset, metadata = commits[tp]
            found.append(
                PartitionStatus(
                    topic=name,
                    partition=tp.partition,
                    log_start=starts[tp],
                    log_end=ends[tp],
                    committed=None if offset < 0 else offset,
                    claims=count_claims(metadata),
                    member=owners.get(tp, ""),
                )
            )
    return group, found


def _show(console: Console, group: Group, partitions: list[PartitionStatus]) -> None:
    columns = ("topic", "part", "log start", "log end", "committed", "lag", "claims", "consumer")
    members = f"{len(group.members)} consumer{'' if len(group.members) == 1 else 's'}"
    known = "no such group yet" if group.state == "Dead" else f"{group.state}, {members}"
    table = slim_table(f"group {group.name}: {known}", columns, left=("topic", "consumer"))
    for partition in partitions:
        table.add_row(
            partition.topic,
            str(partition.partition),
            str(partition.log_start),
            str(partition.log_end),
            "none" if partition.committed is None else str(partition.committed),
            f"{partition.lag:,}",
            "?" if partition.claims is None else str(partition.claims),
            partition.member or "nobody",
        )
    show_table(console, table)
    total = sum(partition.lag for partition in partitions)
    console.print(
        Text(f"{total:,} offsets are in Kafka and not yet in S3." if total else "All of it is in S3.", "bold")
    )
    for partition in partitions:
        place = f"{partition.topic}/{partition.partition}"
        if partition.lost:
            console.print(
                Text(f"{place}: Kafka has dropped {partition.lost:,} offsets that were not stored yet", "bold red")
            )
        if partition.claims is None:
            console.print(Text(f"{place}: the commit's metadata is not headrace's; another tool moved it?", "yellow"))


async def _status(settings: StatusSettings, *, as_json: bool) -> None:
    async with open_cluster(settings) as cluster:
        group, partitions = await look(cluster, settings.kafka_topic, settings.kafka_group)
    if not as_json:
        _show(Console(soft_wrap=True), group, partitions)
        return
    members = [
        {
            "id": member.id,
            "client": member.client,
            "host": member.host,
            "partitions": [[tp.topic, tp.partition] for tp in member.partitions],
        }
        for member in group.members
    ]
    answer = {
        "group": group.name,
        "state": group.state,
        "members": members,
        "lag": sum(partition.lag for partition in partitions),
        "partitions": [partition.as_json() for partition in partitions],
    }
    click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))


@click.command()
@click.option("--topic", help="Topics, comma between them (default: KAFKA_TOPIC).")
@click.option("--group", help="Consumer group (default: KAFKA_GROUP, headrace).")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(topic: str | None, group: str | None, as_json: bool) -> None:
    """Show how far the archive is, from what Kafka knows: log, committed offset, lag, claims, consumers.

    A committed offset is durable: everything before it is in S3. Claims are chunks on their way there.
    """
    adopt_local_stack(kafka=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say, our own errors say better
    settings = load(StatusSettings, kafka_topic=topic, kafka_group=group)
    asyncio.run(_status(settings, as_json=as_json))
