"""`headrace restore` on a real Kafka and a real S3: an archive comes back as it was, once, whatever kills it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from consumer.encode import open_format
from headrace.archive import read_chunk
from headrace.restore import Restore, RestoreSettings, restore_name
from headrace.settings import load
from tests.trial import Trial, trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.record import StoredRecord
    from tests.conftest import StackFactory

pytestmark = pytest.mark.stack

DAY_MS = 86_400_000
FIRST_MS = 1_764_000_000_000
HEADERS = [("h", b"1"), ("none", None), ("h", b"\xff")]


@pytest.fixture
def it(service_env: dict[str, str]) -> Iterator[Trial]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(trial(service_env, 3, "restore"))


async def archived(it: Trial, count: int = 3000, **settings: str) -> None:
    """An archive of records a second apart: of keys and none, headers, tombstones, text and bytes."""
    await it.create_topic(retention_ms="-1")
    async with it.producer() as producer:
        for number in range(count):
            value = (b'{"n": %d}' % number, b"plain text %d" % number, b"\xff\x00", None, b"")[number % 5]
            key = b"key-%d" % (number % 5) if value is None or number % 3 == 0 else None
            await producer.send(
                it.topic,
                value,
                key,
                number % it.partitions,
                timestamp_ms=FIRST_MS + 1000 * number,
                headers=HEADERS if number % 7 == 0 else [],
            )
    consumer = it.start(**settings)
    await it.stored()
    consumer.terminate()
    assert await consumer.ended() == 0, consumer.text


@contextlib.asynccontextmanager
async def target(it: Trial, **config: str) -> Any:
    """A trial of the topic that is restored to."""
    there = replace(it, topic=f"{it.topic}-again", processes=[])
    await there.create_topic(**{"retention_ms": "-1", **config})
    yield there


def bare(log: dict[int, list[StoredRecord]]) -> dict[int, list[StoredRecord]]:
    """Offsets are new ones."""
    return {number: [record._replace(offset=0) for record in records] for number, records in log.items()}


async def restored(it: Trial, there: Trial, *options: str, **settings: str) -> dict[str, Any]:
    code, text = await it.run("restore", "--to", there.topic, "--json", *options, timeout=60, **settings)
    assert code == 0, text
    answer = orjson.loads(text[text.index("{") :])
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("form", ["jsonl", "raw", "parquet", "object"])
async def test_all_of_it_comes_back_as_it_was(it: Trial, form: str) -> None:
    await archived(it, 600 if form == "object" else 3000, FORMAT=form)
    async with target(it) as there:
        answer = await restored(it, there)
        log = await it.log()
        assert bare(await there.log()) == bare(log)
        assert [(each["start"], each["records"]) for each in answer["partitions"]] == [
            (0, len(records)) for records in log.values()
        ]


async def test_what_is_restored_is_archived_as_ever(it: Trial) -> None:
    await archived(it)
    async with target(it) as there:
        await restored(it, there)
        there.prefix = f"{it.prefix}-again"
        there.start()
        await there.stored()
        assert await there.assert_exactly_once() == 3000
        for process in there.processes:
            process.kill()


async def test_killed_again_and_again_it_leaves_neither_copy_nor_hole(it: Trial) -> None:
    await archived(it, 12_000, CHUNK_MAX_RECORDS="100")
    async with target(it) as there:
        before = 0
        for _ in range(3):
            process = it.start("headrace", "restore", "--to", there.topic)
            await it.eventually(partial(_further, it, there, before), what="the restore goes on")
            process.kill()
            before = await _come(it, there)
            assert 0 < before < 12_000, "killed in the midst of it"
        answer = await restored(it, there)
        assert 0 < sum(each["records"] for each in answer["partitions"]) < 12_000, "it went on where it was"
        log = bare(await it.log())
        assert bare(await there.log()) == log
        again = await restored(it, there)
        assert sum(each["records"] for each in again["partitions"]) == 0, "there is nothing left to do"
        assert bare(await there.log()) == log


async def test_it_waits_for_a_kafka_that_is_away_and_goes_on(
    own_stack: StackFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stack = own_stack()
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("headrace.log.APPEND_SECONDS", 2)
    monkeypatch.setattr("headrace.restoring.PAUSE_SECONDS", 1)
    with trial(stack.environment, 3, "restore") as it:
        await archived(it, 12_000, CHUNK_MAX_RECORDS="100")
        async with target(it) as there, asyncio.TaskGroup() as tasks:
            settings = load(RestoreSettings, kafka_topic=it.topic, s3_prefix=it.prefix)
            job = Restore(settings, there.topic, "earliest", "latest", anyway=False)
            running = tasks.create_task(job.run(lambda _: None, lambda _: None))
            await it.eventually(partial(_further, it, there, 0), what="the restore goes on")
            await asyncio.to_thread(stack.kafka.kill)

            async def told() -> bool:
                return "the restore waits" in caplog.text

            await it.eventually(told, what="it says that it waits")
            await asyncio.to_thread(stack.kafka.restart)
            await running
            assert bare(await there.log()) == bare(await it.log())


async def _come(it: Trial, there: Trial) -> int:
    """Up to where the archive's partitions have come back for good, together: their offsets have no gap."""
    name = restore_name(it.environment["S3_BUCKET"], it.prefix, it.topic, there.topic, "earliest", "latest")
    async with it.cluster() as cluster:
        committed = await cluster.committed(name, there.tps)
    return sum(max(0, offset) for offset, _ in committed.values())


