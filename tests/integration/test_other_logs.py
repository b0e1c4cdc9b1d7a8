"""Another log under the same name, or one that was cut short: the partition halts, says why, and how to go on."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

import pytest

from headrace.kafka import KafkaUnavailable
from headrace.local.ports import free_ports
from tests.trial import metric, ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.local.kafka import Kafka
    from tests.trial import Process, Trial

    NewTrial = Callable[..., Trial]

pytestmark = pytest.mark.stack

QUICK = {"UPLOAD_TIMEOUT_SECONDS": "1", "SESSION_TIMEOUT_SECONDS": "2"}
FAILED = "headrace_consumer_partitions_failed"


async def cut_short(it: Trial, kafka: Kafka, partition: int) -> None:
    """Half of what was acknowledged is gone after a restart: a disk that lost its writes, or an unclean election."""
    await asyncio.to_thread(kafka.kill)
    segment = kafka.data / "logs" / f"{it.topic}-{partition}" / f"{0:020d}.log"
    os.truncate(segment, segment.stat().st_size // 2)
    await asyncio.to_thread(kafka.restart)

    async def answers() -> bool:
        try:
            return bool(await it.log_ends())
        except KafkaUnavailable:
            return False

    await it.eventually(answers, what="Kafka leads its partitions again")


async def halted(it: Trial, process: Process, port: int, why: str, *partitions: int) -> None:
    """Wait until these partitions have stopped, and everybody may know: log, /readyz, metric."""

    async def told() -> bool:
        return all(re.search(f"{it.topic}/{number} has stopped: .*{why}", process.text) for number in partitions)

    await it.eventually(told, what=f"partitions {partitions} have stopped")
    status, text = await ready(port)
    assert status == 503
    for number in range(it.partitions):
        assert (f'"{it.topic}/{number}":' in text) is (number in partitions), text
    assert re.search(why, text)
    assert await metric(port, FAILED) == len(partitions)
    assert process.popen.poll() is None


async def test_a_topic_made_anew_while_nobody_archived(busy_trial: NewTrial) -> None:
    """Its partitions halt, another topic's go on; the sentence in the log is the way out."""
    it, other = busy_trial(partitions=2, hint="anew"), busy_trial(partitions=1, hint="stays")
    other.prefix = it.prefix
    await it.create_topic()
    await other.create_topic()
    await it.produce(200)
    both = f"{it.topic},{other.topic}"
    consumer = it.start(KAFKA_TOPIC=both, **QUICK)
    await it.stored()
    consumer.terminate()
    assert await consumer.ended() == 0
    before = await it.stamps()
    await it.make_anew()
    await it.produce(600)
    await other.produce(100)
    (port,) = free_ports(1)
    consumer = it.start(KAFKA_TOPIC=both, MANAGEMENT_PORT=str(port), **QUICK)
    await halted(it, consumer, port, "was deleted and made anew", 0, 1)

    async def other_is_whole() -> bool:
        return sum(map(len, (await other.archive()).values())) == 100

    await it.eventually(other_is_whole, what="the other topic is archived")
    assert "Archive the new topic with another S3_PREFIX and KAFKA_GROUP." in consumer.text
    consumer.terminate()
    assert await consumer.ended() == 0
    assert await it.stamps() == before, "something was written under old names"
    it.prefix += "-anew"
    it.start(KAFKA_GROUP=f"{it.group}-anew", S3_PREFIX=it.prefix, **QUICK)
    await archived(it, 600)


async def archived(it: Trial, count: int) -> None:
    """Wait until so many records are in the archive; they are those of the log."""

    async def whole() -> bool:
        return sum(map(len, (await it.archive()).values())) == count

    await it.eventually(whole, what=f"{count} records are archived")
    assert await it.archive() == await it.log()


async def test_a_topic_made_anew_under_a_running_consumer(busy_trial: NewTrial) -> None:
    """It sleeps meanwhile, so that no fetch fails, and the new log has an offset for where it stands."""
    it = busy_trial(partitions=2, hint="anew")
    await it.create_topic()
    await it.produce(1000)
    (port,) = free_ports(1)
    consumer = it.start(MANAGEMENT_PORT=str(port), SESSION_TIMEOUT_SECONDS="30", UPLOAD_TIMEOUT_SECONDS="10")
    await it.stored()
    before = await it.stamps()
    consumer.pause()
    await it.make_anew()
    await it.produce(4000)
    consumer.resume()
    await halted(it, consumer, port, "was deleted and made anew", 0, 1)
    consumer.terminate()
    assert await consumer.ended() == 0
    assert await it.stamps() == before, "something was written under old names"


async def test_a_deleted_topic_is_told_and_the_others_go_on(busy_trial: NewTrial) -> None:
    it, other = busy_trial(partitions=2, hint="goes"), busy_trial(partitions=1, hint="stays")
    other.prefix = it.prefix
    await it.create_topic()
    await other.create_topic()
    await it.produce(200)
    (port,) = free_ports(1)
    consumer = it.start(KAFKA_TOPIC=f"{it.topic},{other.topic}", MANAGEMENT_PORT=str(port), **QUICK)
    await it.stored()
    async with it.admin() as admin:
        await admin.delete_topics([it.topic])

    async def told() -> bool:
        status, text = await ready(port)
        return status == 503 and f"Topic {it.topic} does not exist" in text

    await it.eventually(told, what="/readyz tells that the topic is gone")
    await other.produce(300)

    async def other_is_whole() -> bool:
        return sum(map(len, (await other.archive()).values())) == 300

    await it.eventually(other_is_whole, what="the other topic is archived")
    assert len((await it.archive())[0]) == 100
    consumer.terminate()
    assert await consumer.ended() == 0, consumer.text


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_a_log_that_was_cut_short(busy_trial: NewTrial, busy_kafka: Kafka, running: bool) -> None:
    """Offsets that are archived were given to other records now: nothing more may be stored under those names."""
    it = busy_trial(partitions=3, hint="short")
    await it.create_topic()
    (port,) = free_ports(1)
    consumer = it.start(MANAGEMENT_PORT=str(port), **QUICK)
    for part in range(10):  # in ten batches or more each
        await it.produce(300, first=300 * part)
    await it.stored()
    before = await it.stamps()
    if not running:
        consumer.terminate()
        assert await consumer.ended() == 0
    await cut_short(it, busy_kafka, 1)
    ends = await it.log_ends()
    assert 0 < ends[it.tps[1]] < 1000
    assert ends[it.tps[0]] == ends[it.tps[2]] == 1000
    if not running:
        consumer = it.start(MANAGEMENT_PORT=str(port), **QUICK)
    await it.produce(300, first=3000)
    await halted(it, consumer, port, "the log ends at [0-9]+, but offsets up to 1000 were archived", 1)

    async def others_go_on() -> bool:
        committed = await it.committed()
        return [committed[it.tps[at]][0] for at in (0, 2)] == [1100, 1100]

    await it.eventually(others_go_on, what="partitions 0 and 2 go on")
    consumer.terminate()
    assert await consumer.ended() == 0
    assert before.items() <= (await it.stamps()).items()
    assert (await it.survey()).coverage(1).end == 1000
    assert "use another S3_PREFIX and KAFKA_GROUP" in consumer.text
    it.prefix += "-on"
    it.start(KAFKA_GROUP=f"{it.group}-on", S3_PREFIX=it.prefix, **QUICK)
    await archived(it, sum((await it.log_ends()).values()))
