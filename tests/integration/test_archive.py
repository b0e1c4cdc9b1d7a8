"""The archiver on a real Kafka and a real S3: what is in Kafka is in S3, once, whatever happens to the archivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from headrace.local.kafka import run_tool
from tests.trial import Trial, trial, values

pytestmark = pytest.mark.stack

NewTrial = Callable[..., Trial]


@pytest.fixture
def new_trial(service_env: dict[str, str]) -> Iterator[NewTrial]:
    with ExitStack() as stack:
        yield lambda partitions=3, hint="t": stack.enter_context(trial(service_env, partitions, hint))


async def test_what_is_in_kafka_comes_to_s3_once(new_trial: NewTrial) -> None:
    it = new_trial()
    await it.create_topic()
    await it.produce(4000)
    consumer = it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 4000
    code, text = await it.run("verify", "--json")
    assert code == 0, text
    consumer.terminate()
    assert await consumer.ended() == 0, consumer.text


async def test_an_idle_topic_is_flushed_by_age(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(3)
    it.start(CHUNK_MAX_RECORDS="1000000")
    await it.stored(timeout=30)
    assert await it.assert_exactly_once() == 3


async def _joined(it: Trial) -> bool:
    async with it.cluster() as cluster:
        group = await cluster.group(it.group)
    return group.state == "Stable" and sum(len(member.partitions) for member in group.members) == it.partitions


async def test_a_group_shares_the_work_and_takes_over_from_the_killed(new_trial: NewTrial) -> None:
    it = new_trial(partitions=6)
    await it.create_topic()
    first, second = it.start(), it.start()

    async def shared() -> bool:
        async with it.cluster() as cluster:
            members = (await cluster.group(it.group)).members
        return sorted(len(member.partitions) for member in members) == [3, 3]

    await it.eventually(shared, what="each of two consumers has three partitions")
    for round_ in range(4):
        await it.produce(3000, first=3000 * round_)
        victim = (first, second)[round_ % 2]
        victim.kill()
        if victim is first:
            first = it.start()
        else:
            second = it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 12_000


async def test_a_consumer_that_slept_past_its_session_does_no_harm(new_trial: NewTrial) -> None:
    it = new_trial(partitions=4)
    await it.create_topic()
    sleeper, other = it.start(), it.start()
    await it.eventually(lambda: _joined(it))
    await it.produce(4000)
    sleeper.pause()
    await it.produce(4000, first=4000)
    await it.stored()
    sleeper.resume()
    await it.produce(2000, first=8000)
    await it.stored()
    assert await it.assert_exactly_once() == 10_000
    for process in (sleeper, other):
        process.terminate()
        assert await process.ended() == 0, process.text


async def test_several_processes_of_one_command(new_trial: NewTrial) -> None:
    it = new_trial(partitions=4)
    await it.create_topic()
    several = it.start("headrace", "consume", "--processes", "2")

    async def two() -> bool:
        async with it.cluster() as cluster:
            return sorted(len(member.partitions) for member in (await cluster.group(it.group)).members) == [2, 2]

    await it.eventually(two, what="two processes share four partitions")
    await it.produce(2000)
    await it.stored()
    assert await it.assert_exactly_once() == 2000
    several.terminate()
    assert await several.ended() == 0, several.text
    several_killed = it.start("headrace", "consume", "--processes", "2")
    await it.eventually(two, what="two processes again")
    several_killed.kill()

    async def none() -> bool:
        async with it.cluster() as cluster:
            return not (await cluster.group(it.group)).members

    await it.eventually(none, what="the processes of a killed parent leave the group by themselves")


RESETS = {
    "to the start": ["--reset-offsets", "--to-earliest", "--execute"],
    "into a chunk": ["--reset-offsets", "--to-offset", "250", "--execute"],
    "to the end, beyond what is stored": ["--reset-offsets", "--to-latest", "--execute"],
    "deleted": ["--delete-offsets"],
}


@pytest.mark.parametrize("reset", RESETS)
async def test_resetting_offsets_archives_only_what_is_missing(new_trial: NewTrial, reset: str) -> None:
    """Kafka's own tool may move the group: covered ranges keep their objects, holes are filled."""
    it = new_trial(partitions=2)
    await it.create_topic()
    await it.produce(3000)
    consumer = it.start()
    await it.stored()
    consumer.terminate()
    assert await consumer.ended() == 0
    before = await it.survey()
    kept = {key for c in before.partitions().values() for chunk in c.chunks for key in chunk.keys}
    # Somebody removes an object in the middle; moving the group is the repair.
    removed = before.coverage(0).chunks[1].keys[0]
    async with it.store() as store:
        await store._client.delete_object(Bucket=it.environment["S3_BUCKET"], Key=removed)
        stamps = {item.key: item.modified async for item in store.list(it.prefix)}
    await it.produce(500, first=3000)
    tool = await asyncio.to_thread(
        run_tool,
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        *("--bootstrap-server", it.environment["KAFKA_BOOTSTRAP_SERVERS"], "--group", it.group, "--topic", it.topic),
        *RESETS[reset],
    )
    assert tool.returncode == 0, tool.stdout + tool.stderr
    it.start()
    await it.stored()
    assert await it.assert_exactly_once() == 3500
    async with it.store() as store:
        after = {item.key: item.modified async for item in store.list(it.prefix)}
    untouched = kept - {removed}
    assert {key: after[key] for key in untouched} == {key: stamps[key] for key in untouched}


