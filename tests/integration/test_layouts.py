"""Layouts on real servers: late records make no tiny files, values of records name folders, settings change safely."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import duckdb
import orjson
import pytest

from consumer.claims import decode
from headrace.objects import HIVE_NULL, Range, parse_key
from tests.bulk import Memory
from tests.s3_proxy import Fault, never, on_objects, s3_proxy
from tests.trial import Trial, trial

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.stack

NewTrial = Callable[..., Trial]
HOUR_MS = 3_600_000
AS_DEPLOYED = {
    "CHUNK_MAX_RECORDS": "100000",
    "CHUNK_MAX_SECONDS": "30",  # 60 by default
    "UPLOAD_TIMEOUT_SECONDS": "60",
    "SESSION_TIMEOUT_SECONDS": "10",
}


@pytest.fixture
def new_trial(service_env: dict[str, str]) -> Iterator[NewTrial]:
    with ExitStack() as stack:
        yield lambda partitions=1, hint="l": stack.enter_context(trial(service_env, partitions, hint))


async def keys_of(it: Trial) -> list[str]:
    async with it.store() as store:
        return [item.key async for item in store.list(f"{it.prefix}/{it.topic}/")]


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_late_records_make_an_object_an_hour_and_not_one_each(new_trial: NewTrial) -> None:
    """The case that ends Confluent's sink: 200,000 records of 200 hours, in turn; a rotation at each is a file each."""
    records, hours = 200_000, 200
    it = new_trial(partitions=12)
    await it.create_topic(retention_ms="-1")
    begin = (int(time.time() * 1000) // HOUR_MS - hours) * HOUR_MS
    async with it.producer(enable_idempotence=False, max_batch_size=1 << 20) as producer:
        sent = []
        for number in range(12):
            offsets = range(number, records, 12)
            for some in (offsets[at : at + 2000] for at in range(0, len(offsets), 2000)):
                builder = producer.create_batch()
                for i in some:
                    at = begin + i // 12 % hours * HOUR_MS
                    builder.append(timestamp=at, key=None, value=b'{"i":%06d,"pad":"%0198x"}' % (i, i**40))
                builder.close()
                sent.append(await producer.send_batch(builder, it.topic, partition=number))
        await asyncio.gather(*sent)
    consumer = it.start(**AS_DEPLOYED)
    memory = Memory(consumer.popen.pid)
    await it.stored(240)
    peak = memory.peak()
    keys = await keys_of(it)
    assert len(keys) <= 2400, Counter(key.rpartition("/")[2] for key in keys)
    assert peak <= 256, f"{peak:.0f} MiB"
    hours_of: Counter[tuple[int, Range]] = Counter()
    for name in map(parse_key, keys):
        assert name is not None
        hours_of[name.partition, name.range] += 1
    ends = {tp.partition: end for tp, end in (await it.log_ends()).items()}
    assert hours_of == {(number, Range(0, end)): hours for number, end in ends.items()}
    code, text = await it.run("verify", "--json", timeout=240)
    assert code == 0, text


VALUES = [
    *("de", "fr", "..", ".", "a/b=c%41", "_gaps", "__HIVE_DEFAULT_PARTITION__", "Zürich 🚲", " blank ", "+", "x" * 500),
    *("", None, {"not": "a value"}, 7, True, "line\nend", "\x00", "quo'te\"", "?#&;:\\"),
]


@pytest.mark.parametrize("client", ["aiobotocore", "obstore"])
async def test_values_of_records_name_folders(new_trial: NewTrial, client: str, tmp_path: Path) -> None:
    """Whatever they are; and DuckDB finds them again by the folders' names."""
    it = new_trial(partitions=2)
    await it.create_topic()
    sent = []
    async with it.producer() as producer:
        for number in range(200):
            country = VALUES[number % len(VALUES)]
            at = f"2026-03-29T0{number % 7}:30:00+01:00" if number % 11 else "whenever"
            value = orjson.dumps({"n": number, "address": {"country": country}, "at": at})
            sent.append((country, value))
            await producer.send(it.topic, value, [b"k", b"\xff", None][number % 3], partition=number % 2)
        await producer.send(it.topic, b"no JSON", partition=0)
        await producer.send(it.topic, None, b"k", partition=1)
    settings: dict[str, Any] = {
        "OBJECT_PATH": "country={/address/country}/key={key}/dt=%Y-%m-%d/hour=%H",
        "TIME_FIELD": "/at",
        "TIME_ZONE": "Europe/Berlin",
        "COMPRESSION": "none",
        "S3_CLIENT": client,
    }
    consumer = it.start(**settings)
    await it.stored()
    assert await it.assert_exactly_once() == 202
    code, text = await it.run("verify", "--json", **settings)
    assert code == 0, text
    consumer.terminate()
    assert await consumer.ended() == 0, consumer.text

    keys = await keys_of(it)
    folders = [dict(part.split("=", 1) for part in key.split("/") if "=" in part) for key in keys]
    assert {folder["key"] for folder in folders} == {"k", "%FF", HIVE_NULL}
    assert {folder["hour"] for folder in folders} == {"00", "01", "03", "04", "05", "06", "07", HIVE_NULL}, "02 is not"
    short = {value for value in VALUES if isinstance(value, str) and 0 < len(value) <= 128}
    named = {folder["country"] for folder in folders} - {HIVE_NULL}
    assert {unquote(name) for name in named if "%2D" not in name} == short | {"7", "true"}

    async with it.store() as store:
        for number, key in enumerate(keys):
            body = await store.get(key)
            assert body is not None
            file = tmp_path / key.removeprefix(f"{it.prefix}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_name(f"{number}.jsonl").write_bytes(body)
    query = f"""
        select country, count(*) from read_ndjson_objects('{tmp_path}/**/*.jsonl', hive_partitioning = true)
        where country in ('de', 'a/b=c%41', 'Zürich 🚲', ' blank ', '..') group by country
    """
    assert dict(duckdb.connect().execute(query).fetchall()) == dict.fromkeys(
        ["de", "a/b=c%41", "Zürich 🚲", " blank ", ".."], 10
    )


OTHERS = {
    "format": {"FORMAT": "object"},
    "compression": {"COMPRESSION": "gzip"},
    "path": {"OBJECT_PATH": "n={/n}/dt=%F", "TIME_FIELD": "/at", "TIME_ZONE": "Asia/Tokyo"},
    "prefix": {"S3_PREFIX": "another"},
}
QUICK = {"UPLOAD_TIMEOUT_SECONDS": "1", "SESSION_TIMEOUT_SECONDS": "2"}


async def offsets_in(it: Trial) -> list[Range]:
    return [chunk.offsets for each in (await it.survey()).partitions().values() for chunk in each.chunks]


@pytest.mark.parametrize("change", OTHERS)
async def test_settings_of_names_change_in_a_running_group(new_trial: NewTrial, change: str) -> None:
    """With claims open it is refused, and told how to go on; after a clean stop it is taken. Nothing is there twice."""
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(1200)
    other: dict[str, Any] = dict(OTHERS[change])
    if change == "prefix":
        other["S3_PREFIX"] = f"{it.prefix}-{other['S3_PREFIX']}"
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.UNAVAILABLE)) as proxy:
        first = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, **QUICK)

        async def claimed() -> bool:
            offset, metadata = (await it.committed())[it.tps[0]]
            found = decode(offset, metadata)
            return found is not None and bool(found.ends)

        await it.eventually(claimed, what="a claim is open")
        first.kill()
        proxy.choose = never
    changed = it.start(**QUICK, **other)

    async def refused() -> bool:
        return "is claimed under another layout" in changed.text

    await it.eventually(refused, what="it says that claims are open")
    assert "Start once with the former" in changed.text
    assert "headrace claims drop" in changed.text
    assert await offsets_in(it) == []
    changed.terminate()
    assert await changed.ended() == 0, changed.text

    former = it.start(**QUICK)
    await it.stored()
    former.terminate()
    assert await former.ended() == 0, former.text
    await it.produce(700, first=1200)
    changed = it.start(**QUICK, **other)
    await it.stored()
    changed.terminate()
    assert await changed.ended() == 0, changed.text

    places = {it.prefix, other.get("S3_PREFIX", it.prefix)}
    archives = [Trial(it.environment, it.topic, prefix, 1, it.folder) for prefix in sorted(places)]
    ranges = sorted(itertools.chain.from_iterable([await offsets_in(each) for each in archives]))
    assert ranges[0].start == 0
    assert all(left.end == right.start for left, right in itertools.pairwise(dict.fromkeys(ranges)))
    log = (await it.log())[0]
    stored = [record for each in archives for record in (await each.archive())[0]]
    assert sorted(stored) == log
    code, text = await it.run("verify", "--json", **other)
    assert code == 0, text
