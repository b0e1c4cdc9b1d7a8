"""Where the tests' Kafka and S3 come from: given addresses, else containers, else the embedded stack."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.local import kafka as local_kafka
from headrace.local import s3 as local_s3
from headrace.local.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KAFKA_IMAGE = "apache/kafka:4.3.1"
S3_IMAGE = "chrislusf/seaweedfs:4.48"


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
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
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
    elif has_image(KAFKA_IMAGE):
        with _kafka_container() as service:
            yield service
    else:
        with scratch_folder() as folder:
            # It is never killed, and may be starved for a while by what else runs: no hurry to call it dead.
            kafka = local_kafka.Kafka(folder, properties={"broker.session.timeout.ms": "9000"})
            try:
                kafka.start()
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
    elif has_image(S3_IMAGE):
        with _s3_container() as service:
            yield service
    else:
        with scratch_folder() as folder:
            server = local_s3.S3(folder)
            try:
                server.start()
                yield S3Service(server.endpoint, server.bucket, server.access_key, server.secret_key, "embedded")
            finally:
                server.kill()


@contextlib.contextmanager
def own_stack(kafka_properties: Mapping[str, str] | None = None) -> Iterator[OwnStack]:
    with scratch_folder() as folder:
        stack = OwnStack(local_kafka.Kafka(folder / "kafka", properties=kafka_properties), local_s3.S3(folder / "s3"))
        try:
            stack.kafka.spawn()
            stack.s3.spawn()
            stack.s3.wait_ready()
            stack.kafka.wait_ready()
            yield stack
        finally:
            stack.s3.kill()
            stack.kafka.kill()


def has_image(name: str) -> bool:
    """Whether a Docker engine answers here that has this image already. Nothing is pulled."""
    if "DOCKER_HOST" not in os.environ:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect("/var/run/docker.sock")
            except OSError:  # the client would leave a socket open here
                return False
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    try:
        with contextlib.closing(docker.from_env(timeout=2)) as client:
            client.images.get(name)
    except (DockerException, OSError):
        return False
    return True


@contextlib.contextmanager
def _kafka_container() -> Iterator[KafkaService]:
    from testcontainers.core.container import DockerContainer

    (port,) = free_ports(1)
    container: Any = DockerContainer(KAFKA_IMAGE)
    container.with_bind_ports(port, port)
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
        "KAFKA_LISTENERS": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:29093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_LOG_RETENTION_MS": "-1",
    }.items():
        container.with_env(name, value)
    with container:
        _wait_until(lambda: local_kafka.answers("127.0.0.1", port), KAFKA_IMAGE)
        yield KafkaService(f"127.0.0.1:{port}", KAFKA_IMAGE)


@contextlib.contextmanager
def _s3_container() -> Iterator[S3Service]:
    from testcontainers.core.container import DockerContainer

    container: Any = DockerContainer(S3_IMAGE)
    container.with_exposed_ports(8333)
    container.with_env("AWS_ACCESS_KEY_ID", local_s3.ACCESS_KEY)
    container.with_env("AWS_SECRET_ACCESS_KEY", local_s3.SECRET_KEY)
    container.with_command(
        f"mini -dir=/data -bucket={local_s3.BUCKET} -ip.bind=0.0.0.0 -s3.port=8333 "
        "-webdav=false -admin.ui=false -master.telemetry=false -s3.port.iceberg=0 -s3.port.lance=0"
    )
    with container:
        endpoint = f"http://127.0.0.1:{container.get_exposed_port(8333)}"
        keys = (local_s3.BUCKET, local_s3.ACCESS_KEY, local_s3.SECRET_KEY)
        _wait_until(lambda: local_s3.answers(endpoint, *keys), S3_IMAGE)
        yield S3Service(endpoint, *keys, S3_IMAGE)


def _wait_until(ready: Any, what: str, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not answer within {timeout:.0f} s")
        time.sleep(0.1)
