"""What the producer can be told."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from headrace.settings import MEBIBYTE, CommaList, KafkaSettings

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
    kafka_topic: str = Field(description="topic that payloads are published to")
    kafka_topics_allowed: CommaList = Field(
        (), description="topics beside KAFKA_TOPIC that POST /topics/{topic} may publish to, comma"
    )
    keyed_requests: Literal["transaction", "refuse", "separate"] = Field(
        "transaction",
        description="a request whose keys belong to several partitions: all or nothing by a Kafka transaction, or "
        "refused (422), or a record batch for each partition, of which some may fail (503, outcome unknown)",
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
