"""Endings: whenever and however often a process is asked to go, it goes in time, with 0; nothing is lost or twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from consumer.process import ENDING_SECONDS
from tests.producer_process import ProducerProcess, records_of, serving
from tests.s3_proxy import Fault, never, on_objects, s3_proxy
from tests.trial import Process, Trial, trial

if TYPE_CHECKING:
    from tests.conftest import StackFactory
    from tests.services import KafkaService

pytestmark = [pytest.mark.stack, pytest.mark.slow]

log = logging.getLogger(__name__)

NewTrial = Callable[..., Trial]
MOST_SECONDS = 2.0
"""A busy machine's own share of each of these times."""


@pytest.fixture
def new_trial(service_env: dict[str, str]) -> Iterator[NewTrial]:
    with ExitStack() as stack:
        yield lambda partitions=3, hint="e": stack.enter_context(trial(service_env, partitions, hint))


@contextlib.asynccontextmanager
async def load(it: Trial) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Records without a pause for as long as the context lasts, or until what it gives is called."""
    stop = asyncio.Event()

    async def produce() -> None:
        first = 0
        async with it.producer() as producer:
            while not stop.is_set():
                sent = [
                    await producer.send(it.topic, b'{"n":%d}' % number, partition=number % it.partitions)
                    for number in range(first, first + 100)
                ]
                await asyncio.gather(*sent)
                first += 100
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        producing = tasks.create_task(produce())

        async def cease() -> None:
            stop.set()
            await producing

        try:
            yield cease
        finally:
            stop.set()


async def ended(process: Process, seconds: float) -> float:
    """How long it took; not longer than it may, and with 0."""
    began = time.monotonic()
    assert await process.ended(seconds + 20) == 0, process.text
    took = time.monotonic() - began
    assert took < seconds + MOST_SECONDS, process.text
    return took


def report(what: str, seconds: float) -> None:
    """The figures of docs/RELIABILITY.md: pytest --log-cli-level=INFO shows them."""
    log.info("ENDING %s: %.1f s", what, seconds)


async def progress(it: Trial) -> list[int]:
    committed = await it.committed()
    return [committed[tp][0] for tp in it.tps]


async def served(it: Trial, beyond: list[int]) -> None:
    """Waits until each partition's watermark has moved beyond."""

    async def moved() -> bool:
        return all(now > before for now, before in zip(await progress(it), beyond, strict=True))

    await it.eventually(moved, what="all partitions are served")


@pytest.mark.parametrize("consumers", [1, 3])
async def test_sigterm_under_full_load_hands_over_at_once(new_trial: NewTrial, consumers: int) -> None:
    """Who leaves in order leaves the group: the next one does not wait for a session of 30 s to end."""
    it = new_trial()
    await it.create_topic()
    session = {"SESSION_TIMEOUT_SECONDS": "30", "UPLOAD_TIMEOUT_SECONDS": "5"}
    async with load(it):
        running = [it.start(**session) for _ in range(consumers)]

        async def all_there() -> bool:
            async with it.cluster() as cluster:
                return len((await cluster.group(it.group)).members) == consumers

        await it.eventually(all_there)
        await served(it, [0] * it.partitions)
        began = time.monotonic()
        for process in running:
            process.terminate()
        took = max([await ended(process, 10 + ENDING_SECONDS) for process in running])
        async with it.cluster() as cluster:
            assert (await cluster.group(it.group)).members == ()
        beyond = await progress(it)
        it.start(**session)
        await served(it, beyond)
        report(f"SIGTERM under load, {consumers} consumers: gone", took)
        report(f"SIGTERM under load, {consumers} consumers: the next serves", time.monotonic() - began)
        assert time.monotonic() - began < 15
    await it.stored()
    assert await it.assert_exactly_once() > 0


