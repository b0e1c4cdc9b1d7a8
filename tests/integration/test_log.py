"""A topic's log read by range and appended to in transactions, on a real Kafka."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from headrace.errors import HeadraceError
from headrace.log import OffsetsGone, open_reader, open_writer
from headrace.objects import Range
from headrace.record import StoredRecord
from tests.trial import Trial, trial

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack


@pytest.fixture
def it(service_env: dict[str, str]) -> Iterator[Trial]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(trial(service_env, 2, "log"))


async def with_gaps(it: Trial) -> list[StoredRecord]:
    """Partition 0 of a log whose offsets have gaps, at the end too: each transaction leaves a mark of its own."""
    await it.create_topic()
    async with it.producer(transactional_id=f"tx-{it.topic}") as producer:
        for number in range(20):
            async with producer.transaction():
                for _ in range(number % 4):
                    await producer.send(it.topic, b"%d" % number, partition=0)
                await producer.send(it.topic, b"", partition=1)
    return (await it.log())[0]


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
async def test_ranges_that_join_hold_every_record_once(it: Trial, step: int) -> None:
    records = await with_gaps(it)
    end = (await it.log_ends())[it.tps[0]]
    assert records[-1].offset < end - 1
    async with open_reader(it.kafka_settings, "read_committed") as reader:
        found = []
        for start in range(0, end, step):
            offsets = Range(start, min(end, start + step))
            some = await reader.read(it.tps[0], offsets)
            assert all(offsets.start <= record.offset < offsets.end for record in some)
            found += some
        assert found == records
        assert await reader.read(it.tps[0], Range(0, end)) == records, "and from the start again"
        assert len(await reader.read(it.tps[1], Range(0, 2))) == 1
        assert await reader.read(it.tps[0], Range(0, end)) == records


async def test_what_is_gone_is_told(it: Trial) -> None:
    await it.create_topic()
    await it.produce(200)
    async with open_reader(it.kafka_settings, "read_committed") as reader:
        async with it.admin() as admin:
            await admin.delete_records({TopicPartition(it.topic, 0): RecordsToDelete(before_offset=50)})
        with pytest.raises(OffsetsGone, match=f"{it.topic}/0"):
            await reader.read(it.tps[0], Range(0, 100))
        assert [record.offset for record in await reader.read(it.tps[0], Range(50, 100))] == [*range(50, 100)]


async def test_a_second_writer_of_a_name_ends_the_first(it: Trial) -> None:
    await it.create_topic()
    record = StoredRecord(7, 1_700_000_000_000, None, b"1")
    tp = it.tps[0]
    async with open_writer(it.kafka_settings, it.group) as first:
        await first.append(tp, [record], {tp: 8})
        async with open_writer(it.kafka_settings, it.group) as second:
            with pytest.raises(HeadraceError, match=f"Another one writes as {it.group} now"):
                await first.append(tp, [record], {tp: 9})
            assert (await it.committed())[tp] == (8, "")
            await second.append(tp, [record, record], {tp: 10})
    assert (await it.committed())[tp] == (10, "")
    assert len((await it.log())[0]) == 3
