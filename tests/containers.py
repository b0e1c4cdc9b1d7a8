"""Kafka and S3 in containers, where a Docker engine is here and has their images. Nothing is ever pulled."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from headrace.local import jars
from headrace.local import kafka as local_kafka
from headrace.local import s3 as local_s3
from headrace.local.ports import LOOPBACK, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KAFKA_IMAGE = f"apache/kafka:{jars.KAFKA_VERSION}"
S3_IMAGE = "chrislusf/seaweedfs:4.48"
READY_SECONDS = 60.0


def has_image(name: str) -> bool:
    """Whether a Docker engine on this very machine answers and has this image already."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    scheme, _, path = address.partition("://")
    if scheme != "unix":  # another machine's engine doesn't publish on our loopback
        return False
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(path)
        except OSError:  # the client would leave a socket open here
            return False
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]
    from testcontainers.core.config import testcontainers_config

    try:
        with contextlib.closing(docker.from_env(timeout=2)) as client:
            client.images.get(testcontainers_config.hub_image_name_prefix + name)
    except (DockerException, OSError):
        return False
    return True


@contextlib.contextmanager
def kafka() -> Iterator[str]:
    """A Kafka like the embedded one; yields host:port."""
    (port,) = free_ports(1)  # clients are told it, so it is the same inside and outside
    properties = {
        **local_kafka.PROPERTIES,
        "controller.quorum.voters": "1@localhost:29093",
        "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:29093",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "broker.session.timeout.ms": "9000",
    }
    environment = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
    environment["KAFKA_HEAP_OPTS"] = "-Xms64m -Xmx256m"
    with _container(KAFKA_IMAGE, {port: port}, environment, lambda: local_kafka.answers(LOOPBACK, port)):
        yield f"{LOOPBACK}:{port}"


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """An S3 server with the embedded one's bucket and keys; yields its URL."""
    (port,) = free_ports(1)
    endpoint = f"http://{LOOPBACK}:{port}"
    keys = (local_s3.BUCKET, local_s3.ACCESS_KEY, local_s3.SECRET_KEY)
    environment = {"AWS_ACCESS_KEY_ID": local_s3.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": local_s3.SECRET_KEY}
    command = (
        f"mini -dir=/data -bucket={local_s3.BUCKET} -ip={LOOPBACK} -ip.bind=0.0.0.0 -s3.port=8333 "
        "-webdav=false -admin.ui=false -master.telemetry=false -s3.port.iceberg=0 -s3.port.lance=0"
    )
    with _container(S3_IMAGE, {8333: port}, environment, lambda: local_s3.answers(endpoint, *keys), command):
        yield endpoint


@contextlib.contextmanager
def _container(
    image: str,
    ports: dict[int, int],
    environment: dict[str, str],
    ready: Callable[[], bool],
    command: str | None = None,
) -> Iterator[None]:
    """A container that is `ready`, its `ports` (inside: outside) on loopback alone; gone afterwards with its data."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    if not has_image(testcontainers_config.ryuk_image):  # it would be pulled; we remove our containers ourselves
        testcontainers_config.ryuk_disabled = True
    container: Any = DockerContainer(image, command=command)
    container.with_envs(**environment)
    container.ports = {str(inside): (LOOPBACK, outside) for inside, outside in ports.items()}
    with container:
        end = time.monotonic() + READY_SECONDS
        while not ready():
            wrapped = container.get_wrapped_container()
            wrapped.reload()
            if wrapped.status == "exited" or time.monotonic() > end:
                log = wrapped.logs(tail=15).decode(errors="replace")
                what = "ended" if wrapped.status == "exited" else f"did not answer within {READY_SECONDS:.0f} s"
                raise TimeoutError(f"The container of {image} {what}. The end of its log:\n{log}")
            time.sleep(0.1)
        yield
