"""Many partitions, unequal ones, and ones that come later; several topics in one archiver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest
from aiokafka.admin import NewPartitions

from consumer.offsets import MAX_COMMIT_BYTES, split
from consumer.source import Source, new_consumer
from headrace.kafka import KafkaUnavailable
from headrace.local.ports import free_ports
from tests.s3_proxy import Fault, never, s3_proxy
from tests.trial import Trial, metric, ready, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.trial import Process

    NewTrial = Callable[..., Trial]

pytestmark = pytest.mark.stack

MEBIBYTE = 1024 * 1024
QUICK = {"UPLOAD_TIMEOUT_SECONDS": "1", "SESSION_TIMEOUT_SECONDS": "2"}


def resident(process: Process) -> int:
    """Bytes of memory that a process has now."""
    size: int = psutil.Process(process.popen.pid).memory_info().rss
    return size


async def members(it: Trial) -> list[int]:
    """How many partitions each member of the group has."""
    async with it.cluster() as cluster:
        return sorted(len(member.partitions) for member in (await cluster.group(it.group)).members)


async def led(it: Trial) -> None:
    """Wait until Kafka has made all partitions of a new topic."""

    async def answers() -> bool:
        try:
            return len(await it.log_ends()) == it.partitions
        except KafkaUnavailable:
            return False

    await it.eventually(answers, what="all partitions have a leader")


@pytest.mark.timeout(400)  # it makes Kafka's work, too, on whatever else this machine does
async def test_a_thousand_partitions(busy_trial: NewTrial) -> None:
    """Alone, then shared with another consumer that is killed: once each, in bounded memory."""
    it = busy_trial(partitions=1000, hint="wide")
    await it.create_topic()
    await led(it)
    settings = {"SESSION_TIMEOUT_SECONDS": "6", "UPLOAD_TIMEOUT_SECONDS": "5", "CHUNK_MAX_SECONDS": "2"}
    first = it.start(**settings)
    await it.produce(10_000, noise=100)

    async def begun() -> bool:
        return sum(offset > 0 for offset, _ in (await it.committed()).values()) > 500

    await it.eventually(begun, 120, what="half of the partitions have something in S3")
    highest = resident(first)
    second = it.start(**settings)

    async def shared() -> bool:
        return await members(it) == [500, 500]

    await it.eventually(shared, 120, what="two consumers share a thousand partitions")
    await it.produce(5_000, first=10_000, noise=100)
    highest = max(highest, resident(first), resident(second))
    second.kill()
    await it.stored(120)
    highest = max(highest, resident(first))
    assert await it.assert_exactly_once() == 15_000
    assert highest < 256 * MEBIBYTE, f"{highest / MEBIBYTE:.0f} MiB"


async def test_commits_that_brokers_would_not_take_whole_are_split(busy_trial: NewTrial) -> None:
    """Three hundred partitions' claims, as large as Kafka lets them be: one commit is refused, its parts are stored."""
    it = busy_trial(partitions=300, hint="split")
    await it.create_topic()
    await led(it)
    commits = {tp: (number, f"{number} " + "x" * 4000) for number, tp in enumerate(it.tps)}
    parts = list(split(commits))
    assert len(parts) == pytest.approx(300 * 4100 / MAX_COMMIT_BYTES, abs=2)
    source = Source(
        options=it.kafka_settings.kafka_options(),
        group=it.group,
        topics=[it.topic],
        isolation_level="read_committed",
        session_timeout_seconds=6,
        give_back_seconds=1,
        clock=asyncio.get_running_loop().time,
        new_consumer=new_consumer,
    )
    await source.start()
    try:
        assignment = await source.next_assignment()
        assignment.ended.set()
        refused = await source.offsets.commit(assignment.membership, commits)
        assert 0 not in refused.values()
        for part in parts:
            codes = await source.offsets.commit(assignment.membership, part)
            assert set(codes.values()) == {0}
        assert await source.offsets.fetch(it.tps) == commits
    finally:
        await source.close()


