"""The archiver's settings: what can't work is told at start, all of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.settings import ConsumerSettings
from headrace.errors import SettingsError
from headrace.settings import load


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ConsumerSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HEADRACE_CONFIG", str(tmp_path / "headrace.toml"))


def settings(**more: Any) -> ConsumerSettings:
    return load(ConsumerSettings, kafka_topic="t", s3_bucket="bucket", **more)


def test_defaults_are_the_designs() -> None:
    found = settings()
    assert (found.chunk_max_records, found.chunk_max_bytes, found.chunk_max_seconds) == (100_000, 64 << 20, 60)
    assert (found.max_workers, found.session_timeout_seconds, found.upload_timeout_seconds) == (16, 10, 60)
    assert (found.format, found.compression, found.object_path) == ("jsonl", "zstd", "dt=%Y-%m-%d/hour=%H")
    assert found.kafka_isolation_level == "read_committed"
    assert found.kafka_group == "headrace"


def test_topics_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "a, b,")
    assert load(ConsumerSettings, s3_bucket="bucket").kafka_topic == ("a", "b")


@pytest.mark.parametrize("path", ["none", "%Y", "dt=%Y-%m-%d/hour=%H", "a/%H/b"])
def test_paths_that_are_safe(path: str) -> None:
    assert settings(object_path=path).object_path == path


@pytest.mark.parametrize(
    "path", ["", "flat", "%Y//%m", "/%Y", "%Y/", "%Y/..", "./%Y", "_gaps/%Y", "%Y/_x", "%s", "at=%I", "%Y-%"]
)
def test_paths_that_are_not(path: str) -> None:
    with pytest.raises(SettingsError, match="OBJECT_PATH"):
        settings(object_path=path)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"chunk_max_bytes": 2 << 20, "memory_budget_bytes": 1 << 20}, "CHUNK_MAX_BYTES=2097152 is more than"),
        ({"kafka_topic": "a,_headrace"}, "KAFKA_TOPIC must not be _headrace"),
        ({"compression_level": 99}, "zstd has no level 99; it has 1 to 19"),
        ({"max_claims": 129}, "MAX_CLAIMS"),
        ({"max_workers": 0}, "MAX_WORKERS"),
        ({"upload_timeout_seconds": 0}, "UPLOAD_TIMEOUT_SECONDS"),
        ({"upload_timeout_seconds": 1}, "UPLOAD_TIMEOUT_SECONDS=1 must be more than between heartbeats, 1 s"),
        ({"kafka_isolation_level": "none"}, "KAFKA_ISOLATION_LEVEL"),
        ({"kafka_topic": ""}, "KAFKA_TOPIC"),
    ],
)
def test_what_does_not_fit_is_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        load(ConsumerSettings, **{"kafka_topic": "t", "s3_bucket": "bucket"} | wrong)


def test_all_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(ConsumerSettings, max_queue=0, drain_seconds=-1)
    assert all(name in str(caught.value) for name in ("KAFKA_TOPIC", "S3_BUCKET", "MAX_QUEUE", "DRAIN_SECONDS"))
