"""The archiver while S3 misbehaves and processes die: nothing lost, nothing twice, everybody told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from headrace.local.ports import free_ports
from tests.s3_proxy import Fault, never, on_objects, s3_proxy, weather
from tests.trial import Process, Trial, metric, ready, trial

if TYPE_CHECKING:
    from tests.conftest import StackFactory

pytestmark = pytest.mark.stack

NewTrial = Callable[..., Trial]


@pytest.fixture
def new_trial(service_env: dict[str, str]) -> Iterator[NewTrial]:
    with ExitStack() as stack:
        yield lambda partitions=3, hint="f": stack.enter_context(trial(service_env, partitions, hint))


async def test_s3_refusing_pauses_and_never_advances(new_trial: NewTrial) -> None:
    """403 for a while: not ready, no offset moves, nothing is dropped; then all by itself it goes on."""
    it = new_trial()
    await it.create_topic()
    await it.produce(3000)
    (port,) = free_ports(1)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.FORBIDDEN)) as proxy:
        consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, MANAGEMENT_PORT=str(port))

        async def refused() -> bool:
            return proxy.seen[Fault.FORBIDDEN] >= 5

        await it.eventually(refused)
        assert all(offset <= 0 for offset, _ in (await it.committed()).values())
        status, text = await ready(port)
        assert status == 503
        assert "AccessDenied" in text
        assert "upload failed" in consumer.text
        proxy.choose = never
        await it.stored()
        assert (await ready(port))[0] == 200
    assert await it.assert_exactly_once() == 3000


async def test_s3_away_at_the_start(new_trial: NewTrial) -> None:
    it = new_trial()
    await it.create_topic()
    await it.produce(1000)

    def down(_method: str, _path: str) -> tuple[Fault, float]:
        return Fault.UNAVAILABLE, 0.0

    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], down) as proxy:
        consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint)

        async def asked() -> bool:
            return proxy.seen[Fault.UNAVAILABLE] >= 3

        await it.eventually(asked)
        assert consumer.popen.poll() is None
        proxy.choose = never
        await it.stored()
    assert await it.assert_exactly_once() == 1000


async def test_memory_is_bounded_while_s3_is_away(new_trial: NewTrial) -> None:
    """Partitions are paused at the budget; Kafka keeps the rest; afterwards all of it comes."""
    it = new_trial(partitions=4)
    await it.create_topic()
    (port,) = free_ports(1)
    budget = 2 * 1024 * 1024
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.UNAVAILABLE)) as proxy:
        it.start(
            AWS_ENDPOINT_URL_S3=proxy.endpoint,
            MANAGEMENT_PORT=str(port),
            MEMORY_BUDGET_BYTES=str(budget),
            CHUNK_MAX_BYTES=str(budget // 2),
            CHUNK_MAX_RECORDS="1000000",
            CHUNK_MAX_SECONDS="3600",
        )
        await it.produce(20_000, noise=1000)

        async def full() -> bool:
            return (
                await metric(port, "headrace_consumer_held_bytes") > budget // 4 and proxy.seen[Fault.UNAVAILABLE] > 3
            )

        await it.eventually(full)
        read = await metric(port, "headrace_consumer_records_total")
        assert read < 20_000
        # One fetch may be on its way when the budget is reached; it is bounded too.
        assert await metric(port, "headrace_consumer_held_bytes") < budget + 9 * 1024 * 1024
        proxy.choose = never

        async def taken() -> bool:
            return await metric(port, "headrace_consumer_records_total") == 20_000

        await it.eventually(taken, what="all records are taken after S3 is back")
        it.processes[0].terminate()
        assert await it.processes[0].ended() == 0
    assert await it.assert_exactly_once() == 20_000


async def test_sigterm_stores_what_is_held(new_trial: NewTrial) -> None:
    """Nothing would close these chunks for an hour but the ending itself."""
    it = new_trial()
    await it.create_topic()
    await it.produce(900)
    (port,) = free_ports(1)
    consumer = it.start(CHUNK_MAX_SECONDS="3600", CHUNK_MAX_RECORDS="1000000", MANAGEMENT_PORT=str(port))

    async def held() -> bool:
        return await metric(port, "headrace_consumer_records_total") == 900

    await it.eventually(held)
    assert (await it.survey()).partitions() == {}
    consumer.terminate()
    assert await consumer.ended() == 0, consumer.text
    assert await it.assert_exactly_once() == 900
    assert [offset for offset, _ in (await it.committed()).values()] == [300, 300, 300]


async def test_a_second_signal_does_not_wait_for_uploads(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(2000)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.UNAVAILABLE)) as proxy:
        consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, DRAIN_SECONDS="600")

        async def trying() -> bool:
            return proxy.seen[Fault.UNAVAILABLE] > 2

        await it.eventually(trying)
        consumer.terminate()

        async def stopping() -> bool:
            return "stopping" in consumer.text

        await it.eventually(stopping)
        consumer.terminate()
        await consumer.ended(15)
    it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 2000


async def test_another_layout_waits_for_the_claims_of_the_former(new_trial: NewTrial) -> None:
    """Claims that are open under another layout are refused with the way out; dropping them is one."""
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(2000)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.UNAVAILABLE)) as proxy:
        first = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint)

        async def claimed() -> bool:
            return (await it.committed())[it.tps[0]][1].count(",") >= 2

        await it.eventually(claimed, what="three chunks are claimed")
        first.kill()
    other = it.start(COMPRESSION="gzip")

    async def told() -> bool:
        return "claimed under another layout" in other.text

    await it.eventually(told)
    assert (await it.survey()).partitions() == {}
    code, text = await it.run("claims", "drop", "--yes")
    assert code == 1, text
    assert "Stop all of its consumers first" in text
    other.terminate()
    assert await other.ended() == 0
    code, text = await it.run("claims", "show", "--json")
    assert code == 0
    assert '"claimed":[[0,500],[500,1000],[1000,1500]' in text
    code, text = await it.run("claims", "drop", "--yes")
    assert code == 0, text
    it.start(COMPRESSION="gzip")
    await it.stored()
    assert await it.assert_exactly_once() == 2000


async def test_kills_and_pauses_in_foul_weather(new_trial: NewTrial) -> None:
    """Replies take up to 3 s, some are lost, some PUTs land after their writer's death: as it stands in DESIGN.md."""
    it = new_trial(partitions=4)
    await it.create_topic()
    dice = random.Random(20261122)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], weather(1, delay=1.5, share=0.05)) as proxy:
        running: list[Process] = [it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint) for _ in range(2)]

        async def harm() -> None:
            for _ in range(10):
                await asyncio.sleep(dice.uniform(0.3, 2.0))
                number = dice.randrange(2)
                match dice.choice(("kill", "kill", "terminate", "pause")):
                    case "kill":
                        running[number].kill()
                        running[number] = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint)
                    case "terminate":
                        running[number].terminate()
                        await running[number].ended()
                        running[number] = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint)
                    case "pause":
                        running[number].pause()
                        await asyncio.sleep(dice.uniform(1.0, 8.0))
                        running[number].resume()

        async def load() -> None:
            for part in range(20):
                await it.produce(1000, first=1000 * part)

        async with asyncio.TaskGroup() as both:
            both.create_task(harm())
            both.create_task(load())

        async def foul() -> bool:
            return proxy.seen[Fault.LOST_REPLY] > 0 and proxy.seen[Fault.STALL] > 0

        await it.eventually(foul, what="replies were lost, and PUTs stalled")
        proxy.choose = never
        await it.stored(90)
        assert await it.assert_exactly_once() == 20_000


