"""The base of all settings: environment, then headrace.toml, then defaults; frozen; told all at once when wrong."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from headrace.errors import SettingsError

CONFIG_VARIABLE = "HEADRACE_CONFIG"
MEBIBYTE = 1024 * 1024

S3Acl = Literal[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]
CommaList = Annotated[tuple[str, ...], NoDecode]
"""A setting that is written `a,b,c` in the environment and may be an array in headrace.toml."""


def config_file() -> Path:
    """headrace.toml of this folder, or the file that HEADRACE_CONFIG names."""
    return Path(os.environ.get(CONFIG_VARIABLE, "headrace.toml"))


class Base(BaseSettings):
    """Settings shared by every command. A field `kafka_topic` is `KAFKA_TOPIC` in the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, env_ignore_empty=True)

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")
    log_format: Literal["text", "json"] = Field("text", description="text for people, json for machines")
    management_host: str = Field("127.0.0.1", description="address of what MANAGEMENT_PORT serves")
    management_port: int = Field(0, ge=0, le=65535, description="own port of /healthz, /readyz and /metrics; 0: none")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings  # one place for a setting beside the environment is enough
        toml = TomlConfigSettingsSource(settings_cls, config_file())
        return init_settings, env_settings, toml

    @field_validator("*", mode="before")
    @classmethod
    def _split_commas(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[info.field_name]
        if isinstance(value, str) and NoDecode in field.metadata:
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


class KafkaSettings(Base):
    """How to reach Kafka."""

    kafka_bootstrap_servers: CommaList = Field(("127.0.0.1:9092",), min_length=1, description="host:port, comma")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="with SASL_PLAINTEXT and SASL_SSL"
    )
    kafka_sasl_username: str = Field("", description="with SASL_PLAINTEXT and SASL_SSL")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="with SASL_PLAINTEXT and SASL_SSL; never logged")
    kafka_ssl_ca_file: Path | None = Field(None, description="PEM file of the brokers' certificate authority")
    kafka_ssl_certificate_file: Path | None = Field(None, description="PEM file of this client's own certificate")
    kafka_ssl_key_file: Path | None = Field(None, description="PEM file of this client's own key")
    kafka_topic_partitions: int = Field(
        0, ge=0, description="a missing topic is created with so many partitions; 0: never"
    )
    kafka_topic_replication: int = Field(-1, ge=-1, description="replicas of a created topic; -1: the brokers' default")

    @model_validator(mode="after")
    def _sasl_whole(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password.get_secret_value()
        ):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs KAFKA_SASL_USERNAME and "
                f"KAFKA_SASL_PASSWORD"
            )
        return self

    def kafka_options(self) -> dict[str, Any]:
        """The connection's keyword arguments, the same for each of aiokafka's clients."""
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.kafka_bootstrap_servers),
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_sasl_username,
                "sasl_plain_password": self.kafka_sasl_password.get_secret_value(),
            }
        if self.kafka_security_protocol.endswith("SSL"):
            context = ssl.create_default_context(cafile=self.kafka_ssl_ca_file)
            if self.kafka_ssl_certificate_file is not None:
                context.load_cert_chain(self.kafka_ssl_certificate_file, self.kafka_ssl_key_file)
            options["ssl_context"] = context
        return options


class S3Settings(Base):
    """Where objects go. Endpoint, region and credentials come by the AWS chain: AWS_ENDPOINT_URL_S3, AWS_REGION, …"""

    s3_bucket: str = Field(min_length=3, description="bucket that objects are written to; it must exist")
    s3_prefix: str = Field("", description="folder in the bucket; one group per topic and prefix")
    aws_endpoint_url_s3: str | None = Field(None, description="address of an S3 server that isn't Amazon's")
    aws_region: str | None = Field(None, description="region, where the AWS chain does not tell it (default us-east-1)")
    s3_path_style: bool | None = Field(None, description="bucket in the path; default: yes with an own endpoint")
    s3_acl: S3Acl | None = Field(None, description="canned ACL of what is stored (private, …); default: none is sent")
    s3_client: Literal["aiobotocore", "obstore"] = Field(
        "aiobotocore", description="who sends PUTs; obstore (an extra) needs a quarter of the CPU time a small object"
    )

    @field_validator("s3_prefix")
    @classmethod
    def _tidy_prefix(cls, value: str) -> str:
        tidy = value.strip("/")
        if any(part in {"", ".", ".."} for part in tidy.split("/")) and tidy:
            raise ValueError("has an empty, . or .. part")
        return tidy

    @model_validator(mode="after")
    def _acl_can_be_sent(self) -> Self:
        if self.s3_acl is not None and self.s3_client == "obstore":
            raise ValueError("S3_ACL needs S3_CLIENT=aiobotocore: obstore can't send one (S3's own default is private)")
        return self


AnySettings = TypeVar("AnySettings", bound=Base)


def load(kind: type[AnySettings], **overrides: Any) -> AnySettings:
    """Read settings once, at start. Raises SettingsError that tells all that is wrong with them."""
    try:
        return kind(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"][:1]).upper()
            what = problem["msg"].removeprefix("Value error, ")
            field = kind.model_fields.get(name.lower())
            hint = f" ({field.description})" if field is not None and field.description else ""
            if problem["type"] == "missing":
                what = "is not set"
            elif name and field is not None and field.annotation is not SecretStr:
                what = f"= {problem['input']!r}: {what}"
            lines.append(f"  {name} {what}{hint}" if name else f"  {what}")
        where = f"the environment or {config_file()}"
        raise SettingsError("\n".join([f"Settings that can't be started with ({where}):", *sorted(lines)])) from None
    except ValueError as error:  # headrace.toml that is no TOML
        raise SettingsError(f"{config_file()} can't be read: {error}") from None
