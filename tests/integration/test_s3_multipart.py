"""Uploads in parts, on a real server: one object or none, nothing left behind, also after kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from headrace.s3 import S3Refused, S3Store, S3Unavailable, open_store
from headrace.s3.parts import LEAST_PART_BYTES, PART_BYTES
from headrace.settings import S3Settings, load
from tests.s3_proxy import Choose, Fault, s3_proxy
from tests.trial import trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("service_environ")]

BODY = bytes(range(256)) * 4096 * 12  # three parts


def on_step(step: str, fault: Fault) -> Choose:
    """`step`: begin, part (the second one) or complete."""

    def choose(method: str, path: str) -> tuple[Fault, float]:
        met = {
            "begin": method == "POST" and "uploads" in path,
            "part": method == "PUT" and "partNumber=2" in path,
            "complete": method == "POST" and "uploadId=" in path,
        }[step]
        return (fault, 0.0) if met else (Fault.PASS, 0.0)

    return choose


@contextlib.asynccontextmanager
async def opened(endpoint: str | None = None, seconds: float = 20) -> AsyncIterator[S3Store]:
    settings = load(S3Settings, s3_multipart_bytes=LEAST_PART_BYTES, aws_endpoint_url_s3=endpoint)
    async with open_store(settings, timeout_seconds=seconds) as store:
        yield store


async def put(store: S3Store, key: str, body: bytes = BODY) -> None:
    await store.put(key, body, metadata={"headrace-records": "3"}, content_type="application/zstd")


async def left(store: S3Store, key: str) -> int:
    return len([upload async for upload in store.unfinished(key)])


@pytest.mark.parametrize(
    ("step", "fault", "error", "stored"),
    [
        ("begin", Fault.UNAVAILABLE, S3Unavailable, False),
        ("begin", Fault.FORBIDDEN, S3Refused, False),
        ("part", Fault.UNAVAILABLE, S3Unavailable, False),
        ("part", Fault.FORBIDDEN, S3Refused, False),
        ("part", Fault.RESET, S3Unavailable, False),
        ("part", Fault.LOST_REPLY, S3Unavailable, False),
        ("complete", Fault.UNAVAILABLE, S3Unavailable, False),
        ("complete", Fault.FORBIDDEN, S3Refused, False),
        ("complete", Fault.RESET, S3Unavailable, False),
        ("complete", Fault.LOST_REPLY, S3Unavailable, True),
    ],
)
async def test_it_is_there_whole_or_not_at_all(
    topic: Callable[..., str],
    service_environ: dict[str, str],
    step: str,
    fault: Fault,
    error: type[Exception],
    stored: bool,
) -> None:
    key = topic("parts")
    async with (
        s3_proxy(service_environ["AWS_ENDPOINT_URL_S3"], on_step(step, fault)) as proxy,
        opened(proxy.endpoint) as store,
    ):
        with pytest.raises(error):
            await put(store, key)
        assert (await store.get(key) == BODY) is stored
        assert await left(store, key) == 0
        proxy.choose = lambda _method, _path: (Fault.PASS, 0.0)
        await put(store, key)
        assert await store.get(key) == BODY


async def test_a_part_that_fails_for_a_moment_is_sent_again(
    topic: Callable[..., str], service_environ: dict[str, str]
) -> None:
    key, failing = topic("again"), iter([Fault.UNAVAILABLE, Fault.RESET])

    def choose(method: str, path: str) -> tuple[Fault, float]:
        return next(failing, Fault.PASS) if method == "PUT" and "partNumber=3" in path else Fault.PASS, 0.0

    async with s3_proxy(service_environ["AWS_ENDPOINT_URL_S3"], choose) as proxy, opened(proxy.endpoint) as store:
        await put(store, key)
        assert await store.get(key) == BODY
        assert proxy.most_at_a_time > 1


async def test_the_deadline_holds_for_all_of_it(topic: Callable[..., str], service_environ: dict[str, str]) -> None:
    key = topic("late")
    async with (
        s3_proxy(service_environ["AWS_ENDPOINT_URL_S3"], on_step("part", Fault.STALL), stall_seconds=3.0) as proxy,
        opened(proxy.endpoint, seconds=1.0) as store,
    ):
        with pytest.raises(S3Unavailable, match="no answer"):
            await put(store, key)
        assert await left(store, key) == 0
        with pytest.raises(TimeoutError):  # as the uploader does: two timers that go off together
            async with asyncio.timeout(1.0):
                await put(store, key)
        assert not [item async for item in store.list(key)]
        assert await left(store, key) == 0


async def test_who_is_cancelled_leaves_nothing(topic: Callable[..., str], service_environ: dict[str, str]) -> None:
    key = topic("cancelled")
    async with (
        s3_proxy(service_environ["AWS_ENDPOINT_URL_S3"], on_step("part", Fault.STALL)) as proxy,
        opened(proxy.endpoint) as store,
    ):
        putting = asyncio.create_task(put(store, key))
        while not proxy.seen[Fault.STALL]:
            await asyncio.sleep(0.01)
        assert await left(store, key) == 1
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert await left(store, key) == 0
        assert await store.get(key) is None


async def test_an_upload_aborted_by_another_is_begun_anew(
    topic: Callable[..., str], service_environ: dict[str, str]
) -> None:
    """A paused owner whose upload the sweep has taken: it is told, and sends the object again."""
    key = topic("swept")
    async with (
        s3_proxy(service_environ["AWS_ENDPOINT_URL_S3"], on_step("complete", Fault.SLOW)) as proxy,
        opened(proxy.endpoint) as store,
        opened() as sweeper,
    ):
        proxy.choose = lambda method, path: (
            (Fault.SLOW, 1.0) if method == "POST" and "uploadId=" in path else (Fault.PASS, 0.0)
        )
        putting = asyncio.create_task(put(store, key))
        while not proxy.seen[Fault.SLOW]:
            await asyncio.sleep(0.01)
        (upload,) = [upload async for upload in sweeper.unfinished(key)]
        assert -1 <= upload.age_seconds < 60
        await sweeper.abort(upload)
        await sweeper.abort(upload)  # which is none any more
        with pytest.raises(S3Unavailable, match="NoSuchUpload"):
            await putting
        proxy.choose = lambda _method, _path: (Fault.PASS, 0.0)
        await put(store, key)
        assert await store.get(key) == BODY


async def test_no_second_copy_is_held(topic: Callable[..., str]) -> None:
    body = bytes(4 * PART_BYTES)
    async with open_store(load(S3Settings, s3_multipart_bytes=PART_BYTES)) as store:
        await put(store, topic("first"), b"x")  # what the client keeps for good
        tracemalloc.start()
        try:
            await put(store, topic("held"), body)
            assert tracemalloc.get_traced_memory()[1] < PART_BYTES / 2
        finally:
            tracemalloc.stop()


async def test_kill_9_in_the_middle_of_an_upload(service_env: dict[str, str]) -> None:
    """What was left is found by its name and age and aborted; the archive is whole."""

    def second_part(method: str, path: str) -> tuple[Fault, float]:
        return (Fault.STALL if method == "PUT" and "partNumber=2" in path else Fault.PASS), 0.0

    large = {
        "COMPRESSION": "none",
        "CHUNK_MAX_RECORDS": "1000000",
        "CHUNK_MAX_BYTES": str(8 * 1024 * 1024),
        "S3_MULTIPART_BYTES": str(LEAST_PART_BYTES),
        "UPLOAD_TIMEOUT_SECONDS": "3",
    }
    with trial(service_env, 1, "parts") as it:
        await it.create_topic()
        await it.produce(12_000, noise=1000)
        async with s3_proxy(it.environment["AWS_ENDPOINT_URL_S3"], second_part) as proxy, it.store() as store:
            killed = it.start(AWS_ENDPOINT_URL_S3=proxy.endpoint, **large)

            async def under_way() -> bool:
                return proxy.seen[Fault.STALL] > 0

            await it.eventually(under_way)
            killed.kill()
            assert await left(store, f"{it.prefix}/{it.topic}/") > 0
            await proxy.landed()
            it.start(**large)
            await it.stored()

            async def none_left() -> bool:
                return await left(store, f"{it.prefix}/{it.topic}/") == 0

            await it.eventually(none_left, what="what was left is aborted")
            sizes = [item.size async for item in store.list(f"{it.prefix}/{it.topic}/")]
            assert max(sizes) > LEAST_PART_BYTES
        assert "aborted an unfinished upload" in it.processes[1].text
        assert await it.assert_exactly_once() == 12_000
        code, text = await it.run("verify")
        assert code == 0, text
