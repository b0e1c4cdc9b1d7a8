"""Fixtures that every test may ask for. What needs a real Kafka or S3 gets one, see tests/services.py."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests import services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A busy machine is no mistake: no test asserts an absolute time.
hypothesis.settings.register_profile("headrace", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("headrace")

_skipped: list[str] = []


@pytest.fixture(scope="session")
def kafka() -> Iterator[services.KafkaService]:
    """A Kafka that all tests share: use topics of your own (`topic`)."""
    with services.kafka_service() as service:
        yield service


@pytest.fixture(scope="session")
def s3() -> Iterator[services.S3Service]:
    """An S3 bucket that all tests share: use a prefix or a topic of your own."""
    with services.s3_service() as service:
        yield service


@pytest.fixture(scope="session")
def service_env(kafka: services.KafkaService, s3: services.S3Service) -> dict[str, str]:
    """The environment of a child that is to use the shared Kafka and S3. Copy it before changing it."""
    return services.subprocess_environment(kafka.bootstrap, s3.environment)


@pytest.fixture
def service_environ(service_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same, set in this very process for the length of a test."""
    for name, value in service_env.items():
        monkeypatch.setenv(name, value)
    return service_env


@pytest.fixture
def topic() -> Callable[..., str]:
    """`topic()` or `topic("words")`: a name that no other test has. The topic isn't created."""

    def name(hint: str = "t") -> str:
        return f"{hint}-{secrets.token_hex(5)}"

    return name


class StackFactory(Protocol):
    def __call__(self, kafka_properties: Mapping[str, str] | None = None) -> services.OwnStack: ...


@pytest.fixture
def own_stack() -> Iterator[StackFactory]:
    """`own_stack()`: a started Kafka and S3 of the test's own, to be killed, paused and restarted."""
    with contextlib.ExitStack() as open_stacks:

        def start(kafka_properties: Mapping[str, str] | None = None) -> services.OwnStack:
            return open_stacks.enter_context(services.own_stack(kafka_properties))

        yield start


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values don't name a test: some are made anew each time, and tests side by side must have the same names."""
    return argname if isinstance(val, bytes | str) and len(val) > 24 else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be skipped unnoticed: a promise that wasn't checked isn't kept."""
    if _skipped and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("CI") == "true":
        terminalreporter.section("skipped in CI: counts as failed", red=True)
        for test in _skipped:
            terminalreporter.line(test)