async def _further(it: Trial, there: Trial, before: int) -> bool:
    return await _come(it, there) > before


async def test_a_range_of_offsets_and_one_of_times(it: Trial) -> None:
    await archived(it)
    log = await it.log()
    async with target(it) as there:
        answer = await restored(it, there, "--since", "150", "--until", "550")
        assert {(each["start"], each["stop"]) for each in answer["partitions"]} == {(150, 550)}
        assert bare(await there.log()) == bare({number: records[150:550] for number, records in log.items()})
    at = FIRST_MS // 1000
    since, until = 901, 2000
    async with target(replace(it, topic=f"{it.topic}-timed")) as there:
        await restored(it, there, "--since", _iso(at + since), "--until", _iso(at + until))
        expected = {
            number: [record for record in records if since <= record.timestamp // 1000 - at < until]
            for number, records in log.items()
        }
        assert sum(map(len, expected.values())) == until - since
        assert bare(await there.log()) == bare(expected)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


async def refused(it: Trial, there: Trial, *options: str) -> str:
    code, text = await it.run("restore", "--to", there.topic, *options)
    assert code == 1, text
    return " ".join(text.split())


async def test_what_stands_in_the_way_is_told_all_at_once(it: Trial) -> None:
    await archived(it, 4500)
    async with it.store() as store:
        chunk = (await it.survey()).coverage(1).chunks[1]
        await _delete(store, chunk.keys)
    async with target(it, retention_ms=str(7 * DAY_MS), message_timestamp_type="LogAppendTime") as there:
        await there.produce(3)
        said = await refused(it, there)
        assert f"{it.topic}/1: {chunk.offsets} is missing" in said
        assert "holds 3 offsets already" in said
        assert "message.timestamp.type=LogAppendTime" in said
        assert "Nothing was restored now (--anyway does it all the same)" in said
        assert (await there.log_ends())[there.tps[0]] == 1


async def test_what_went_missing_since_it_began_stops_it(it: Trial) -> None:
    await archived(it, 12_000, CHUNK_MAX_RECORDS="100")
    async with target(it) as there:
        process = it.start("headrace", "restore", "--to", there.topic)
        await it.eventually(partial(_further, it, there, 0), what="the restore goes on")
        process.kill()
        async with it.store() as store:
            chunk = (await it.survey()).coverage(1).chunks[-2]
            await _delete(store, chunk.keys)
        assert f"{it.topic}/1: {chunk.offsets} is missing" in await refused(it, there)


async def test_anyway_warns_and_restores_what_is_there(it: Trial) -> None:
    await archived(it, 4500)
    async with it.store() as store:
        chunk = (await it.survey()).coverage(1).chunks[1]
        await _delete(store, chunk.keys)
    async with target(it) as there:
        code, text = await it.run("restore", "--to", there.topic, "--anyway")
        assert code == 0
        assert "is missing" in text
        log = await it.log()
        log[1] = [record for record in log[1] if not chunk.offsets.start <= record.offset < chunk.offsets.end]
        assert bare(await there.log()) == bare(log)


async def test_a_topic_without_room_is_told(it: Trial) -> None:
    await archived(it)
    there = replace(it, topic=f"{it.topic}-narrow", partitions=2, processes=[])
    said = await refused(it, there)
    assert "KAFKA_TOPIC_PARTITIONS" in said
    await there.create_topic()
    assert "too few for the archive's 2: give it 3." in await refused(it, there)


async def test_a_missing_topic_is_made_where_the_settings_say_so(it: Trial) -> None:
    await archived(it)
    there = replace(it, topic=f"{it.topic}-made", processes=[])
    await restored(it, there, "--anyway", KAFKA_TOPIC_PARTITIONS="3")
    assert bare(await there.log()) == bare(await it.log())


async def test_a_record_that_the_topic_does_not_take_is_told(it: Trial) -> None:
    await it.create_topic(retention_ms="-1")
    await it.produce(30, noise=20_000)
    it.start()
    await it.stored()
    async with target(it, max_message_bytes="10000") as there:
        said = await refused(it, there)
        assert f"{there.topic}/0 does not take the records that were at offsets 0 to 0: raise its max.message" in said
        assert sum(map(len, (await there.log()).values())) == 0


async def test_overlapping_chunks_are_restored_once(it: Trial) -> None:
    await archived(it)
    form = open_format("jsonl", "zstd")
    async with it.store() as store:
        first, second, *_ = (await it.survey()).coverage(0).chunks
        head = await store.head(second.keys[0])
        assert head is not None
        records = [*(await read_chunk(store, first))[-5:], *await read_chunk(store, second)]
        key = second.keys[0].replace(f"{second.offsets.start:020d}", f"{records[0].offset:020d}")
        await store.put(key, form.compress(form.encode(records)), metadata=head.metadata, content_type="")
    async with target(it) as there:
        assert "overlaps" in await refused(it, there)
        await it.run("restore", "--to", there.topic, "--anyway")
        assert bare(await there.log()) == bare(await it.log())


async def test_no_archive_is_told(it: Trial) -> None:
    code, text = await it.run("restore", "--to", "x")
    assert code == 1
    assert "Is the prefix right?" in text
    code, text = await it.run("restore", "--since", "yesterday")
    assert code == 2
    assert "--since 'yesterday' is neither an offset" in text


async def _delete(store: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        await store.delete(key)
