"""`headrace bench` asks before it makes anything, and refuses what can't be meant."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.bench.cli import append, told_command
from headrace.bench.machine import TUNING, chosen_settings
from headrace.bench.place import Place
from headrace.bench.run import Wishes, what_it_makes
from headrace.bench.workspace import Workspace
from headrace.cli import app
from headrace.errors import HeadraceError
from headrace.local.ports import free_ports
from headrace.settings import KafkaSettings, S3Settings


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of servers that don't exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("S3_BUCKET", "no-such-bucket")
    monkeypatch.setenv("S3_PREFIX", "theirs")


@pytest.mark.usefixtures("nowhere")
def test_it_says_what_it_makes_and_asks_before_it_does() -> None:
    result = CliRunner().invoke(app, ["bench"], input="n\n")
    assert result.exit_code == 1
    assert "Topics: headrace-bench-" in result.stderr
    assert "s3://no-such-bucket/theirs/headrace-bench-" in result.stderr
    assert "All of that is removed in the end." in result.stderr
    assert "Go on? [y/N]: n" in result.stderr
    assert "Aborted" in result.stderr


@pytest.mark.usefixtures("nowhere")
def test_nobody_to_ask_is_a_no() -> None:
    result = CliRunner().invoke(app, ["bench", "--keep"], input="")
    assert result.exit_code == 1
    assert "All of it stays there (--keep)." in result.stderr
    assert "Aborted" in result.stderr


@pytest.mark.usefixtures("nowhere")
def test_a_kafka_that_is_not_there_is_said() -> None:
    result = CliRunner().invoke(app, ["bench", "--yes", "--only", "front"])
    assert isinstance(result.exception, HeadraceError)
    assert "Kafka did not answer" in str(result.exception)


@pytest.mark.parametrize("wrong", ["0", "1,x", "", "-1", "1,"])
def test_numbers_that_are_none_are_refused(wrong: str) -> None:
    result = CliRunner().invoke(app, ["bench", "--payloads", wrong])
    assert result.exit_code == 2
    assert "whole numbers above 0" in result.stderr


def test_a_running_endpoint_is_the_front_half_alone() -> None:
    for options in (["--url", "http://x"], ["--url", "http://x", "--only", "back"], ["--pid", "1"]):
        result = CliRunner().invoke(app, ["bench", *options])
        assert isinstance(result.exception, HeadraceError)
        assert "--url" in str(result.exception)


def test_what_an_endpoint_takes_stays_and_that_is_said() -> None:
    kafka = KafkaSettings(kafka_bootstrap_servers=("k:1",))
    wishes = Wishes(
        parts=frozenset({"front"}),
        rounds=1,
        seconds=1,
        warmup=0,
        connections=1,
        payloads=(1,),
        payload_bytes=220,
        workers=1,
        records=1,
        record_bytes=(220,),
        partitions=1,
        processes=1,
        rate=None,
        steady_seconds=1,
        flush_seconds=1,
        reference=False,
        url="http://theirs/payloads",
    )
    told = what_it_makes(wishes, Place(kafka, None, own=False, folder=Path()), Workspace(kafka, None, partitions=1))
    assert told == [
        "Place: Kafka at k:1.",
        (
            "Requests: as many as http://theirs/payloads takes. "
            "What they carry goes where that endpoint sends it, and stays."
        ),
    ]


def test_each_run_has_names_of_its_own_below_the_users_prefix() -> None:
    kafka, s3 = KafkaSettings(), S3Settings(s3_bucket="bucket", s3_prefix="a/b")
    one, other = Workspace(kafka, s3, partitions=1), Workspace(kafka, s3, partitions=1)
    assert one.run != other.run
    assert one.prefix == f"a/b/{one.run}"
    assert one.run.startswith("headrace-bench-")


def test_a_section_is_added_and_what_stood_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    append(file, "## one\n")
    append(file, "## two\n")
    assert file.read_text() == "## one\n\n## two\n"
    assert [path.name for path in tmp_path.iterdir()] == ["RESULTS.md"]


def test_settings_that_figures_depend_on_are_kept_and_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in TUNING:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "headrace.toml").write_text("linger_ms = 1\nkafka_compression = 'zstd'\nkafka_sasl_password = 'x'\n")
    monkeypatch.setenv("KAFKA_COMPRESSION", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    assert chosen_settings() == {"KAFKA_COMPRESSION": "none", "LINGER_MS": "1"}


def test_the_command_that_is_kept_tells_no_secrets() -> None:
    told = told_command(["bench", "--header", "Authorization: Bearer s3cret", "--header=X-Key:s3cret", "--rounds", "1"])
    assert shlex.split(told)[2:] == ["--header", "Authorization:…", "--header=X-Key:…", "--rounds", "1"]


def test_the_command_that_is_kept_tells_no_folders_of_this_machine() -> None:
    told = told_command(["bench", "--json", "/home/me/a.json", "--record=/home/me/b.md", "--url", "http://x/y/z"])
    assert shlex.split(told)[2:] == ["--json", "…/a.json", "--record=…/b.md", "--url", "http://x/y/z"]
