"""The stack that `headrace up` runs on this machine: commands use it when they are not told of another one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import SettingsError
from headrace.settings import config_file

if TYPE_CHECKING:
    from collections.abc import Mapping

_DISCOVERY: Final = "headrace.local.discover"
_KAFKA: Final = ("KAFKA_BOOTSTRAP_SERVERS",)
_S3: Final = ("S3_BUCKET", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def configured() -> Mapping[str, Any]:
    """What headrace.toml says, names in upper case; empty when there is no such file. Raises SettingsError."""
    try:
        with config_file().open("rb") as file:
            return {name.upper(): value for name, value in tomllib.load(file).items()}
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{config_file()} can't be read: {error}") from None


def adopt_local_stack(*, kafka: bool = False, s3: bool = False) -> list[str]:
    """Put the running local stack's addresses into the environment, where nobody has told any; returns their names.

    Kafka and S3 are each taken whole or not at all: keys of one place never go to the address of another.
    """
    given = {*(name for name, value in os.environ.items() if value), *configured()}
    wants = []
    if kafka and given.isdisjoint(_KAFKA):
        wants.append("KAFKA_")
    if s3 and given.isdisjoint(_S3):
        wants += ["S3_", "AWS_"]
    found = _discover() if wants else None
    if not found:
        return []
    adopted = {name: value for name, value in found.items() if name.startswith(tuple(wants))}
    if "KAFKA_TOPIC" in found and "KAFKA_TOPIC" not in given:
        adopted["KAFKA_TOPIC"] = found["KAFKA_TOPIC"]
    elif "KAFKA_TOPIC" in given:
        adopted.pop("KAFKA_TOPIC", None)
    if "KAFKA_GROUP" in given:
        adopted.pop("KAFKA_GROUP", None)
    os.environ.update(adopted)
    return sorted(adopted)


def _discover() -> Mapping[str, str] | None:
    if importlib.util.find_spec(_DISCOVERY) is None:
        return None
    found: Mapping[str, str] | None = importlib.import_module(_DISCOVERY).discover()
    return found
