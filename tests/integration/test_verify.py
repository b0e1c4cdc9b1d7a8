"""`headrace verify` on a real S3, with archives made by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from click.testing import CliRunner

from consumer.encode import open_format
from headrace.archive import read_partition, survey
from headrace.cli import app
from headrace.coverage import CHUNK_OBJECTS
from headrace.objects import Range, gap_key, object_key
from headrace.record import StoredRecord
from headrace.s3 import open_store
from headrace.settings import S3Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]

FORM = open_format("jsonl", "zstd")
PREFIX = "verify-tests"


def archive(topic: str, *chunks: tuple[int, int, int, str], gap: Range | None = None) -> None:
    """Store chunks given as start, end, the number of objects told, and the days that have an object."""

    async def store_all() -> None:
        async with open_store(load(S3Settings)) as store:
            for start, end, told, days in chunks:
                for place, day in enumerate(days.split(",")):
                    count = len(days.split(","))
                    records = [
                        StoredRecord(offset, 0, None, b"%d" % offset) for offset in range(start + place, end, count)
                    ]
                    name = object_key(
                        prefix=PREFIX,
                        topic=topic,
                        partition=0,
                        offsets=Range(start, end),
                        bucket=f"dt=2026-11-{day}",
                        suffix=FORM.suffix,
                    )
                    metadata = {CHUNK_OBJECTS: str(told)} if told else {}
                    body = FORM.compress(FORM.encode(records))
                    await store.put(name, body, metadata=metadata, content_type=FORM.content_type)
            if gap is not None:
                name = gap_key(prefix=PREFIX, topic=topic, partition=0, offsets=gap)
                await store.put(name, b"{}", metadata={}, content_type="application/json")

    asyncio.run(store_all())


def verify(topic: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["verify", "--topic", topic, "--prefix", PREFIX, *options])


def as_json(topic: str, *options: str) -> tuple[int, dict[str, Any]]:
    result = verify(topic, "--json", *options)
    answer = orjson.loads(result.stdout)
    assert answer["whole"] == (result.exit_code == 0)
    (found,) = answer["topics"]
    (partition,) = found["partitions"]
    return result.exit_code, partition


def test_a_whole_archive(topic: Callable[..., str]) -> None:
    name = topic()
    archive(name, (5, 10, 1, "21"), (10, 20, 2, "21,22"), (22, 25, 1, "22"), gap=Range(20, 22))
    result = verify(name)
    assert result.exit_code == 0, result.output
    assert f"{name}: whole" in result.stdout
    assert f"{name}/0: [20, 22) was gone from Kafka" in result.stdout
    code, partition = as_json(name)
    assert code == 0
    expected = {"start": 5, "end": 25, "chunks": 4, "objects": 5, "lost": [[20, 22]], "holes": [], "incomplete": []}
    assert partition.items() >= expected.items()


def test_records_come_back_in_order(topic: Callable[..., str]) -> None:
    name = topic()
    archive(name, (10, 20, 2, "21,22"), (5, 10, 1, "21"), (22, 25, 1, "22"), gap=Range(20, 22))

    async def read() -> list[int]:
        async with open_store(load(S3Settings)) as store:
            coverage = (await survey(store, prefix=PREFIX, topic=name)).coverage(0)
            return [record.offset async for record in read_partition(store, coverage, start=7, end=24)]

    assert asyncio.run(read()) == [*range(7, 20), 22, 23]


def test_a_hole(topic: Callable[..., str]) -> None:
    name = topic()
    archive(name, (0, 10, 1, "21"), (11, 20, 1, "21"))
    result = verify(name)
    assert result.exit_code == 1
    assert f"{name}/0: [10, 11) is missing, 1 offset" in result.stdout
    assert as_json(name)[1]["holes"] == [[10, 11]]


def test_an_overlap(topic: Callable[..., str]) -> None:
    name = topic()
    archive(name, (0, 10, 1, "21"), (9, 20, 1, "21"))
    code, partition = as_json(name)
    assert code == 1
    assert [item["offsets"] for item in partition["overlaps"]] == [[[0, 10], [9, 20]]]
    assert "overlaps" in verify(name).stdout


@pytest.mark.parametrize(("told", "days", "expected"), [(2, "21", 2), (3, "21,22", 3), (0, "21", None)])
def test_an_incomplete_chunk(topic: Callable[..., str], told: int, days: str, expected: int | None) -> None:
    name = topic()
    archive(name, (0, 10, 1, "20"), (10, 20, told, days))
    code, partition = as_json(name)
    assert code == 1
    present = len(days.split(","))
    assert partition["incomplete"] == [{"offsets": [10, 20], "present": present, "told": expected}]
    assert as_json(name, "--names-only")[0] == 0


def test_many_chunks(topic: Callable[..., str]) -> None:
    """More than one page of a listing, and more HEADs than run side by side."""
    name = topic()

    async def store_all() -> None:
        async with open_store(load(S3Settings), connections=64) as store:

            async def put(start: int) -> None:
                key = object_key(
                    prefix=PREFIX, topic=name, partition=0, offsets=Range(start, start + 1), bucket="", suffix="jsonl"
                )
                await store.put(key, b"", metadata={CHUNK_OBJECTS: "1"}, content_type="text/plain")

            async with asyncio.TaskGroup() as group:
                for start in range(1_100):
                    group.create_task(put(start))

    asyncio.run(store_all())
    code, partition = as_json(name)
    assert (code, partition["objects"], partition["end"]) == (0, 1_100, 1_100)


def test_nothing_there_is_not_whole(topic: Callable[..., str]) -> None:
    result = verify(topic())
    assert result.exit_code == 1
    assert "Is the prefix right?" in result.stdout


def test_no_such_bucket_is_told_in_a_sentence(topic: Callable[..., str]) -> None:
    result = verify(topic(), "--bucket", "nobody-has-this")
    assert result.exit_code == 1
    assert "S3Refused" in repr(result.exception)
    assert "404 NoSuchBucket" in str(result.exception)


def test_usage_and_settings() -> None:
    assert CliRunner().invoke(app, ["verify", "--nonsense"]).exit_code == 2
    result = CliRunner().invoke(app, ["verify"])
    assert getattr(result.exception, "exit_code", None) == 2
    assert "KAFKA_TOPIC is not set" in str(result.exception)