async def test_replay_archives_a_range_again_and_ends(new_trial: NewTrial) -> None:
    it = new_trial(partitions=2)
    await it.create_topic()
    await it.produce(2000)
    arguments = ("replay", "--prefix", f"{it.prefix}-again", "--since", "100", "--until", "700", "--json")
    code, text = await it.run(*arguments)
    assert code == 0, text
    again = Trial(it.environment, it.topic, f"{it.prefix}-again", it.partitions, it.folder)
    archive, log = await again.archive(), await it.log()
    assert archive == {number: records[100:700] for number, records in log.items()}
    code, text = await it.run(*arguments)
    assert code == 0, text
    assert await again.archive() == archive
    told = json.loads(text.splitlines()[-1])
    assert told["partitions"] == [{"partition": number, "start": 100, "stop": 700} for number in range(2)]


async def test_a_killed_replay_goes_on_where_it_stopped(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(20_000)
    prefix = f"{it.prefix}-again"
    again = Trial(it.environment, it.topic, prefix, it.partitions, it.folder)
    arguments = ("replay", "--prefix", prefix)
    first = it.start("headrace", *arguments)

    async def begun() -> bool:
        return (await again.survey()).coverage(0).objects >= 3

    await it.eventually(begun)
    first.kill()
    await it.produce(500, first=20_000)
    code, text = await it.run(*arguments)
    assert code == 0, text
    # It keeps the range it began with, and ends there.
    assert values(await again.archive()) == values(await it.log())[:20_000]


async def test_a_replay_that_is_stopped_says_so(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(20_000)
    prefix = f"{it.prefix}-again"
    again = Trial(it.environment, it.topic, prefix, it.partitions, it.folder)
    replay = it.start("headrace", "replay", "--prefix", prefix, CHUNK_MAX_RECORDS="50")

    async def begun() -> bool:
        return (await again.survey()).coverage(0).objects >= 3

    await it.eventually(begun)
    replay.terminate()
    assert await replay.ended() == 1
    assert "stopped before it was whole" in replay.text
    code, text = await it.run("replay", "--prefix", prefix)
    assert code == 0, text
    assert values(await again.archive()) == values(await it.log())


async def test_a_replay_that_cannot_be_made_whole_ends_with_an_error(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(100)
    arguments = ("replay", "--prefix", f"{it.prefix}-again")
    code, text = await it.run(*arguments)
    assert code == 0, text
    await it.make_anew()
    code, text = await it.run(*arguments)
    assert code == 1, text
    assert "The replay can't be made whole" in text
    assert "was deleted and made anew" in text


async def test_another_groups_prefix_is_refused(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(10)
    it.start()
    await it.stored()
    stranger = it.start(KAFKA_GROUP=f"{it.group}-other")
    assert await stranger.ended() == 1
    assert "another group or cluster archives topic" in stranger.text


async def test_another_layout_is_taken_when_no_claims_are_open(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    await it.create_topic()
    await it.produce(1000)
    consumer = it.start()
    await it.stored()
    consumer.terminate()
    await consumer.ended()
    await it.produce(1000, first=1000)
    other = it.start(COMPRESSION="gzip", OBJECT_PATH="none")
    await it.stored()
    other.terminate()
    await other.ended()
    assert await it.assert_exactly_once() == 2000
    assert {chunk.suffix for chunk in (await it.survey()).coverage(0).chunks} == {"jsonl.zst", "jsonl.gz"}


async def test_wrong_settings_are_all_told_at_once(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    process = it.start(S3_BUCKET="", MAX_WORKERS="0", KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_SASL_PASSWORD="hush")
    assert await process.ended() == 2
    assert "S3_BUCKET is not set" in process.text
    assert "MAX_WORKERS" in process.text
    assert "hush" not in process.text


async def test_a_missing_topic_is_an_error_that_says_so(new_trial: NewTrial) -> None:
    it = new_trial(partitions=1)
    process = it.start()
    assert await process.ended() == 1
    assert f"Topic {it.topic} does not exist" in process.text
    made = it.start(KAFKA_TOPIC_PARTITIONS="2")
    it.partitions = 2
    await it.eventually(lambda: _joined(it))
    made.terminate()
    assert await asyncio.wait_for(made.ended(), 30) == 0
