"""Records that Kafka drops before they are archived: recorded, told and counted; and nothing that is stored shrinks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from headrace.local.ports import free_ports
from tests.s3_proxy import Fault, never, on_objects, s3_proxy
from tests.trial import Trial, metric, trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    NewTrial = Callable[..., Trial]

pytestmark = pytest.mark.stack

QUICK = {"UPLOAD_TIMEOUT_SECONDS": "1", "SESSION_TIMEOUT_SECONDS": "2", "CHUNK_MAX_RECORDS": "500"}
LOST = "headrace_consumer_lost_offsets_total"


@pytest.fixture
def it(service_env: dict[str, str]) -> Iterator[Trial]:
    with trial(service_env, 1, "lost") as one:
        yield one


async def delete_records(it: Trial, before: int) -> None:
    async with it.admin() as admin:
        await admin.delete_records({it.tps[0]: RecordsToDelete(before)})


async def claimed(it: Trial, ends: str) -> None:
    """Wait until these chunks, as the commit spells them, are claimed."""

    async def true() -> bool:
        return (await it.committed())[it.tps[0]][1].rpartition(" ")[2].startswith(ends)

    await it.eventually(true, what=f"chunks {ends} are claimed")


async def verified(it: Trial) -> list[list[int]]:
    """What `headrace verify` says was lost in partition 0; the archive is whole all the same."""
    code, text = await it.run("verify", "--json")
    assert code == 0, text
    told = json.loads(text)["topics"][0]["partitions"][0]
    assert told["whole"] is True
    lost: list[list[int]] = told["lost"]
    return lost


async def test_deleted_while_nobody_archived(it: Trial) -> None:
    """`status` tells it before anybody has seen to it; afterwards log, metric, S3 and `verify` do."""
    await it.create_topic()
    await it.produce(1000)
    consumer = it.start(**QUICK)
    await it.stored()
    consumer.terminate()
    assert await consumer.ended() == 0
    await it.produce(1000, first=1000)
    await delete_records(it, 1400)
    code, text = await it.run("status")
    assert code == 0
    assert f"{it.topic}/0: Kafka has dropped 400 offsets that were not stored yet" in text
    (port,) = free_ports(1)
    consumer = it.start(MANAGEMENT_PORT=str(port), **QUICK)
    await it.stored()
    assert f"{it.topic}/0: offsets [1000, 1400) were gone from Kafka before they were stored" in consumer.text
    assert await metric(port, LOST) == 400
    assert await verified(it) == [[1000, 1400]]
    assert [record.offset for record in (await it.archive())[0]] == [*range(1000), *range(1400, 2000)]
    told = json.loads((await it.run("status", "--json"))[1])["partitions"][0]
    assert (told["lag"], told["lost"]) == (0, 0)


async def test_deleted_past_what_a_running_consumer_has_read(it: Trial) -> None:
    """Its partition is paused because S3 refuses; what it has read is stored, what it has not is a gap."""
    await it.create_topic()
    await it.produce(2000)
    (port,) = free_ports(1)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.FORBIDDEN)) as proxy:
        settings = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "MANAGEMENT_PORT": str(port), "MAX_CLAIMS": "2"}
        consumer = it.start(**QUICK | settings | {"CHUNK_MAX_RECORDS": "100"})
        await claimed(it, "100,100")
        await it.produce(2000, first=2000)
        await delete_records(it, 3500)
        proxy.choose = never
        await it.stored()
    (lost,) = await verified(it)
    assert lost[1] == 3500
    assert [record.offset for record in (await it.archive())[0]] == [*range(lost[0]), *range(3500, 4000)]
    assert f"offsets [{lost[0]}, 3500) were gone from Kafka" in consumer.text
    assert await metric(port, LOST) == 3500 - lost[0]


async def test_deleted_into_claimed_chunks(it: Trial) -> None:
    """Of four claimed chunks the first is whole in S3, the second gone, the third eaten into, the fourth untouched."""
    await it.create_topic()
    await it.produce(2000)

    def first_alone(method: str, path: str) -> tuple[Fault, float]:
        if method != "PUT" or "_headrace" in path:
            return Fault.PASS, 0.0
        return (Fault.LOST_REPLY if f"{0:020d}-{500:020d}" in path else Fault.UNAVAILABLE), 0.0

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], first_alone) as proxy:
        first = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, **QUICK)
        await claimed(it, "500,500,500,500")

        async def landed() -> bool:
            return proxy.seen[Fault.LOST_REPLY] > 0

        await it.eventually(landed)
        first.kill()
    before = await it.stamps()
    assert len(before) == 1
    await delete_records(it, 1200)
    (port,) = free_ports(1)
    second = it.start(MANAGEMENT_PORT=str(port), **QUICK)
    await it.stored()
    chunks = (await it.survey()).coverage(0).chunks
    ranges = [(chunk.offsets.start, chunk.offsets.end) for chunk in chunks]
    assert ranges == [(0, 500), (500, 1000), (1000, 1500), (1500, 2000)]
    assert [chunk.is_gap for chunk in chunks] == [False, True, False, False]
    assert before.items() <= (await it.stamps()).items(), "what was whole was written again"
    assert [record.offset for record in (await it.archive())[0]] == [*range(500), *range(1200, 2000)]
    async with it.store() as store:
        head = await store.head(chunks[2].keys[0])
    assert head is not None
    assert head.metadata["headrace-lost"] == "1000-1200"
    for lost in ("[500, 1000)", "[1000, 1200)"):
        assert f"offsets {lost} were gone from Kafka" in second.text
    assert await metric(port, LOST) == 700
    assert await verified(it) == [[500, 1000], [1000, 1200]]
    code, text = await it.run("verify")
    assert code == 0
    for lost in ("[500, 1000)", "[1000, 1200)"):
        assert f"{it.topic}/0: {lost} was gone from Kafka before it could be archived" in text


async def test_a_chunk_of_two_objects_loses_only_what_was_not_stored_of_it(it: Trial) -> None:
    """One of its two objects stands, then Kafka drops half of both: it stays, the other is what is left."""
    await it.create_topic()
    hour = 3_600_000
    async with it.producer() as producer:
        for number in range(500):
            await producer.send(it.topic, b"%d" % number, partition=0, timestamp_ms=(490_000 + number % 2) * hour)
        await producer.flush()

    def one_hour(method: str, path: str) -> tuple[Fault, float]:
        if method != "PUT" or "_headrace" in path:
            return Fault.PASS, 0.0
        return (Fault.LOST_REPLY if "hour%3D16" in path or "hour=16" in path else Fault.UNAVAILABLE), 0.0

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], one_hour) as proxy:
        first = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, **QUICK)

        async def landed() -> bool:
            return proxy.seen[Fault.LOST_REPLY] > 0

        await it.eventually(landed)
        first.kill()
    before = await it.stamps()
    assert len(before) == 1
    await delete_records(it, 250)
    it.start(**QUICK)
    await it.stored()
    assert before.items() <= (await it.stamps()).items(), "what was there was replaced by less"
    assert [record.offset for record in (await it.archive())[0]] == [*range(0, 250, 2), *range(250, 500)]
    assert await verified(it) == [[0, 250]]


@pytest.mark.parametrize("retention", ["retention.ms", "retention.bytes"])
async def test_retention_overtakes_a_paused_consumer(busy_trial: NewTrial, retention: str) -> None:
    """Whole segments go while S3 refuses. Afterwards what is left of the log is archived, and the gap is told."""
    it = busy_trial(partitions=1, hint="retention")
    await it.create_topic(segment_ms="20", retention_ms="-1", retention_bytes="-1")
    (port,) = free_ports(1)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.FORBIDDEN)) as proxy:
        settings = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "MANAGEMENT_PORT": str(port), "MAX_CLAIMS": "2"}
        consumer = it.start(**QUICK | settings | {"CHUNK_MAX_RECORDS": "100"})
        await it.produce(1000)
        await claimed(it, "100,100")
        await it.produce(4000, first=1000)
        async with it.admin() as admin:
            limit = "100" if retention == "retention.ms" else "1000"
            topic = ConfigResource(ConfigResourceType.TOPIC, it.topic, {retention: limit, "segment.ms": "20"})
            await admin.alter_configs([topic])

        async def overtaken() -> bool:
            await it.produce(1, first=5000)  # a record now and then makes Kafka begin another segment
            async with it.cluster() as cluster:
                return (await cluster.log_offsets(it.tps, -2))[it.tps[0]] >= 5000

        await it.eventually(overtaken, what="retention has deleted what the consumer has not read")
        async with it.admin() as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, it.topic, {"retention.ms": "-1"})])
        proxy.choose = never
        await it.produce(100, first=6000)
        await it.stored()
    lost = await verified(it)
    archive = (await it.archive())[0]
    numbers = [json.loads(record.value or b"")["n"] for record in archive]
    gone = {offset for start, end in lost for offset in range(start, end)}
    assert len(gone) > 2000
    assert numbers[-100:] == list(range(6000, 6100))
    assert [record.offset for record in archive] == [at for at in range(archive[-1].offset + 1) if at not in gone]
    assert all(record in archive for record in (await it.log())[0])
    assert await metric(port, LOST) == len(gone)
    assert "were gone from Kafka" in consumer.text
