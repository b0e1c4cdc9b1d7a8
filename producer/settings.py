"""What the producer can be told."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from headrace.settings import MEBIBYTE, CommaList, KafkaSettings
from producer.credentials import Credentials, is_loopback, read_credentials
from producer.keys import KeyPointer, checked_header

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,*?#@]+")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def _is_topic_name(name: str) -> bool:
    return _TOPIC.fullmatch(name) is not None and name not in {".", ".."}


class ProducerSettings(KafkaSettings):
    """The HTTP front. One request's payloads go into one record batch, so a topic's max.message.bytes limits it too."""

    http_host: str = Field("127.0.0.1", min_length=1, description="address that payloads are taken at")
    http_port: int = Field(8000, ge=0, le=65535, description="port that payloads are taken at; 0: any free one")
    workers: int = Field(
        1, ge=1, le=1024, description="processes that share the port; each has the limits below for itself"
    )
    http_allow_anonymous: bool = Field(
        False, description="let everybody publish who can reach HTTP_HOST, also where that is more than this machine"
    )
    http_token: SecretStr = Field(SecretStr(""), description="one token for all callers, told as it is; never logged")
    http_tokens: SecretStr = Field(
        SecretStr(""),
        description="tokens by their digests: NAME:SHA256 or NAME:SHA256:TOPIC|TOPIC, comma; see `headrace token`",
    )
    http_tokens_file: Path | None = Field(None, description="file of more of them, one a line")
    http_github_secret: SecretStr = Field(
        SecretStr(""), description="secrets of webhooks that sign as GitHub does (X-Hub-Signature-256), comma"
    )
    http_github_secret_file: Path | None = Field(None, description="file of more of them, one a line")
    http_stripe_secret: SecretStr = Field(
        SecretStr(""), description="secrets of webhooks that sign as Stripe does (Stripe-Signature), comma"
    )
    http_stripe_secret_file: Path | None = Field(None, description="file of more of them, one a line")
    http_signature_seconds: float = Field(
        300, gt=0, description="how far the time in a signature may be from the clock here"
    )
    http_tls_certificate_file: Path | None = Field(
        None, description="PEM file of the server's certificate and its chain; then payloads are taken by HTTPS alone"
    )
    http_tls_key_file: Path | None = Field(None, description="PEM file of its key")
    http_tls_client_ca_file: Path | None = Field(
        None, description="PEM file of the authority whose certificates every client must show"
    )
    cors_origins: CommaList = Field(
        (), description="origins whose pages may publish from browsers: https://example.com, comma; or *"
    )
    rate_requests_per_second: float | None = Field(
        None, gt=0, description="requests of one token (of one address, where none is shown) a second; over it: 429"
    )
    rate_bytes_per_second: float | None = Field(None, gt=0, description="bytes of its bodies a second; over it: 429")
    kafka_topic: str = Field(description="topic that payloads are published to")
    kafka_topics_allowed: CommaList = Field(
        (), description="topics beside KAFKA_TOPIC that POST /topics/{topic} may publish to, comma"
    )
    keyed_requests: Literal["transaction", "refuse", "separate"] = Field(
        "transaction",
        description="a request whose keys belong to several partitions: all or nothing by a Kafka transaction, or "
        "refused (422), or a record batch for each partition, of which some may fail (503, outcome unknown)",
    )
    key_header: str = Field(
        "X-Kafka-Key", min_length=1, description="request header whose value is the key of the request's records"
    )
    key_query: str | None = Field(
        None, min_length=1, description="name in a request's query (?name=…) that says the same; default: none"
    )
    key_pointer: str | None = Field(
        None, description="JSON pointer to the key in each payload (/user/id), where the request names none"
    )
    headers_kept: CommaList = Field(
        (), description="request headers that are stored with its records, comma; beside traceparent and tracestate"
    )
    kafka_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "lz4",
        description="how record batches are packed on their way and in the topic, at each one's fast level. Network, "
        "Kafka and packing together, lz4 costs no more CPU than none and leaves a third of the bytes; zstd leaves a "
        "sixth, for some more CPU here and twice that of lz4 for readers",
    )
    max_length: int = Field(MEBIBYTE, ge=1, description="bytes of a request's body")
    max_inflated_bytes: int | None = Field(
        None, ge=1, description="bytes of a body that comes as gzip, deflate or zstd, inflated; default: MAX_LENGTH"
    )
    max_payloads: int | None = Field(None, ge=1, description="payloads of a request; default: what fits a record batch")
    max_payload_length: int | None = Field(None, ge=1, description="bytes of a payload; default: what fits a body")
    max_queue: int = Field(100_000, ge=1, description="payloads that may wait for Kafka; more are answered 503")
    memory_budget_bytes: int = Field(
        32 * MEBIBYTE,
        ge=1,
        description="bytes that bodies being read and payloads waiting for Kafka may take; over it: 503",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="open connections beyond which requests are answered 503; a quarter more are taken at all",
    )
    max_requests: int = Field(
        4096, ge=1, description="requests that may be read or wait for their answer at a time; more are answered 503"
    )
    linger_ms: float = Field(
        1,
        ge=0,
        le=10_000,
        description="how long the first request of a batch waits for company while Kafka is free; under load batches "
        "fill by themselves while it is busy",
    )
    request_timeout_seconds: float = Field(
        10, gt=0, description="how long a request waits for Kafka's acknowledgement; after it: 503, outcome unknown"
    )
    header_timeout_seconds: float = Field(
        10,
        gt=0,
        description="how long a request's head may take to come in, a connection may wait with its first one (a TLS "
        "handshake is part of that), and the rest of a refused body is read; after it: 408, or the connection ends",
    )
    body_timeout_seconds: float = Field(
        20, gt=0, description="how long a request's body may take to come in; after it: 408"
    )
    drain_seconds: float = Field(10, gt=0, description="how long requests in flight may take after SIGTERM")

    @field_validator("kafka_topic")
    @classmethod
    def _topic_name(cls, value: str) -> str:
        if not _is_topic_name(value):
            raise ValueError("is no topic name: up to 249 letters, digits, '.', '_' and '-'")
        return value

    @field_validator("kafka_topics_allowed")
    @classmethod
    def _topic_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bad = [name for name in value if not _is_topic_name(name)]
        if bad:
            raise ValueError(f"{bad[0]!r} is no topic name: up to 249 letters, digits, '.', '_' and '-'")
        return value

    @field_validator("key_header")
    @classmethod
    def _key_header_name(cls, value: str) -> str:
        return checked_header(value)

    @field_validator("headers_kept")
    @classmethod
    def _header_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(checked_header, value))

    @field_validator("key_pointer")
    @classmethod
    def _json_pointer(cls, value: str | None) -> str | None:
        if value is not None:
            KeyPointer(value)
        return value

    @property
    def topics(self) -> tuple[str, ...]:
        """All that may be published to, KAFKA_TOPIC first, none of them twice."""
        return tuple(dict.fromkeys((self.kafka_topic, *self.kafka_topics_allowed)))

    @model_validator(mode="after")
    def _body_fits_memory(self) -> Self:
        if self.memory_budget_bytes < self.max_length:
            raise ValueError(
                f"MEMORY_BUDGET_BYTES={self.memory_budget_bytes} is less than one body (MAX_LENGTH={self.max_length})"
            )
        if self.memory_budget_bytes < self.max_length + (self.max_inflated_bytes or 0):
            raise ValueError(
                f"MEMORY_BUDGET_BYTES={self.memory_budget_bytes} is less than one body as it comes and inflated "
                f"(MAX_LENGTH={self.max_length} and MAX_INFLATED_BYTES={self.max_inflated_bytes})"
            )
        return self

    @model_validator(mode="after")
    def _who_may(self) -> Self:
        known = self.credentials().any or self.http_tls_client_ca_file is not None
        if not (known or self.http_allow_anonymous or is_loopback(self.http_host)):
            raise ValueError(
                f"HTTP_HOST={self.http_host} lets other machines in, and nothing says who may publish. Set HTTP_TOKENS "
                "(`headrace token NAME` makes one), HTTP_GITHUB_SECRET, HTTP_STRIPE_SECRET or HTTP_TLS_CLIENT_CA_FILE; "
                "or HTTP_ALLOW_ANONYMOUS=true, where the network itself keeps others out"
            )
        return self

    @model_validator(mode="after")
    def _tls_whole(self) -> Self:
        if (self.http_tls_key_file or self.http_tls_client_ca_file) and self.http_tls_certificate_file is None:
            raise ValueError("HTTP_TLS_KEY_FILE and HTTP_TLS_CLIENT_CA_FILE need HTTP_TLS_CERTIFICATE_FILE")
        try:
            self.tls()
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"The TLS files can't be used (HTTP_TLS_…): {error}") from None
        return self

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [origin for origin in value if origin not in {"*", "null"} and not _ORIGIN.fullmatch(origin)]
        if wrong:
            raise ValueError(
                f"{wrong[0]} is no origin: write https://example.com, without a path or a slash at its end"
            )
        return value

    @model_validator(mode="after")
    def _ports_apart(self) -> Self:
        last = self.management_port + self.workers - 1
        if self.management_port and last > 65535:
            raise ValueError(
                f"MANAGEMENT_PORT={self.management_port} leaves no port for each of WORKERS={self.workers}"
            )
        if self.management_host == self.http_host and 0 < self.management_port <= self.http_port <= last:
            raise ValueError(
                f"HTTP_PORT={self.http_port} is one of the ports from MANAGEMENT_PORT={self.management_port} on, which "
                f"each worker has one of (WORKERS={self.workers})"
            )
        return self

    def credentials(self) -> Credentials:
        """Who may publish. Reads the files anew; raises ValueError that tells no secret."""
        return read_credentials(
            token=self.http_token,
            tokens=self.http_tokens,
            tokens_file=self.http_tokens_file,
            github=self.http_github_secret,
            github_file=self.http_github_secret_file,
            stripe=self.http_stripe_secret,
            stripe_file=self.http_stripe_secret_file,
        )

    def tls(self) -> ssl.SSLContext | None:
        """What connections are taken with; None: plain HTTP. Reads the files anew; raises OSError or SSLError."""
        if self.http_tls_certificate_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.http_tls_certificate_file, self.http_tls_key_file)
        if self.http_tls_client_ca_file is not None:
            context.load_verify_locations(self.http_tls_client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
