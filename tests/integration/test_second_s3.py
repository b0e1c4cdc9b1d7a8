"""The same on an S3 server that is another's work: the port's contract, and an archive from Kafka with its proof.

What differs is told in docs/OBJECTS.md, and here where the contract's tests are overridden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace.s3 import S3Refused, S3Store, open_store
from headrace.s3.parts import LEAST_PART_BYTES
from headrace.settings import S3Settings, load
from tests import services
from tests.object_store_contract import ObjectStoreContract
from tests.second_s3 import SecondS3
from tests.trial import trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from headrace.s3 import ObjectStore

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def second_s3() -> Iterator[SecondS3]:
    with services.scratch_folder() as folder:
        (server,) = services.started(lambda: (SecondS3(folder),))
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(params=["aiobotocore", "obstore"])
async def store(
    second_s3: SecondS3, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[S3Store]:
    for name, value in second_s3.environment.items():
        monkeypatch.setenv(name, value)
    settings = load(S3Settings, s3_client=request.param, s3_multipart_bytes=LEAST_PART_BYTES)
    async with open_store(settings) as store:
        yield store


class TestSecondS3(ObjectStoreContract):
    """S3Proxy keeps keys as files in folders, and orders them as Java does."""

    async def test_a_listing_is_in_the_order_of_utf_8(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        """In that of UTF-16, and no key may lie below another: `a` and `a/1`. Nobody relies on either."""
        prefix = f"{topic('order')}/t"
        names = ["-1", "/1", "0", "A", "_", "a", "aé", "b", "é", "\U00010000", "\uff5a"]
        for name in reversed(names):
            await store.put(f"{prefix}{name}", b"", metadata={}, content_type="text/plain")
        assert [item.key.removeprefix(prefix) async for item in store.list(prefix)] == names
        assert [item.key.removeprefix(prefix) async for item in store.list(f"{prefix}a")] == ["a", "aé"]


async def test_what_it_can_not_is_a_refusal(store: S3Store, second_s3: SecondS3, topic: Callable[..., str]) -> None:
    """501 is for ever: no reason to try again without anybody changing something."""
    async with open_store(load(S3Settings, s3_tags="a=b")) as tagging:
        with pytest.raises(S3Refused, match="501 NotImplemented"):
            await tagging.put(topic("tags"), b"x", metadata={}, content_type="text/plain")


async def test_an_archive_is_whole_and_proven(kafka: services.KafkaService, second_s3: SecondS3) -> None:
    environment = services.subprocess_environment(kafka.bootstrap, second_s3.environment)
    with trial(environment, 3, "second") as it:
        await it.create_topic()
        await it.produce(4000)
        it.start()
        await it.stored()
        it.processes[0].kill()
        await it.produce(2000, first=4000)
        it.start(FORMAT="jsonl", COMPRESSION="zstd")
        await it.stored()
        assert await it.assert_exactly_once() == 6000
        code, text = await it.run("verify")
        assert code == 0, text
