"""A full disk under the servers, and a wall clock that jumps: what can't be done now waits, and is done once."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from headrace.local.kafka import Kafka
from headrace.local.ports import free_ports
from headrace.local.s3 import S3
from tests.full_disk import Disk, Mounted, small_disk
from tests.producer_process import serving
from tests.services import OwnStack
from tests.trial import ROOT, Trial, trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.stack, pytest.mark.slow]

HOUR = 3600


# The disk


async def post(url: str, numbers: Iterator[int], accepted: list[int]) -> int:
    number = next(numbers)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.post(f"{url}/payloads", json={"data": [{"n": number, "pad": secrets.token_hex(40_000)}]})
    if answer.status_code == 200:
        accepted.append(number)
    return answer.status_code


async def test_a_full_disk_under_kafka_and_s3() -> None:
    """S3 answers 500 and goes on by itself; Kafka ends, and goes on when it is started again. No 200 is lost."""
    numbers, accepted = itertools.count(), list[int]()
    with small_disk() as s3_disk, small_disk() as kafka_disk:
        logs = Path(s3_disk.folder).parent
        stack = OwnStack(
            Kafka(kafka_disk.folder / "k", log=logs / f"{kafka_disk.folder.name}.log"),
            S3(s3_disk.folder / "s", log=logs / f"{s3_disk.folder.name}.log"),
        )
        try:
            await asyncio.to_thread(stack.s3.start)
            await asyncio.to_thread(stack.kafka.start)
            with trial(stack.environment, 3, "d") as it:
                await fill_and_clear(it, stack, s3_disk, kafka_disk, numbers, accepted)
        finally:
            stack.s3.kill()
            stack.kafka.kill()
            stack.s3.log.unlink(missing_ok=True)
            stack.kafka.log.unlink(missing_ok=True)


async def fill_and_clear(
    it: Trial, stack: OwnStack, s3_disk: Disk, kafka_disk: Disk, numbers: Iterator[int], accepted: list[int]
) -> None:
    settings = {"REQUEST_TIMEOUT_SECONDS": "2", "KAFKA_COMPRESSION": "none"}
    async with serving(it.environment, it.topic, **settings) as (producer, url):
        consumer = it.start()
        for _ in range(20):
            assert await post(url, numbers, accepted) == 200
        await it.stored()

        await asyncio.to_thread(s3_disk.fill, stack.s3)
        before = await it.committed()
        for _ in range(20):
            assert await post(url, numbers, accepted) == 200

        async def refused() -> bool:
            return consumer.text.count("500 InternalError") >= 3

        await it.eventually(refused)
        now = await it.committed()
        assert [now[tp][0] for tp in it.tps] == [before[tp][0] for tp in it.tps], "nothing is passed"
        await asyncio.to_thread(s3_disk.clear, stack.s3)
        await it.stored()

        await asyncio.to_thread(kafka_disk.fill, stack.kafka)
        statuses = {await post(url, numbers, accepted) for _ in range(12)}
        assert statuses <= {200, 503}
        await producer.until(503)

        async def dead() -> bool:
            return not stack.kafka.running

        await it.eventually(dead)
        assert "Kafka has no space left" in stack.kafka.trouble()
        await asyncio.to_thread(kafka_disk.clear, stack.kafka)
        await asyncio.to_thread(stack.kafka.restart)
        await producer.until(200)
        assert await post(url, numbers, accepted) == 200
        await it.stored(90)
        assert consumer.popen.poll() is None
    await it.assert_exactly_once()
    stored = {record.value for records in (await it.archive()).values() for record in records}
    assert all(any(b'"n":%d,' % number in (value or b"").replace(b" ", b"") for value in stored) for number in accepted)


def test_up_says_which_disk_is_full_and_what_to_do() -> None:
    with small_disk() as disk:
        up = [sys.executable, str(Path(__file__).with_name("up_with_stand_ins.py")), str(disk.folder / "h")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(up, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if "up after" in line:
                    if not isinstance(disk, Mounted):
                        # A limit can't be laid upon a whole folder: only Kafka's own death tells, see above.
                        process.send_signal(signal.SIGINT)
                        break
                    disk.fill(None)  # type: ignore[arg-type]
                if "has no space left" in line:
                    assert str(disk.folder) in line
                    assert "Make room there" in line
                    process.send_signal(signal.SIGINT)
                    break
            said += process.stdout.readlines()
            assert process.wait(40) in {0, 1}, said
            assert "Traceback" not in "".join(said), said
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


# The clock


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "shift")


class Clock:
    """The wall clock of whoever is started with its environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: int) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT / "tests" / "clock"), "CLOCK_SHIFT_FILE": str(self._file)}


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_the_consumers_clock_jumps(service_env: dict[str, str], clock: Clock, jump: int) -> None:
    """S3 refuses signatures that are an hour off: that is said, waited out, and nothing is passed. Nothing else."""
    with trial(service_env, 2, "c") as it:
        await it.create_topic()
        (port,) = free_ports(1)
        consumer = it.start(MANAGEMENT_PORT=str(port), **clock.environment)
        await it.produce(1000)
        await it.stored()
        before = await it.committed()
        clock.set(jump)
        await it.produce(1000, first=1000)

        async def refused() -> bool:
            return "RequestTimeTooSkewed" in consumer.text

        await it.eventually(refused)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert answer.status_code == 503
        assert "too large" in answer.text, "it says what is wrong"
        now = await it.committed()
        assert [now[tp][0] for tp in it.tps] == [before[tp][0] for tp in it.tps]
        assert consumer.text.count("generation") == 1, "heartbeats go on by the monotonic clock"
        clock.set(0)
        await it.stored()
        assert consumer.text.count("generation") == 1
        consumer.terminate()
        assert await consumer.ended() == 0
        assert await it.assert_exactly_once() == 2000


