"""What `headrace up` tells its children: the user's wishes, and nothing that leads away from the local stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace.errors import SettingsError
from headrace.local.environment import DEFAULTS, UpSettings, read_toml

if TYPE_CHECKING:
    from pathlib import Path

STACK = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "S3_BUCKET": "headrace", "AWS_ACCESS_KEY_ID": "local"}


def test_children_get_defaults_for_trying() -> None:
    children = UpSettings({"PATH": "/bin"}, {}).for_children(STACK)
    assert children == {
        "PATH": "/bin",
        **DEFAULTS,
        "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "PYTHONUNBUFFERED": "1",
        **STACK,
    }


def test_environment_goes_before_toml_goes_before_defaults() -> None:
    settings = UpSettings({"KAFKA_GROUP": "mine", "HTTP_PORT": ""}, {"kafka_group": "toml", "http_port": 8001})
    children = settings.for_children(STACK)
    assert (children["KAFKA_GROUP"], children["HTTP_PORT"], children["KAFKA_TOPIC"]) == ("mine", "8001", "payloads")


def test_a_list_in_toml_is_written_with_commas() -> None:
    assert UpSettings({}, {"kafka_topic": ["a", "b"]}).get("KAFKA_TOPIC", "") == "a,b"


def test_nothing_leads_away_from_the_local_stack() -> None:
    environ = {
        "AWS_PROFILE": "work",
        "AWS_SESSION_TOKEN": "t",
        "AWS_ACCESS_KEY_ID": "work",
        "KAFKA_SASL_USERNAME": "u",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
        "MANAGEMENT_PORT": "9000",
    }
    children = UpSettings(environ, {}).for_children(STACK)
    assert {name: children.get(name) for name in environ} == {
        "AWS_PROFILE": None,
        "AWS_SESSION_TOKEN": None,
        "AWS_ACCESS_KEY_ID": "local",
        "KAFKA_SASL_USERNAME": None,
        "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
        "MANAGEMENT_PORT": None,
    }


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_does_not_come_between(name: str) -> None:
    children = UpSettings({name: "http://proxy:3128", "NO_PROXY": "intranet"}, {}).for_children(STACK)
    assert children["NO_PROXY"] == children["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_programs_beside_the_stack_learn_what_names_objects() -> None:
    settings = UpSettings({"S3_PREFIX": "trial", "PATH": "/bin"}, {"object_path": "none"})
    others = settings.for_others(settings.for_children(STACK))
    assert others == {
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "8000",
        "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "KAFKA_TOPIC": "payloads",
        "KAFKA_GROUP": "headrace",
        "S3_PREFIX": "trial",
        "OBJECT_PATH": "none",
    }


def test_a_number_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError, match="HTTP_PORT = 'eighty' is no number"):
        UpSettings({"HTTP_PORT": "eighty"}, {}).number("HTTP_PORT", "")


def test_toml_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    assert read_toml(path) == {}
    path.write_text("max_workers = 3")
    assert read_toml(path) == {"max_workers": 3}
    path.write_text("max_workers = ")
    with pytest.raises(SettingsError, match=r"headrace\.toml can't be read"):
        read_toml(path)