async def test_who_stays_takes_over_at_once(new_trial: NewTrial) -> None:
    it = new_trial()
    await it.create_topic()
    session = {"SESSION_TIMEOUT_SECONDS": "30", "UPLOAD_TIMEOUT_SECONDS": "10"}
    async with load(it):
        first, second = it.start(**session), it.start(**session)

        async def shared() -> bool:
            async with it.cluster() as cluster:
                group = await cluster.group(it.group)
            return group.state == "Stable" and [bool(member.partitions) for member in group.members] == [True, True]

        await it.eventually(shared)
        await served(it, await progress(it))
        began = time.monotonic()
        first.terminate()
        await ended(first, 10 + ENDING_SECONDS)
        await served(it, await progress(it))
        took = time.monotonic() - began
        report("SIGTERM of one of two: the other serves all", took)
        assert took < 15
        assert second.popen.poll() is None
    await it.stored()
    assert await it.assert_exactly_once() > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_ctrl_c_and_a_closed_terminal_are_as_sigterm(new_trial: NewTrial, number: signal.Signals) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(700)
    consumer = it.start(CHUNK_MAX_SECONDS="3600")
    await served(it, [0])
    consumer.popen.send_signal(number)
    await ended(consumer, 10 + ENDING_SECONDS)
    assert await progress(it) == [700]
    assert await it.assert_exactly_once() == 700


# During the start


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that takes connections and says nothing; the event tells when somebody has come."""
    came = asyncio.Event()

    async def hush(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(hush, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", came
    finally:
        server.close()


async def test_sigterm_before_kafka_answers(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    async with silent() as (address, came):
        consumer = it.start(KAFKA_BOOTSTRAP_SERVERS=address)
        await asyncio.wait_for(came.wait(), 30)
        consumer.terminate()
        report("SIGTERM before Kafka has answered", await ended(consumer, ENDING_SECONDS))


async def test_sigterm_before_s3_answers(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(500)
    async with silent() as (address, came):
        consumer = it.start(AWS_ENDPOINT_URL_S3=f"http://{address}", UPLOAD_TIMEOUT_SECONDS="60")
        await asyncio.wait_for(came.wait(), 30)
        consumer.terminate()
        report("SIGTERM before S3 has answered", await ended(consumer, ENDING_SECONDS))
    it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 500


async def test_sigterm_in_the_quiet_period(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(500)
    first = it.start()
    await it.stored()
    first.terminate()
    await ended(first, ENDING_SECONDS)
    async with it.cluster() as cluster:
        await cluster.set_offsets(it.group, dict.fromkeys(it.tps, 0))
    second = it.start(UPLOAD_TIMEOUT_SECONDS="60")

    async def quiet() -> bool:
        return "until no former owner" in second.text

    await it.eventually(quiet)
    second.terminate()
    report("SIGTERM in the quiet period", await ended(second, ENDING_SECONDS))
    it.start(UPLOAD_TIMEOUT_SECONDS="1.6")
    await it.stored()
    assert await it.assert_exactly_once() == 500


# In the middle of something


@pytest.mark.parametrize("who", ["the old", "the new", "both"])
async def test_sigterm_in_the_middle_of_a_rebalance(new_trial: NewTrial, who: str) -> None:
    """The rebalance waits for the first one's uploads, which hang: that is the moment."""
    it = new_trial(partitions=2)
    await it.create_topic()
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], stall_seconds=7) as proxy, load(it) as cease:
        settings = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "UPLOAD_TIMEOUT_SECONDS": "8", "DRAIN_SECONDS": "30"}
        old = it.start(**settings)
        await served(it, [0, 0])
        proxy.choose = on_objects(Fault.STALL)

        async def hangs() -> bool:
            return proxy.seen[Fault.STALL] >= 2

        await it.eventually(hangs)
        new = it.start(**settings)
        async with it.cluster() as cluster:

            async def rebalancing() -> bool:
                return (await cluster.group(it.group)).state == "PreparingRebalance"

            await it.eventually(rebalancing)
        leaving = {"the old": [old], "the new": [new], "both": [old, new]}[who]
        for process in leaving:
            process.terminate()
        took = 0.0
        for process in leaving:
            # Not the 30 s of its drain: the others wait for it.
            took = max(took, await ended(process, 6 + ENDING_SECONDS))
        report(f"SIGTERM of {who} in a rebalance, uploads hang", took)
        proxy.choose = never
        if who == "both":
            it.start(**settings)
        await served(it, await progress(it))
        await cease()
        await it.stored(90)
        assert await it.assert_exactly_once() > 0