async def test_kafka_dies_and_comes_back(own_stack: StackFactory) -> None:
    """A commit that got no answer ends the membership; a new one goes on."""
    stack = own_stack()
    with trial(stack.environment, 3, "k") as it:
        await it.create_topic()
        await it.produce(3000)
        consumer = it.start()

        async def some() -> bool:
            return any(offset > 0 for offset, _ in (await it.committed()).values())

        await it.eventually(some)
        for round_ in range(2):
            await asyncio.to_thread(stack.kafka.kill)
            await asyncio.to_thread(stack.kafka.restart)
            await it.produce(3000, first=3000 * (round_ + 1))
        await it.stored(90)
        assert await it.assert_exactly_once() == 9000
        assert consumer.popen.poll() is None
        consumer.terminate()
        assert await consumer.ended() == 0, consumer.text


async def test_kafka_away_at_the_start(own_stack: StackFactory) -> None:
    stack = own_stack()
    with trial(stack.environment, 1, "k") as it:
        await it.create_topic()
        await it.produce(100)
        await asyncio.to_thread(stack.kafka.kill)
        consumer = it.start()

        async def told() -> bool:
            return "does not answer" in consumer.text

        await it.eventually(told)
        await asyncio.to_thread(stack.kafka.restart)
        await it.stored(60)
        assert await it.assert_exactly_once() == 100