async def test_the_producers_clock_jumps(service_env: dict[str, str], clock: Clock) -> None:
    """Record batches carry its time. Kafka takes those of an hour ahead and no later: then 503, and well again."""
    statuses = {}
    with trial(service_env, 3, "c") as it:
        async with (
            serving({**service_env, **clock.environment}, it.topic) as (process, url),
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client,
        ):
            count = 0
            for jump in (0, HOUR - 60, -HOUR, 0, 2 * HOUR):
                clock.set(jump)
                answers = [await client.post("/payloads", json={"data": [count + n]}) for n in range(5)]
                count += 5
                statuses[jump] = {answer.status_code for answer in answers}
            assert "InvalidTimestamp" in process.log
            clock.set(0)
            await process.until(200)
            assert (await client.post("/payloads", json={"data": [count]})).status_code == 200
        assert statuses == {0: {200}, HOUR - 60: {200}, -HOUR: {200}, 2 * HOUR: {503}}
        it.start()
        await it.stored()
        assert await it.assert_exactly_once() == 21


async def test_times_of_records_jump(service_env: dict[str, str]) -> None:
    """Out of order by an hour either way: each record lies in its own hour's folder, once."""
    with trial(service_env, 1, "c") as it:
        await it.create_topic()
        now = int(datetime.now(UTC).timestamp() * 1000)
        times = [now + 1000 * shift for shift in (0, -HOUR, HOUR - 60, -2, -HOUR - 5, 0, HOUR - 70)] * 100
        async with it.producer() as producer:
            for time_ms in times:
                await producer.send(it.topic, b"%d" % time_ms, partition=0, timestamp_ms=time_ms)
            await producer.flush()
        it.start()
        await it.stored()
        assert await it.assert_exactly_once() == len(times)
        wanted = {f"dt={at:%Y-%m-%d}/hour={at:%H}" for at in (datetime.fromtimestamp(t / 1000, UTC) for t in times)}
        keys = [key for chunk in (await it.survey()).coverage(0).chunks for key in chunk.keys]
        assert {"/".join(key.split("/")[-3:-1]) for key in keys} == wanted