async def test_sigterm_while_s3_hangs(new_trial: NewTrial) -> None:
    it = new_trial(partitions=2)
    await it.create_topic()
    await it.produce(3000)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.STALL), stall_seconds=60) as proxy:
        consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, UPLOAD_TIMEOUT_SECONDS="50", DRAIN_SECONDS="2")

        async def hangs() -> bool:
            return proxy.seen[Fault.STALL] >= 2

        await it.eventually(hangs)
        consumer.terminate()
        report("SIGTERM while S3 hangs, DRAIN_SECONDS=2", await ended(consumer, 2 + ENDING_SECONDS))
    it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 3000


async def test_sigterm_while_kafka_hangs_and_a_commit_is_under_way(own_stack: StackFactory) -> None:
    stack = await asyncio.to_thread(own_stack)
    with trial(stack.environment, 2, "k") as it:
        await it.create_topic()
        await it.produce(6000)
        async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], stall_seconds=60) as proxy:
            gate = asyncio.Event()

            def pause_kafka(method: str, path: str) -> tuple[Fault, float]:
                # A chunk is stored with this: the commit that says so follows, and meets silence.
                if method == "PUT" and "_headrace" not in path and not gate.is_set():
                    gate.set()
                    stack.kafka.child.pause()
                return Fault.PASS, 0.0

            proxy.choose = pause_kafka
            consumer = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, DRAIN_SECONDS="3")
            await asyncio.wait_for(gate.wait(), 30)
            try:
                consumer.terminate()
                report("SIGTERM while Kafka hangs, DRAIN_SECONDS=3", await ended(consumer, 3 + ENDING_SECONDS))
            finally:
                stack.kafka.child.resume()
            it.start()
            await it.stored(90)
            assert await it.assert_exactly_once() == 6000


# Several processes


async def test_several_processes_under_one_command(new_trial: NewTrial) -> None:
    """A child that dies is said and replaced; a second signal hurries all; a parent's death ends its children."""
    it = new_trial(partitions=2)
    await it.create_topic()
    await it.produce(2000)
    async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], on_objects(Fault.UNAVAILABLE)) as proxy:
        settings = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        parent = it.start("headrace", "consume", "--processes", "2", DRAIN_SECONDS="600", **settings)
        before = await two_members(it)
        consumers(parent)[0].kill()

        async def replaced() -> bool:
            return "SIGKILL; starting another" in parent.text and len(consumers(parent)) == 2

        await it.eventually(replaced)
        await two_members(it, but=before)
        parent.terminate()

        async def stopping() -> bool:
            return parent.text.count("SIGTERM: stopping") == 3

        await it.eventually(stopping, what="the parent and both children have been told")
        parent.terminate()
        # A child without any chunk ends at the first; the second may find the parent over already.
        assert await parent.ended(ENDING_SECONDS + 20) in {0, -signal.SIGTERM}, parent.text

        parent = it.start("headrace", "consume", "--processes", "2", DRAIN_SECONDS="3", **settings)
        await two_members(it)
        children = consumers(parent)
        began = time.monotonic()
        parent.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 3 + ENDING_SECONDS + MOST_SECONDS)
        assert not alive
        report("kill -9 of the parent, DRAIN_SECONDS=3: its children gone", time.monotonic() - began)
    it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 2000


def consumers(parent: Process) -> list[psutil.Process]:
    return psutil.Process(parent.popen.pid).children()


async def two_members(it: Trial, but: AbstractSet[str] = frozenset()) -> AbstractSet[str]:
    """Waits until two have a partition each, and not the two that are given."""
    owners: set[str] = set()

    async def there() -> bool:
        async with it.cluster() as cluster:
            group = await cluster.group(it.group)
        owners.clear()
        owners.update(member.id for member in group.members if member.partitions)
        return group.state == "Stable" and len(owners) == 2 and owners != but

    await it.eventually(there)
    return owners


# Producers


