"""The archiver's settings: what can't work is told at start, all of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.settings import ConsumerSettings
from headrace.errors import SettingsError
from headrace.record import StoredRecord
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


@pytest.mark.parametrize(
    "path", ["none", "%Y", "dt=%Y-%m-%d/hour=%H", "a/%H/b", "c={/a/b}/dt=%F", "k={key}", "partition={partition}"]
)
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
        ({"object_path": "{value}"}, "OBJECT_PATH = '{value}': has {value}, which is neither {key}"),
        ({"time_field": "at"}, "TIME_FIELD = 'at': 'at' is no JSON pointer to a field"),
        ({"time_field": "/at", "time_format": "rfc"}, "TIME_FORMAT = 'rfc': is neither iso8601"),
        ({"time_zone": "Berlin"}, "TIME_ZONE = 'Berlin': 'Berlin' is no zone's name"),
        ({"time_format": "unix_s"}, "TIME_FORMAT=unix_s would do nothing: TIME_FIELD does not say"),
        ({"time_field": "/at", "object_path": "none"}, "TIME_FIELD=/at would do nothing: OBJECT_PATH=none has no"),
        ({"time_zone": "Europe/Berlin", "object_path": "{key}"}, "TIME_ZONE=Europe/Berlin would do nothing"),
        ({"object_path": "/".join(["a={/a}"] * 9)}, "Keys of topic t may have up to 12.. bytes"),
        ({"chunk_max_buckets": 0}, "CHUNK_MAX_BUCKETS"),
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


def test_all_of_a_layout_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(object_path="none", time_zone="Europe/Berlin", time_format="unix_s")
    assert all(
        f"{name} would do nothing" in str(caught.value) for name in ("TIME_ZONE=Europe/Berlin", "TIME_FORMAT=unix_s")
    )


def test_the_layout_is_of_these_settings() -> None:
    layout = settings(object_path="c={/c}/%H", time_field="/at", time_format="unix_s", time_zone="Asia/Tokyo").layout()
    assert layout.place(StoredRecord(0, -1, None, b'{"c":"de","at":1795309323}')) == "c=de/10"
    assert (layout.suffix, layout.isolation_level) == ("jsonl.zst", "read_committed")


def test_all_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(ConsumerSettings, max_queue=0, drain_seconds=-1)
    assert all(name in str(caught.value) for name in ("KAFKA_TOPIC", "S3_BUCKET", "MAX_QUEUE", "DRAIN_SECONDS"))