async def test_a_partition_in_trouble_holds_up_nobody(busy_trial: NewTrial) -> None:
    """S3 takes nothing of the fat partition's: the eleven others become whole meanwhile, within the memory budget."""
    it = busy_trial(partitions=12, hint="fat")
    await it.create_topic()
    (port,) = free_ports(1)
    budget = 8 * MEBIBYTE

    def fat_alone(method: str, path: str) -> tuple[Fault, float]:
        fat = method == "PUT" and f"{it.topic}-00000-" in path
        return (Fault.UNAVAILABLE if fat else Fault.PASS), 0.0

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], fat_alone) as proxy:
        consumer = it.start(
            AWS_ENDPOINT_URL_S3=proxy.endpoint,
            MANAGEMENT_PORT=str(port),
            MEMORY_BUDGET_BYTES=str(budget),
            CHUNK_MAX_BYTES=str(budget // 4),
            MAX_WORKERS="4",
            **QUICK,
        )
        async with it.producer(max_batch_size=MEBIBYTE) as producer:
            for number in range(600):  # 30 MB, four times the budget
                await producer.send(it.topic, b"%d" % number + b"\xff" * 50_000, partition=0)
            await producer.flush()

        async def stuck() -> bool:
            return proxy.seen[Fault.UNAVAILABLE] >= 5

        await it.eventually(stuck, what="S3 refuses the fat partition")
        async with it.producer() as producer:
            for number in range(11_000):
                await producer.send(it.topic, b"%d" % number, partition=1 + number % 11)
            await producer.flush()
        highest = 0.0

        async def others_are_whole() -> bool:
            nonlocal highest
            highest = max(highest, await metric(port, "headrace_consumer_held_bytes"))
            committed = await it.committed()
            return all(committed[tp][0] == 1000 for tp in it.tps[1:])

        await it.eventually(others_are_whole, 30, what="the eleven others are whole")
        # The fetch that was on its way when the budget was reached comes on top.
        assert highest < budget + 9 * MEBIBYTE, highest
        assert (await it.committed())[it.tps[0]][0] <= 0
        assert (await ready(port))[0] == 503
        proxy.choose = never
        await it.stored()
    assert resident(consumer) < 256 * MEBIBYTE
    assert await it.assert_exactly_once() == 11_600


async def test_partitions_that_are_added_are_taken_up(busy_trial: NewTrial) -> None:
    """By consumers that run, from their first record on."""
    it = busy_trial(partitions=2, hint="added")
    await it.create_topic()
    await it.produce(200)
    for _ in range(2):
        it.start(**QUICK)
    await it.stored()
    async with it.admin() as admin:
        await admin.create_partitions({it.topic: NewPartitions(5)})
    it.partitions = 5
    await led(it)
    await it.produce(1000, first=200)
    await it.stored()
    assert await it.assert_exactly_once() == 1200


async def test_one_of_several_topics_is_missing_at_the_start(busy_trial: NewTrial) -> None:
    """The other goes on; /readyz tells until somebody makes the topic; then it is archived, too."""
    it, late = busy_trial(partitions=2, hint="here"), busy_trial(partitions=2, hint="late")
    late.prefix = it.prefix
    await it.create_topic()
    await it.produce(200)
    (port,) = free_ports(1)
    consumer = it.start(KAFKA_TOPIC=f"{late.topic},{it.topic}", MANAGEMENT_PORT=str(port), **QUICK)
    await it.stored()
    status, text = await ready(port)
    assert status == 503
    assert f"Topic {late.topic} does not exist" in text
    assert f"Topic {late.topic} does not exist" in consumer.text
    await late.create_topic()
    await late.produce(100)

    async def both() -> bool:
        return len(values(await late.archive())) == 100 and (await ready(port))[0] == 200

    await it.eventually(both, what="the late topic is archived")
    assert await it.archive() == await it.log()
    assert await late.archive() == await late.log()
    consumer.terminate()
    assert await consumer.ended() == 0
