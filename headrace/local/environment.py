"""Which settings the producer and the consumer get from `headrace up`."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULTS: Final[Mapping[str, str]] = {
    "HTTP_HOST": "127.0.0.1",
    "HTTP_PORT": "8000",
    "KAFKA_TOPIC": "payloads",
    "KAFKA_TOPIC_PARTITIONS": "4",
    "KAFKA_GROUP": "headrace",
    "CHUNK_MAX_SECONDS": "10",  # whoever tries it out wants to see an object soon
    "SESSION_TIMEOUT_SECONDS": "4",  # after a kill -9 the next consumer waits until Kafka gives the old one up
}
"""Only where neither the environment nor headrace.toml says otherwise."""

# They would lead away from the local stack.
_FOREIGN: Final = ("AWS_", "KAFKA_SASL_", "KAFKA_SSL_", "MANAGEMENT_", "S3_PATH_STYLE")
_PROXIES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})
# Programs run beside the stack speak of the same topic and objects only when they know these.
_TOLD: Final[tuple[str, ...]] = (
    "HTTP_HOST",
    "HTTP_PORT",
    "KAFKA_SECURITY_PROTOCOL",
    "KAFKA_TOPIC",
    "KAFKA_GROUP",
    "S3_PREFIX",
    "FORMAT",
    "COMPRESSION",
    "OBJECT_PATH",
    "NO_PROXY",
)


class UpSettings:
    """What the environment and headrace.toml say, completed for a local try."""

    def __init__(self, environ: Mapping[str, str], toml: Mapping[str, Any]) -> None:
        self._environ = environ
        self._toml = {name.upper(): value for name, value in toml.items()}

    def get(self, name: str, default: str) -> str:
        """The environment's, else headrace.toml's, else the default. Empty counts as not set."""
        value = self._environ.get(name) or self._toml.get(name)
        if isinstance(value, list):
            return ",".join(map(str, value))
        return str(value) if value is not None else DEFAULTS.get(name, default)

    def number(self, name: str, default: str) -> float:
        """A setting that must be a number."""
        text = self.get(name, default)
        try:
            return float(text)
        except ValueError:
            raise SettingsError(f"{name} = {text!r} is no number.") from None

    def for_children(self, stack: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of a producer or consumer that uses the local stack."""
        kept = {name: value for name, value in self._environ.items() if not name.startswith(_FOREIGN)}
        completed = {name: self.get(name, "") for name in DEFAULTS}
        if any(name.upper() in _PROXIES for name in kept):
            direct = [name for name in (kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1", "localhost") if name]
            completed |= {"NO_PROXY": ",".join(direct), "no_proxy": ",".join(direct)}
        return {**kept, **completed, "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "PYTHONUNBUFFERED": "1", **stack}

    def for_others(self, children: Mapping[str, str]) -> dict[str, str]:
        """What programs that are run later in this folder need beside the stack's addresses."""
        toml = {name: self.get(name, "") for name in _TOLD if name in self._toml}
        return toml | {name: children[name] for name in _TOLD if name in children}


def read_toml(path: Path) -> dict[str, Any]:
    """headrace.toml, empty when there is none."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from None
