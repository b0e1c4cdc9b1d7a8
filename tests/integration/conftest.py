"""Servers that keep house all the time, for topics whose logs change under their readers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from headrace.local.kafka import Kafka
from tests import services
from tests.trial import trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.trial import Trial

    NewTrial = Callable[..., Trial]

HOUSEKEEPING = {
    # Retention, compaction and the time-outs of transactions are looked after every few minutes otherwise.
    "log.retention.check.interval.ms": "200",
    "log.initial.task.delay.ms": "200",
    "log.cleaner.backoff.ms": "100",
    "log.segment.delete.delay.ms": "100",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
}


@pytest.fixture(scope="session")
def busy_kafka() -> Iterator[Kafka]:
    """A Kafka of these tests' own, which a test may also kill, cut the logs of, and restart before it ends."""
    with services.scratch_folder() as folder:
        kafka = Kafka(folder, properties=HOUSEKEEPING)
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.kill()


@pytest.fixture
def busy_trial(busy_kafka: Kafka, s3: services.S3Service) -> Iterator[NewTrial]:
    """`busy_trial(partitions)`: a trial on that Kafka, and on the S3 that all tests share."""
    environment = services.subprocess_environment(busy_kafka.bootstrap, s3.environment)
    with ExitStack() as stack:
        yield lambda partitions=3, hint="b": stack.enter_context(trial(environment, partitions, hint))
