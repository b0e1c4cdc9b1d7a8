"""Records that never saw our producer: any bytes, any codec, any timestamp, transactions. All come as they are."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from headrace.objects import HIVE_NULL
from tests.trial import Trial, trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    NewTrial = Callable[..., Trial]

pytestmark = pytest.mark.stack

VALUES = [
    b'{"id":12345678901234567890.10,"id":1e999}',
    b'{"a":"\\ud800"}',
    b'{"a":\r\n1}',
    b" [1] ",
    b"null",
    b"",
    b"no JSON at all, \xc3\xa9",
    bytes(range(256)),
    b'{"bad":"\xff"}',
    b"[" * 600 + b"]" * 600,
    b"[" * 512 + b"]" * 512,
    '{"\u043a\u043b\u044e\u0447":"\u2028\U0001f9ca"}'.encode(),
    None,
]
KEYS = [None, b"", b"key", b"17", b'{"k":1}', b"null", b"\x00\xff"]
HEADERS: list[list[tuple[str, bytes]]] = [
    [],
    [("trace", b"00-4bf9"), ("trace", b"again"), ("\u00fcber", b"\xff\x00")],
    [("ce_id", b'"1"'), ("empty", b"")],
]


@pytest.fixture
def it(service_env: dict[str, str]) -> Iterator[Trial]:
    with trial(service_env, 3, "any") as one:
        yield one


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_any_bytes_in_any_codec(it: Trial, codec: str | None) -> None:
    await it.create_topic()
    sent = 0
    async with it.producer(compression_type=codec, enable_idempotence=False) as producer:
        for key in KEYS:
            for headers in HEADERS:
                for value in VALUES:
                    if key is None and value is None:
                        continue
                    await producer.send(it.topic, value, key, headers=headers, partition=sent % 3)
                    sent += 1
        await producer.flush()
    it.start()
    await it.stored()
    assert await it.assert_exactly_once() == sent


async def test_each_hour_has_an_object_of_its_own(it: Trial) -> None:
    """Also when hours come mixed: one claim, several objects; absurd times go to a named folder."""
    await it.create_topic(message_timestamp_after_max_ms=str(2**63 - 1))
    now = int(time.time() * 1000)
    times = [now, now - 3_600_000, now - 7_200_000, 1_700_000_000, now * 1000]  # the last two: seconds, microseconds
    async with it.producer() as producer:
        for number in range(600):
            await producer.send(it.topic, b"%d" % number, partition=0, timestamp_ms=times[number % 5])
        await producer.flush()
    it.start(CHUNK_MAX_RECORDS="200")
    await it.stored()
    assert await it.assert_exactly_once() == 600
    coverage = (await it.survey()).coverage(0)
    assert [len(chunk.keys) for chunk in coverage.chunks] == [4, 4, 4]
    folders = Counter(
        key.removeprefix(f"{it.prefix}/{it.topic}/").rpartition("/")[0] for c in coverage.chunks for key in c.keys
    )
    assert folders[f"dt={HIVE_NULL}/hour={HIVE_NULL}"] == 3
    assert len(folders) == 4
    code, text = await it.run("verify")
    assert code == 0, text


@pytest.mark.parametrize("codec", [None, "zstd"])
async def test_records_as_large_and_as_odd_as_kafka_takes_them(it: Trial, codec: str | None) -> None:
    """Nearly 1 MiB as it is by default, 3 MB where a topic allows it; a thousand headers; nothing at all."""
    await it.create_topic(max_message_bytes="4000000")
    dice = random.Random(7)
    odd: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
        (b"near", dice.randbytes(1_048_000), []),
        (b"text", b'{"pad":"' + b"x" * 1_000_000 + b'"}', []),
        (b"large", dice.randbytes(3_000_000), []),
        (dice.randbytes(900_000), b"a key of 900 KB", []),
        (None, b"", []),
        (b"", b"", []),
        (b"", None, []),
        (b"headers", b"{}", [(f"h-{number % 500}", b"%d" % number) for number in range(1000)]),
        (b"wide", None, [("", b"x" * 900_000), ("\u00fc" * 1000, b"")]),
    ]
    options = {"compression_type": codec, "max_request_size": 4_000_000, "max_batch_size": 4_000_000}
    async with it.producer(**options) as producer:
        for _ in range(2):
            for key, value, headers in odd:
                await producer.send_and_wait(it.topic, value, key, headers=headers, partition=0)
    it.start(MEMORY_BUDGET_BYTES="2097152", CHUNK_MAX_BYTES="1048576")
    await it.stored()
    assert await it.assert_exactly_once() == 2 * len(odd)
