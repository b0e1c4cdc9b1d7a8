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
MOST_METADATA_BYTES = 1024

S3Acl = Literal[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]
IsolationLevel = Literal["read_committed", "read_uncommitted"]
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
    s3_server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        None, description="of what is stored; default: the bucket's own"
    )
    s3_sse_kms_key_id: str | None = Field(None, min_length=1, description="key, with aws:kms; default: the account's")
    s3_sse_kms_encryption_context: CommaList = Field((), description="name=value, comma; with aws:kms")
    s3_bucket_key_enabled: bool | None = Field(None, description="with aws:kms: fewer calls of KMS, by a bucket key")
    s3_storage_class: str | None = Field(
        None, pattern=r"^[A-Z][A-Z0-9_]*$", description="STANDARD_IA, GLACIER_IR, …; default: the bucket's own"
    )
    s3_tags: CommaList = Field((), description="name=value, comma: tags of each object, 10 at most")
    s3_metadata: CommaList = Field((), description="name=value, comma: user metadata of each object beside headrace's")
    s3_multipart_bytes: int = Field(
        64 * MEBIBYTE, ge=0, le=5 * 1024 * MEBIBYTE, description="larger objects are sent in parts; 0: none is"
    )
    aws_ca_bundle: Path | None = Field(None, description="PEM file of the S3 server's certificate authority")
    aws_request_checksum_calculation: Literal["when_required", "when_supported"] = Field(
        "when_required", description="when_supported sends a checksum with each PUT; old stores refuse that"
    )

    @field_validator("s3_prefix")
    @classmethod
    def _tidy_prefix(cls, value: str) -> str:
        tidy = value.strip("/")
        if any(part in {"", ".", ".."} for part in tidy.split("/")) and tidy:
            raise ValueError("has an empty, . or .. part")
        return tidy

    @field_validator("s3_sse_kms_encryption_context", "s3_tags", "s3_metadata")
    @classmethod
    def _pairs_are_whole(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            if not pair.partition("=")[0].strip() or "=" not in pair:
                raise ValueError(f"{pair!r} is not written name=value")
        names = [pair.partition("=")[0].strip().lower() for pair in value]
        if len(set(names)) < len(names):
            raise ValueError("has the same name twice")
        return value

    @field_validator("s3_tags")
    @classmethod
    def _tags_are_taken(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 10:
            raise ValueError("has more than 10 tags, which S3 refuses")
        for name, told in _pairs(value).items():
            if name.lower().startswith("aws:") or len(name) > 128 or len(told) > 256:
                raise ValueError(f"S3 refuses the tag {name!r}: 128 characters = 256 at most, not beginning with aws:")
            if not all(letter.isalnum() or letter in " +-=._:/@" for letter in name + told):
                raise ValueError(f"S3 refuses the tag {name!r}: only letters, digits, blanks and + - = . _ : / @")
        return value

    @field_validator("s3_metadata")
    @classmethod
    def _metadata_is_taken(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name, told in _pairs(value).items():
            if not (name.isascii() and name.replace("-", "").isalnum() and told.isascii() and told.isprintable()):
                raise ValueError(f"{name!r} must be ASCII letters, digits and -, and its value printable ASCII")
            if name.lower().startswith("headrace-"):
                raise ValueError(f"{name!r} begins with headrace-, as headrace's own do")
        if sum(map(len, value)) > MOST_METADATA_BYTES:
            raise ValueError(f"is more than {MOST_METADATA_BYTES} bytes; S3 takes 2 KB together with headrace's own")
        return value

    @field_validator("s3_multipart_bytes")
    @classmethod
    def _parts_are_taken(cls, value: int) -> int:
        if 0 < value < 5 * MEBIBYTE:
            raise ValueError("is less than 5 MiB, the smallest part that S3 takes; 0 sends nothing in parts")
        return value

    @field_validator("aws_ca_bundle")
    @classmethod
    def _authority_is_readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"can't be read as PEM certificates ({error})") from None
        return value

    @model_validator(mode="after")
    def _options_can_be_sent(self) -> Self:
        kms = (self.s3_server_side_encryption or "").startswith("aws:kms")
        wrong = [
            f"{name.upper()} needs S3_SERVER_SIDE_ENCRYPTION=aws:kms"
            for name in ("s3_sse_kms_key_id", "s3_sse_kms_encryption_context", "s3_bucket_key_enabled")
            if getattr(self, name) and not kms
        ]
        if self.s3_bucket_key_enabled and self.s3_server_side_encryption == "aws:kms:dsse":
            wrong.append("S3_BUCKET_KEY_ENABLED goes with aws:kms only: S3 has no bucket keys for aws:kms:dsse")
        if self.s3_client == "obstore":
            if self.s3_acl is not None:
                wrong.append("S3_ACL needs S3_CLIENT=aiobotocore: obstore can't send one (S3's own default is private)")
            if self.s3_sse_kms_encryption_context:
                wrong.append("S3_SSE_KMS_ENCRYPTION_CONTEXT needs S3_CLIENT=aiobotocore: obstore can't send one")
        if wrong:
            raise ValueError("\n  ".join(wrong))
        return self

    @property
    def place(self) -> str:
        """Bucket and prefix, as people write them."""
        return "/".join(filter(None, [f"s3://{self.s3_bucket}", self.s3_prefix]))

    def pairs(self, name: str) -> dict[str, str]:
        """A setting that is written `name=value,…`."""
        return _pairs(getattr(self, name))


def _pairs(written: tuple[str, ...]) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in written)}


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
