"""Where the tests' Kafka and S3 come from: given addresses, else containers, else the embedded stack."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from headrace.errors import HeadraceError
from headrace.local import kafka as local_kafka
from headrace.local import s3 as local_s3
from tests import containers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headrace.local.server import Server

Servers = TypeVar("Servers", bound="tuple[Server, ...]")
STARTS: Final = 3


@dataclass(frozen=True, slots=True)
class KafkaService:
    bootstrap: str
    source: str
    """Where it came from, for the session's header."""


@dataclass(frozen=True, slots=True)
class S3Service:
    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    source: str
    region: str = local_s3.REGION

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know of it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "S3_BUCKET": self.bucket,
        }


@dataclass(frozen=True, slots=True)
class OwnStack:
    """A Kafka and an S3 that belong to one test: kill them, pause them, restart them.

    Their methods block; in async tests use `await asyncio.to_thread(stack.kafka.restart)`.
    """

    kafka: local_kafka.Kafka
    s3: local_s3.S3

    @property
    def environment(self) -> dict[str, str]:
        return subprocess_environment(self.kafka.bootstrap, self.s3.environment)


def subprocess_environment(bootstrap: str, s3: Mapping[str, str]) -> dict[str, str]:
    """All a child needs to know, and nothing of the developer's own settings."""
    kept = {
        name: os.environ[name]
        for name in ("HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME", "HEADRACE_CACHE")
        if name in os.environ
    }
    return {**kept, "HEADRACE_CONFIG": os.devnull, "KAFKA_BOOTSTRAP_SERVERS": bootstrap, **s3}


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for a server's data, gone afterwards (pytest keeps its own temporary folders; these get big)."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def kafka_service() -> Iterator[KafkaService]:
    if given := os.environ.get("HEADRACE_TEST_KAFKA"):
        yield KafkaService(given, "given by HEADRACE_TEST_KAFKA")
    elif containers.has_image(containers.KAFKA_IMAGE):
        with containers.kafka() as bootstrap:
            yield KafkaService(bootstrap, containers.KAFKA_IMAGE)
    else:
        with scratch_folder() as folder:
            # It is never killed, and may be starved for a while by what else runs: no hurry to call it dead.
            properties = {"broker.session.timeout.ms": "9000"}
            (kafka,) = started(lambda: (local_kafka.Kafka(folder, properties=properties),))
            try:
                yield KafkaService(kafka.bootstrap, "embedded")
            finally:
                kafka.kill()  # its data goes with it


@contextlib.contextmanager
def s3_service() -> Iterator[S3Service]:
    if given := os.environ.get("HEADRACE_TEST_S3_ENDPOINT"):
        yield S3Service(
            given,
            os.environ["HEADRACE_TEST_S3_BUCKET"],
            os.environ["HEADRACE_TEST_S3_ACCESS_KEY"],
            os.environ["HEADRACE_TEST_S3_SECRET_KEY"],
            "given by HEADRACE_TEST_S3_ENDPOINT",
            os.environ.get("HEADRACE_TEST_S3_REGION", local_s3.REGION),
        )
    elif containers.has_image(containers.S3_IMAGE):
        with containers.s3() as endpoint:
            keys = (local_s3.BUCKET, local_s3.ACCESS_KEY, local_s3.SECRET_KEY)
            yield S3Service(endpoint, *keys, containers.S3_IMAGE)
    else:
        with scratch_folder() as folder:
            (server,) = started(lambda: (local_s3.S3(folder),))
            try:
                yield S3Service(server.endpoint, server.bucket, server.access_key, server.secret_key, "embedded")
            finally:
                server.kill()


@contextlib.contextmanager
def own_stack(kafka_properties: Mapping[str, str] | None = None) -> Iterator[OwnStack]:
    with scratch_folder() as folder:
        kafka, s3 = started(
            lambda: (local_kafka.Kafka(folder / "kafka", properties=kafka_properties), local_s3.S3(folder / "s3"))
        )
        try:
            yield OwnStack(kafka, s3)
        finally:
            s3.kill()
            kafka.kill()


def started(make: Callable[[], Servers]) -> Servers:
    """Servers that answer. Each try has new ports: other sessions of tests may take one between choice and use."""
    for tries_left in reversed(range(STARTS)):
        servers = make()
        try:
            for server in servers:
                server.spawn()
            for server in servers:
                server.wait_ready()
        except HeadraceError:
            for server in servers:
                server.kill()
            if not tries_left:
                raise
        else:
            return servers
    raise AssertionError("at least one try is made")
