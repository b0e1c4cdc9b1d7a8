"""FORMAT=object on real servers: a payload an object, an index a chunk, and the promises of any other format."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import orjson
import pytest

from consumer.claims import decode
from headrace.archive import ArchiveError, read_chunk, read_index
from headrace.local.kafka import run_tool
from headrace.objects import payload_folder
from tests.s3_proxy import Fault, s3_proxy
from tests.trial import Process, Trial, trial

if TYPE_CHECKING:
    from headrace.archive import Entry

pytestmark = pytest.mark.stack

NewTrial = Callable[..., Trial]
PAYLOAD = re.compile(r"/_payloads/.*-(\d{5})-(\d{20})\.json")
CLIENTS = pytest.mark.parametrize("client", ["aiobotocore", "obstore"])


@pytest.fixture
def new_trial(service_env: dict[str, str]) -> Iterator[NewTrial]:
    with ExitStack() as stack:
        yield lambda partitions=1, hint="o": stack.enter_context(trial(service_env, partitions, hint))


def start(it: Trial, client: str = "obstore", **settings: str) -> Process:
    return it.start(**{"FORMAT": "object", "S3_CLIENT": client, "CHUNK_MAX_RECORDS": "100"} | settings)


async def payload_keys(it: Trial) -> list[str]:
    async with it.store() as store:
        return [item.key async for item in store.list(payload_folder(it.prefix, it.topic))]


async def index(it: Trial) -> list[Entry]:
    survey = await it.survey()
    async with it.store() as store:
        return [
            entry
            for partition in survey.partitions().values()
            for chunk in partition.chunks
            for key in chunk.keys
            for entry in await read_index(store, key)
        ]


async def assert_one_object_an_offset(it: Trial) -> int:
    """Beside `assert_exactly_once`: no payload lies there twice, or without an index that tells of it."""
    count = await it.assert_exactly_once()
    told = [f"{it.prefix}/{entry.object}" for entry in await index(it) if entry.object is not None]
    keys = await payload_keys(it)
    assert len(set(told)) == len(told)
    assert sorted(keys) == sorted(told)
    return count


@CLIENTS
async def test_each_payload_is_an_object_and_nothing_of_a_record_is_lost(new_trial: NewTrial, client: str) -> None:
    """Whatever a record holds: JSON or not, nothing at all, keys and headers of any bytes."""
    it = new_trial(partitions=2)
    await it.create_topic()
    absurd = bytes(range(256))
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
        (b'{"id":12345678901234567890.10}', None, []),
        (b' {\n "pretty": true\r\n}\n', b"key", [("trace", b"abc"), ("trace", b"second"), ("Capital", b"x")]),
        (b"not JSON", b'{"k":1}', []),
        (absurd * 40, absurd, [("bytes", absurd), ("ü", "ü".encode()), ("", b"")]),
        (b"", b"", []),
        (b"null", b"null", [("null", b"null")]),
        (None, b"tombstone", [("why", b"gone  twice")]),
        (b'"a\xff"', b" blank ", []),
        (b"[" * 600 + b"]" * 600, None, [(f"h{number}", b"x" * 100) for number in range(40)]),
    ]
    async with it.producer() as producer:
        for number, (value, key, headers) in enumerate(records):
            await producer.send(it.topic, value, key, partition=number % 2, headers=headers)
    start(it, client)
    await it.stored()
    assert await assert_one_object_an_offset(it) == len(records)
    assert len(await payload_keys(it)) == len(records) - 1
    suffixes = Counter(key.rpartition(".")[2] for key in await payload_keys(it))
    assert suffixes == {"json": 3, "bin": 5}
    async with it.store() as store:
        for entry in await index(it):
            if entry.object is None:
                continue
            name = f"{it.prefix}/{entry.object}"
            head, body = await store.head(name), await store.get(name)
            assert head is not None
            assert body is not None
            assert (len(body), hashlib.sha256(body).hexdigest()) == (entry.size, entry.sha256)
            assert head.metadata["headrace-offset"] == str(entry.record.offset)
            assert head.metadata["headrace-timestamp"] == str(entry.record.timestamp)
            if entry.record.key == b"key":
                assert head.metadata["headrace-key"] == "key"
                assert head.metadata["header-trace"] == "abc"


@CLIENTS
async def test_killed_in_mid_chunk(new_trial: NewTrial, client: str) -> None:
    """The next owner stores again what was claimed, under the same names, and no more; nothing lies there twice."""
    it = new_trial(partitions=2)
    await it.create_topic()
    await it.produce(1000)
    puts: set[tuple[int, int]] = set()

    def note(method: str, path: str) -> tuple[Fault, float]:
        if method == "PUT" and (match := PAYLOAD.search(path)):
            puts.add((int(match[1]), int(match[2])))
        return Fault.PASS, 0.02

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], note) as proxy:
        first = start(it, client, AWS_ENDPOINT_URL_S3=proxy.endpoint, MAX_CLAIMS="2", MAX_WORKERS="4")

        async def half_way() -> bool:
            return bool((await it.survey()).partitions()) and len(puts) % 100 > 10

        await it.eventually(half_way, what="a chunk is whole, and another one is not")
        first.kill()
        await proxy.landed()
        claimed, done = set(), set()
        for tp, (offset, metadata) in (await it.committed()).items():
            committed = decode(offset, metadata)
            assert committed is not None
            claimed |= {(tp.partition, number) for number in range(committed.start, committed.last_end)}
            done |= {(tp.partition, number) for number in range(committed.durable)}
        before = puts.copy()
        assert before <= claimed | done
        assert before & claimed
        puts.clear()
        start(it, client, AWS_ENDPOINT_URL_S3=proxy.endpoint, MAX_CLAIMS="2")
        await it.stored()
        assert puts & before == claimed & before - done
        assert not puts & done
    assert await assert_one_object_an_offset(it) == 1000
    code, text = await it.run("verify", "--json")
    assert code == 0, text
    report = orjson.loads(text)["topics"][0]
    assert (report["whole"], report["other_objects"]) == (True, 0)


async def test_a_reset_fills_only_what_is_missing(new_trial: NewTrial) -> None:
    """The group's offsets are gone, and one chunk's index: its payloads are stored again, the others are left alone."""
    it = new_trial()
    await it.create_topic()
    await it.produce(1000)
    first = start(it)
    await it.stored()
    first.terminate()
    assert await first.ended() == 0, first.text
    chunks = (await it.survey()).coverage(0).chunks
    gone = chunks[4]
    async with it.store() as store:
        for key in gone.keys:
            await store.delete(key)
    tool = await asyncio.to_thread(
        run_tool,
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        *("--bootstrap-server", it.environment["KAFKA_BOOTSTRAP_SERVERS"], "--group", it.group, "--topic", it.topic),
        "--delete-offsets",
    )
    assert tool.returncode == 0, tool.stdout + tool.stderr
    puts: list[str] = []

    def note(method: str, path: str) -> tuple[Fault, float]:
        if method == "PUT" and "_headrace" not in path:
            puts.append(path)
        return Fault.PASS, 0.0

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], note) as proxy:
        start(it, AWS_ENDPOINT_URL_S3=proxy.endpoint)
        await it.stored()
    assert len(puts) == gone.offsets.end - gone.offsets.start + len(gone.keys)
    assert await assert_one_object_an_offset(it) == 1000


async def test_foul_weather(new_trial: NewTrial) -> None:
    """503, resets, lost replies: each payload is tried again until it is there, and the others meanwhile."""
    it = new_trial(partitions=2)
    await it.create_topic()
    await it.produce(600)
    seen = Counter[str]()

    def foul(method: str, path: str) -> tuple[Fault, float]:
        if method != "PUT" or "_headrace" in path:
            return Fault.PASS, 0.0
        seen[path] += 1
        first = seen[path] == 1 and hashlib.sha256(path.encode()).digest()[0]
        return ({1: Fault.UNAVAILABLE, 2: Fault.RESET, 3: Fault.LOST_REPLY}.get(first % 12, Fault.PASS), 0.0)

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], foul) as proxy:
        start(it, AWS_ENDPOINT_URL_S3=proxy.endpoint)
        await it.stored()
        assert all(proxy.seen[fault] for fault in (Fault.UNAVAILABLE, Fault.RESET, Fault.LOST_REPLY))
    assert await assert_one_object_an_offset(it) == 600


async def test_no_more_attempts_at_a_time_than_workers(new_trial: NewTrial) -> None:
    """MAX_WORKERS are PUTs at a time over the whole process, and they are used."""
    it = new_trial(partitions=4)
    await it.create_topic()
    await it.produce(800)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], lambda *_: (Fault.PASS, 0.02)) as proxy:
        start(it, AWS_ENDPOINT_URL_S3=proxy.endpoint, MAX_WORKERS="6")
        await it.stored()
        assert 4 <= proxy.most_at_a_time <= 6
    assert await assert_one_object_an_offset(it) == 800


async def test_replayed_into_another_prefix(new_trial: NewTrial) -> None:
    it = new_trial()
    await it.create_topic()
    await it.produce(300)
    start(it)
    await it.stored()
    again = f"{it.prefix}-again"
    replaying = it.start(
        *("headrace", "replay", "--prefix", again, "--since", "0", "--until", "latest"),
        FORMAT="object",
        S3_CLIENT="obstore",
        CHUNK_MAX_RECORDS="70",
    )
    assert await replaying.ended(60) == 0, replaying.text
    log = await it.log()
    it.prefix = again
    assert await it.archive() == log
    assert await assert_one_object_an_offset(it) == 300


async def test_a_payload_that_was_changed_or_removed_is_told(new_trial: NewTrial) -> None:
    it = new_trial()
    await it.create_topic()
    await it.produce(10)
    start(it)
    await it.stored()
    (chunk,) = (await it.survey()).coverage(0).chunks
    key = (await payload_keys(it))[3]
    async with it.store() as store:
        await store.put(key, b"other", metadata={}, content_type="text/plain")
        with pytest.raises(ArchiveError, match="was changed since"):
            await read_chunk(store, chunk)
        code, text = await it.run("verify", "--json")
        (changed,) = orjson.loads(text)["topics"][0]["partitions"][0]["payloads"]["named"]
        assert (code, changed["key"], changed["present_size"]) == (1, key, 5)
        await store.delete(key)
        with pytest.raises(ArchiveError, match="but it is gone"):
            await read_chunk(store, chunk)
    code, text = await it.run("verify")
    assert code == 1
    assert f"{it.topic}/0: the payload of offset 3 is gone: {key}" in text
    code, text = await it.run("verify", "--json")
    answer = orjson.loads(text)
    assert (code, answer["whole"]) == (1, False)
    payloads = answer["topics"][0]["partitions"][0]["payloads"]
    assert (payloads["told"], payloads["gone"], len(payloads["named"])) == (10, 1, 1)
    assert payloads["named"][0].items() >= {"offset": 3, "key": key, "present_size": None}.items()
    assert (await it.run("verify", "--names-only"))[0] == 0
