"""`headrace config` tells what is in force and from where, and never a secret."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from click.testing import CliRunner

from headrace.cli import app
from headrace.config import MASK
from headrace.nearby import adopt_local_stack
from headrace.settings import CONFIG_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without settings, and a headrace.toml that is not there yet."""
    for name in os.environ:
        if name.startswith(("KAFKA_", "S3_", "AWS_", "HTTP_", "CHUNK_", "MAX_", "HEADRACE_")):
            monkeypatch.delenv(name)
    path = tmp_path / "headrace.toml"
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    return path


def config(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["config", "--json", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    answer = orjson.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def test_the_environment_comes_before_the_file_before_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('kafka_topic = ["a", "b"]\ns3_bucket = "from-file"\nmax_workers = 3\n')
    monkeypatch.setenv("S3_BUCKET", "from-environment")
    monkeypatch.setenv("S3_PREFIX", "")  # an empty variable is one that isn't set
    answer = config("consume")
    assert answer["file"] == str(file)
    assert list(answer["settings"]) == ["consume"]
    found = {name: (row["value"], row["source"]) for name, row in answer["settings"]["consume"].items()}
    assert found["S3_BUCKET"] == ("from-environment", "environment")
    assert found["S3_PREFIX"] == ("", "default")
    assert found["KAFKA_TOPIC"] == ("a,b", "headrace.toml")
    assert found["MAX_WORKERS"] == (3, "headrace.toml")
    assert found["KAFKA_BOOTSTRAP_SERVERS"] == ("127.0.0.1:9092", "default")
    assert answer["unknown"] == []


def test_secrets_are_masked_even_when_settings_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "tell-nobody")
    monkeypatch.setenv("KAFKA_TOPIC", "t")
    assert config("serve")["settings"]["serve"]["KAFKA_SASL_PASSWORD"]["value"] == MASK
    monkeypatch.setenv("MAX_LENGTH", "-1")
    wrong = config("serve", code=2)
    assert wrong["settings"]["serve"]["KAFKA_SASL_PASSWORD"]["value"] == MASK
    assert wrong["settings"]["serve"]["MAX_LENGTH"] == wrong["settings"]["serve"]["MAX_LENGTH"] | {"value": "-1"}
    assert "MAX_LENGTH" in wrong["problems"]["serve"]
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 2
    assert "tell-nobody" not in result.output
    assert "headrace serve can't start" in result.stderr


def test_what_is_missing_is_told() -> None:
    answer = config(code=2)
    assert list(answer["settings"]) == ["serve", "consume"]
    assert answer["file"] is None
    assert answer["settings"]["consume"]["S3_BUCKET"]["source"] == "not set"
    assert "S3_BUCKET is not set" in answer["problems"]["consume"]


def test_keys_that_nothing_reads_are_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('kafka_topics = "t"\ncolour = "red"\nmax_length = 5\nhttp_port = 1\n')
    monkeypatch.setenv("KAFKA_TOPIC", "t")
    unknown = config("serve")["unknown"]
    assert unknown == [
        f"{file}: nothing reads 'colour'.",
        f"{file}: nothing reads 'kafka_topics'. Do you mean kafka_topic?",
    ]
    assert "kafka_topics" in CliRunner().invoke(app, ["config", "serve"]).stderr


def test_a_file_that_is_no_toml_is_told(file: Path) -> None:
    file.write_text("kafka_topic = \n")
    result = CliRunner().invoke(app, ["config"])
    assert getattr(result.exception, "exit_code", None) == 2
    assert f"{file} can't be read" in str(result.exception)


LOCAL = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_TOPIC": "local",
    "S3_BUCKET": "local",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2",
    "AWS_SECRET_ACCESS_KEY": "local",
}


@pytest.mark.parametrize(
    ("given", "in_file", "adopted"),
    [
        ({}, "", set(LOCAL)),
        ({"KAFKA_TOPIC": "mine"}, "", set(LOCAL) - {"KAFKA_TOPIC"}),
        ({"S3_BUCKET": "mine"}, "", {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPIC"}),
        ({}, 's3_bucket = "mine"', {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPIC"}),
        ({"KAFKA_BOOTSTRAP_SERVERS": "far:1", "S3_BUCKET": "mine"}, "", set()),
    ],
)
def test_the_local_stack_is_taken_whole_or_not_at_all(
    given: dict[str, str], in_file: str, adopted: set[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all, keys of one place never go to the address of another."""
    file.write_text(in_file)
    monkeypatch.setattr(os, "environ", {CONFIG_VARIABLE: str(file), **given})
    monkeypatch.setattr("headrace.nearby._discover", lambda: LOCAL)
    assert set(adopt_local_stack(kafka=True, s3=True)) == adopted
    assert os.environ == {CONFIG_VARIABLE: str(file), **given, **{name: LOCAL[name] for name in adopted}}