async def keep_posting(url: str, stop: asyncio.Event, client: KeepAlive) -> None:
    """A client as they are: one connection, request after request; it heeds `Connection: close`, and bears nothing."""
    parts = httpx.URL(url)
    reader: asyncio.StreamReader | None = None
    while not stop.is_set():
        if reader is None:
            try:
                reader, writer = await asyncio.open_connection(parts.host, parts.port)
            except ConnectionError:
                return  # nobody listens any more: it would go to another producer
        number = next(client.numbers)
        body = b'{"data":[%d]}' % number
        try:
            writer.write(
                b"POST /payloads HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found = re.search("content-length: (\\d+)", head)
            assert found is not None, head
            await reader.readexactly(int(found[1]))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            client.resets.append(repr(error))
            writer.close()
            return
        status = int(head.split()[1])
        client.statuses.append(status)
        if status == 200:
            client.accepted.append(number)
        else:
            assert status == 503, head
        if "connection: close" in head:
            writer.close()
            reader = None
    if reader is not None:
        writer.close()


class KeepAlive:
    def __init__(self) -> None:
        self.numbers = iter(range(10**9))
        self.accepted: list[int] = []
        self.statuses: list[int] = []
        self.resets: list[str] = []


async def test_a_producer_that_leaves_under_load_resets_nobody(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str]
) -> None:
    name = topic()
    client = KeepAlive()
    async with serving(service_env, name) as (process, url):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for _ in range(40):
                clients.create_task(keep_posting(url, stop, client))
            while len(client.accepted) < 400:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            process.terminate()
            assert await process.ended() == 0
            report("SIGTERM of a producer under load", time.monotonic() - began)
            stop.set()
        assert "Traceback" not in process.log, process.log
    assert client.resets == []
    assert client.statuses.count(503) == 0, "what is taken while it leaves is answered as ever"
    found = await records_of(kafka.bootstrap, name)
    there = sorted(int(record.value) for records in found.values() for record in records)
    assert there == sorted(client.accepted)


async def test_a_producer_whose_kafka_hangs_leaves_in_time_and_at_once_when_asked_twice(
    own_stack: StackFactory, topic: Callable[..., str]
) -> None:
    stack = await asyncio.to_thread(own_stack)
    name = topic()
    taken: list[int] = []

    async def post(client: httpx.AsyncClient, number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post("/payloads", json={"data": [number]})
            assert answer.status_code in {200, 503}, answer.text
            if answer.status_code == 200:
                taken.append(number)

    for signals, drain in ((1, 3), (2, 60)):
        async with (
            serving(stack.environment, name, DRAIN_SECONDS=str(drain), REQUEST_TIMEOUT_SECONDS="100") as (process, url),
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
        ):
            await post(client, 1000 * signals)
            stack.kafka.child.pause()
            try:
                async with asyncio.TaskGroup() as posts:
                    for number in range(10):
                        posts.create_task(post(client, 1000 * signals + 1 + number))
                    while "waiting_payloads 10.0" not in (await client.get("/metrics")).text:
                        await asyncio.sleep(0.02)
                    began = time.monotonic()
                    process.terminate()
                    if signals == 2:
                        while "leaving" not in process.log:
                            await asyncio.sleep(0.02)
                        process.terminate()
                    assert await process.ended() == 0, process.log
                    took = time.monotonic() - began
                report(f"SIGTERM of a producer x{signals}, Kafka hangs, DRAIN_SECONDS={drain}", took)
                assert took < (drain if signals == 1 else 0) + ENDING_SECONDS + MOST_SECONDS, process.log
            finally:
                stack.kafka.child.resume()
    found = await records_of(stack.kafka.bootstrap, name)
    assert set(taken) <= {int(record.value) for records in found.values() for record in records}


async def test_a_producer_is_told_to_go_before_kafka_answers(service_env: dict[str, str]) -> None:
    async with silent() as (address, came):
        with ProducerProcess({**service_env, "KAFKA_BOOTSTRAP_SERVERS": address}, KAFKA_TOPIC="t") as process:
            await asyncio.wait_for(came.wait(), 30)
            process.process.send_signal(signal.SIGHUP)
            began = time.monotonic()
            assert await process.ended() == 0
            report("SIGHUP of a producer before Kafka has answered", time.monotonic() - began)
            assert time.monotonic() - began < ENDING_SECONDS + MOST_SECONDS
