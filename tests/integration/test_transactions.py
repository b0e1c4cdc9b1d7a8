"""Transactions: exactly the records that the isolation level shows are stored, and their markers are no lag."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.trial import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.trial import Trial

    NewTrial = Callable[..., Trial]

pytestmark = pytest.mark.stack

ISOLATION = ["read_committed", "read_uncommitted"]
QUICK = {"UPLOAD_TIMEOUT_SECONDS": "1", "SESSION_TIMEOUT_SECONDS": "2", "CHUNK_MAX_RECORDS": "20"}
DIES = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

async def begin(bootstrap, topic):
    options = {"transactional_id": topic + "-dies", "transaction_timeout_ms": 1000}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **options)
    await producer.start()
    await producer.begin_transaction()
    for number in range(30):
        await producer.send_and_wait(topic, b"never %d" % number, partition=1)
    print("open", flush=True)
    await asyncio.Event().wait()

asyncio.run(begin(*sys.argv[1:]))
"""


async def transact(it: Trial, rounds: int, name: str) -> None:
    """Every third transaction is aborted; its records lie among those of another producer's, and of nobody's."""
    async with (
        it.producer(transactional_id=f"{it.topic}-{name}-1") as one,
        it.producer(transactional_id=f"{it.topic}-{name}-2") as other,
        it.producer() as plain,
    ):
        for round_ in range(rounds):
            for producer in (one, other):
                await producer.begin_transaction()
            for number in range(30):
                for producer in (one, other, plain):
                    await producer.send_and_wait(it.topic, b"%d.%d" % (round_, number), partition=number % 3)
            await (one.abort_transaction() if round_ % 3 == 2 else one.commit_transaction())
            await (other.abort_transaction() if round_ % 3 == 1 else other.commit_transaction())


async def assert_visible(it: Trial, isolation: str) -> int:
    """The archive is what a client of this isolation level reads, and status shows no lag. Returns the records."""
    await it.stored()
    log, archive = await it.log(isolation), await it.archive()
    for partition, records in log.items():
        assert archive.get(partition, []) == records, f"partition {partition} differs\n{it.logs()}"
    code, text = await it.run("status", "--json")
    assert code == 0, text
    assert json.loads(text)["lag"] == 0
    return sum(map(len, archive.values()))


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_committed_and_aborted_mixed_with_a_kill_in_between(busy_trial: NewTrial, isolation: str) -> None:
    it = busy_trial(hint="tx")
    await it.create_topic()
    settings = {"KAFKA_ISOLATION_LEVEL": isolation, **QUICK}
    first = it.start(**settings)
    await transact(it, 3, "a")

    async def begun() -> bool:
        return all(offset > 0 for offset, _ in (await it.committed()).values())

    await it.eventually(begun)
    first.kill()
    await transact(it, 2, "b")
    it.start(**settings)
    aborted = 3  # of ten transactions
    visible = 5 * 90 - (aborted * 30 if isolation == "read_committed" else 0)
    assert await assert_visible(it, isolation) == visible
    # The log ends in records that may not be seen, and in their markers.
    async with it.producer(transactional_id=it.topic) as producer:
        await producer.begin_transaction()
        for number in range(3):
            await producer.send(it.topic, b"never", partition=number)
        await producer.abort_transaction()
    stored = await assert_visible(it, isolation)
    assert stored == visible + (0 if isolation == "read_committed" else 3)
    ends, log = await it.log_ends(), await it.log(isolation)
    assert all(ends[tp] > log[tp.partition][-1].offset + 1 for tp in it.tps)


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_open_transactions_hold_up_nobody_else(busy_trial: NewTrial, isolation: str) -> None:
    """One stays open on partition 0 until it commits; one on partition 1 until its dead producer's time is up."""
    it = busy_trial(hint="tx")
    await it.create_topic()
    settings = {"KAFKA_ISOLATION_LEVEL": isolation, **QUICK}
    first = it.start(**settings)
    await it.produce(60)
    await it.stored()
    async with it.producer(transactional_id=f"{it.topic}-stays") as stays:
        await stays.begin_transaction()
        for number in range(30):
            await stays.send_and_wait(it.topic, b"held %d" % number, partition=0)
        bootstrap = it.environment["KAFKA_BOOTSTRAP_SERVERS"]
        dies = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DIES, bootstrap, it.topic, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert dies.stdout is not None
        assert await dies.stdout.readline() == b"open\n"
        dies.kill()
        await dies.wait()
        await it.produce(300, first=60)

        async def goes_on(held: bool) -> bool:
            ends, committed = await it.log_ends(), await it.committed()
            others = all(committed[tp][0] >= ends[tp] for tp in it.tps[1:])
            return others and (committed[it.tps[0]][0] >= ends[it.tps[0]]) is not held

        held = isolation == "read_committed"
        await it.eventually(lambda: goes_on(held), what="all partitions but the one that is held back are whole")
        assert not held or (await it.committed())[it.tps[0]][0] == 20
        first.kill()
        it.start(**settings)
        await it.produce(60, first=360)
        await it.eventually(lambda: goes_on(held), what="after a kill, too")
        await stays.commit_transaction()
    assert await assert_visible(it, isolation) == 420 + 30 + (0 if held else 30)
