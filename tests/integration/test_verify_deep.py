"""`headrace verify --deep` on a real Kafka and a real S3: archives that are right, and each way to be wrong."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from consumer.encode import open_format
from headrace.archive import read_chunk
from tests.trial import Trial, trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headrace.record import StoredRecord

pytestmark = pytest.mark.stack

HEADERS = [("h", b"1"), ("none", None), ("h", b"\xff")]


@pytest.fixture
def it(service_env: dict[str, str]) -> Iterator[Trial]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(trial(service_env, 2, "deep"))


async def archived(it: Trial, *, cleanup_policy: str = "delete", count: int = 1500, **settings: str) -> None:
    """An archive of all that is in the topic: of keys and none, headers, tombstones, text and bytes."""
    await it.create_topic(cleanup_policy=cleanup_policy)
    async with it.producer(transactional_id=f"tx-{it.topic}") as producer:
        for number in range(3):
            await producer.begin_transaction()
            for place in range(count // 3):
                value = (b'{"n":%d}' % place, b"plain text", b"\xff\x00", None)[place % 4]
                key = b"key-%d" % (place % 5) if cleanup_policy == "compact" or place % 3 == 0 else None
                headers = HEADERS if place % 7 == 0 else []
                await producer.send(
                    it.topic, value, key or (b"k" if value is None else None), place % 2, headers=headers
                )
            await (producer.abort_transaction() if number == 1 else producer.commit_transaction())
    consumer = it.start(**settings)
    await it.stored()
    consumer.terminate()
    assert await consumer.ended() == 0, consumer.text


async def deep(it: Trial, **settings: str) -> tuple[int, list[dict[str, Any]]]:
    code, text = await it.run("verify", "--deep", "--json", timeout=60, **settings)
    answer = orjson.loads(text[text.index("{") :])
    assert answer["deep"]
    assert answer["whole"] == (code == 0)
    return code, [partition["kafka"] for partition in answer["topics"][0]["partitions"]]


async def change(it: Trial, how: Callable[[list[StoredRecord]], list[StoredRecord]]) -> None:
    """Store the first chunk of partition 0 with other records, under its own name and metadata."""
    form = open_format("jsonl", "zstd")
    async with it.store() as store:
        chunk = (await it.survey()).coverage(0).chunks[0]
        (key,) = chunk.keys
        head = await store.head(key)
        assert head is not None
        records = how(await read_chunk(store, chunk))
        body = form.compress(form.encode(records))
        await store.put(key, body, metadata=head.metadata, content_type=form.content_type)


@pytest.mark.parametrize("form", ["jsonl", "raw", "parquet", "object"])
async def test_what_is_archived_is_kafkas(it: Trial, form: str) -> None:
    await archived(it, FORMAT=form)
    code, found = await deep(it)
    assert code == 0
    assert [partition["equal"] for partition in found] == [500, 500]
    assert sum(partition["not_in_kafka_any_more"] + partition["different"] for partition in found) == 0
    code, text = await it.run("verify", "--deep")
    assert code == 0
    assert "Every record that Kafka still has is as it is there." in " ".join(text.split())


async def test_what_is_changed_left_out_or_made_up_is_named(it: Trial) -> None:
    await archived(it)

    def how(records: list[StoredRecord]) -> list[StoredRecord]:
        first, _, third, *rest = records
        return [first._replace(value=b"other", headers=()), third._replace(timestamp=third.timestamp + 1), *rest]

    await change(it, how)
    code, (changed, other) = await deep(it)
    assert code == 1
    assert [(each["offset"], each["what"]) for each in changed["named"]] == [
        (0, "value, headers"),
        (1, "missing"),
        (2, "timestamp"),
    ]
    assert (changed["different"], changed["equal"], other["different"]) == (3, 497, 0)
    code, text = await it.run("verify", "--deep")
    assert code == 1
    assert f"{it.topic}/0: offset 1 is in Kafka, but not in the archive" in text
    assert (await it.run("verify"))[0] == 0, "names alone don't tell"


async def test_records_of_aborted_transactions_are_not_kafkas(it: Trial) -> None:
    await archived(it, KAFKA_ISOLATION_LEVEL="read_uncommitted")
    code, found = await deep(it)
    assert code == 1
    assert {each["what"] for partition in found for each in partition["named"]} == {"not in Kafka"}
    assert sum(partition["different"] for partition in found) == 500
    assert (await deep(it, KAFKA_ISOLATION_LEVEL="read_uncommitted"))[0] == 0


async def test_what_kafka_has_dropped_is_counted(it: Trial) -> None:
    await archived(it)
    async with it.admin() as admin:
        await admin.delete_records({TopicPartition(it.topic, 0): RecordsToDelete(before_offset=100)})
    code, (dropped, whole) = await deep(it)
    assert code == 0
    assert (dropped["equal"], dropped["not_in_kafka_any_more"]) == (400, 100)
    assert (whole["equal"], whole["not_in_kafka_any_more"]) == (500, 0)


async def test_what_a_compacted_topic_has_the_archive_must_have(it: Trial) -> None:
    await archived(it, cleanup_policy="compact")
    code, found = await deep(it)
    assert (code, [partition["equal"] for partition in found]) == (0, [500, 500])
    await change(it, lambda records: [records[0], *records[2:]])
    code, (changed, _) = await deep(it)
    assert code == 1, "what Kafka has, the archive must have"
    assert [each["what"] for each in changed["named"]] == ["missing"]


async def test_an_object_that_cannot_be_read_is_told_and_the_rest_compared(it: Trial) -> None:
    await archived(it)
    async with it.store() as store:
        key = (await it.survey()).coverage(0).chunks[0].keys[0]
        head = await store.head(key)
        assert head is not None
        await store.put(key, b"no zstd", metadata=head.metadata, content_type="application/zstd")
    code, (damaged, whole) = await deep(it)
    assert code == 1
    assert len(damaged["unread"]) == 1
    assert key in damaged["unread"][0]
    assert whole["equal"] == 500


async def test_another_log_of_that_name_is_seen(it: Trial) -> None:
    await archived(it)
    await it.make_anew()
    code, found = await deep(it)
    assert code == 1
    assert [partition["different"] for partition in found] == [500, 500]


async def test_deep_is_not_for_names_only(it: Trial) -> None:
    code, text = await it.run("verify", "--deep", "--names-only")
    assert code == 2
    assert "say one of them" in text
