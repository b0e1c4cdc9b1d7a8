"""The archiver's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, field_validator, model_validator

from consumer.encode import Codec, ColumnsOf, FormatName, open_format
from consumer.folders import MOST_VALUE_BYTES, parse_template
from consumer.layout import DEFAULT_OBJECT_PATH, MOST_KEY_BYTES, Layout
from consumer.moments import ISO, UTC_NAME, open_zone, reader
from consumer.pointer import parse_pointer
from headrace.objects import BESIDE_FOLDER, CONTROL_FOLDER, PAYLOAD_FOLDER
from headrace.settings import MEBIBYTE, CommaList, IsolationLevel, KafkaSettings, S3Settings

OBJECT_CHUNK: Final = 1_000
"""CHUNK_MAX_RECORDS by default where each payload costs a PUT: so many a successor may have to repeat."""


class ConsumerSettings(KafkaSettings, S3Settings):
    """What `headrace consume` goes by. Durations in seconds, sizes in bytes."""

    kafka_topic: CommaList = Field(min_length=1, description="topics to archive, comma")
    kafka_group: str = Field("headrace", min_length=1, description="consumer group; its offsets hold the claims")
    kafka_isolation_level: IsolationLevel = Field(
        "read_committed", description="read_uncommitted also archives records of transactions that were aborted"
    )
    session_timeout_seconds: float = Field(
        10, ge=1, description="a consumer that is silent for so long loses its partitions"
    )

    max_workers: int = Field(16, ge=1, le=1024, description="uploads at a time")
    max_queue: int = Field(64, ge=1, description="claimed chunks that may wait for an uploader")
    max_claims: int = Field(32, ge=1, le=128, description="chunks of one partition on their way to S3 at most")
    memory_budget_bytes: int = Field(
        64 * MEBIBYTE, ge=MEBIBYTE, description="bytes held on their way to S3 before partitions are paused"
    )

    chunk_max_records: int = Field(
        100_000, ge=1, description=f"a chunk closes at so many records; {OBJECT_CHUNK} with FORMAT=object"
    )
    chunk_max_bytes: int = Field(64 * MEBIBYTE, ge=1024, description="or so many bytes before compression")
    chunk_max_seconds: float = Field(60, gt=0, description="or this age")
    chunk_max_buckets: int = Field(
        1_000, ge=1, description="or before a record that would need one more path (so an object) than so many"
    )

    format: FormatName = Field(
        "jsonl", description="jsonl, raw (payloads as they came), parquet, or object (one S3 object a payload)"
    )
    compression: Codec = Field("zstd", description="zstd, gzip or none; with FORMAT=parquet snappy, too")
    parquet_columns: ColumnsOf = Field(
        "envelope", description="with FORMAT=parquet: envelope, or payload: a JSON object's fields are columns, too"
    )
    parquet_schema_file: Path | None = Field(
        None,
        description="JSON Schema that tells PARQUET_COLUMNS=payload which; default: what an object's payloads have",
    )
    compression_level: int | None = Field(None, description="the compression's level; default: a fast one")
    object_path: str = Field(
        DEFAULT_OBJECT_PATH,
        description="folders of a record: strftime fields, {key}, a payload's {/field}, {topic}, {partition}; or none",
    )
    time_field: str = Field(
        "", description="JSON pointer of the payload's field that tells its time, /at; default: the record's timestamp"
    )
    time_format: str = Field(
        ISO, description="how TIME_FIELD is written: iso8601, unix_s, unix_ms, unix_us, unix_ns or a strptime pattern"
    )
    time_zone: str = Field(UTC_NAME, description="IANA zone of the days and hours in OBJECT_PATH, Europe/Berlin")

    upload_timeout_seconds: float = Field(60, gt=0, description="an upload's attempt lasts at most so long")
    drain_seconds: float = Field(20, gt=0, description="SIGTERM: store what is held within this time, then leave")

    @property
    def heartbeat_seconds(self) -> float:
        """Between two heartbeats to the group's coordinator."""
        return min(1.0, self.session_timeout_seconds / 4)  # by it a member learns that others come and go

    @field_validator("object_path", "time_field", "time_format", "time_zone")
    @classmethod
    def _can_be_read(cls, value: str, info: Any) -> str:
        match info.field_name:
            case "object_path":
                parse_template(value)
            case "time_field" if value:
                parse_pointer(value)
            case "time_format":
                reader(value)
            case "time_zone":
                open_zone(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _small_chunks_of_objects(cls, told: Any) -> Any:
        if isinstance(told, dict) and told.get("format") == "object":
            return {"chunk_max_records": OBJECT_CHUNK} | told
        return told

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        open_format(
            self.format, self.compression, self.compression_level, self.parquet_columns, self.parquet_schema_file
        )
        for folder, what in (
            (CONTROL_FOLDER, "the markers"),
            (PAYLOAD_FOLDER, "payloads of FORMAT=object"),
            (BESIDE_FOLDER, "what FORMAT=raw keeps beside its lines"),
        ):
            if folder in self.kafka_topic:
                raise ValueError(f"KAFKA_TOPIC must not be {folder}: that folder holds {what}")
        if self.upload_timeout_seconds <= self.heartbeat_seconds:
            raise ValueError(
                f"UPLOAD_TIMEOUT_SECONDS={self.upload_timeout_seconds:g} must be more than between heartbeats, "
                f"{self.heartbeat_seconds:g} s (a quarter of SESSION_TIMEOUT_SECONDS, 1 at most)"
            )
        if self.chunk_max_bytes > self.memory_budget_bytes:
            raise ValueError(
                f"CHUNK_MAX_BYTES={self.chunk_max_bytes} is more than MEMORY_BUDGET_BYTES={self.memory_budget_bytes}"
            )
        if wrong := self._layout_problems():
            raise ValueError("\n  ".join(wrong))
        return self

    def layout(self) -> Layout:
        """What names and contents of objects depend on."""
        return Layout(
            self.s3_prefix,
            self.object_path,
            open_format(
                self.format, self.compression, self.compression_level, self.parquet_columns, self.parquet_schema_file
            ).suffix,
            self.kafka_isolation_level,
            self.time_field,
            self.time_format,
            self.time_zone,
        )

    def _layout_problems(self) -> list[str]:
        """A sentence for each setting of the layout that does not fit the others."""
        layout, found = self.layout(), []
        no_time = f"OBJECT_PATH={self.object_path} has no field of the time, such as %Y"
        if self.time_field and not layout.is_dated:
            found.append(f"TIME_FIELD={self.time_field} would do nothing: {no_time}")
        if self.time_zone != UTC_NAME and not layout.is_dated:
            found.append(f"TIME_ZONE={self.time_zone} would do nothing: {no_time}")
        if self.time_format != ISO and not self.time_field:
            found.append(f"TIME_FORMAT={self.time_format} would do nothing: TIME_FIELD does not say which field it is")
        longest, topic = max((layout.longest_key(topic), topic) for topic in self.kafka_topic)
        if longest > MOST_KEY_BYTES:
            found.append(
                f"Keys of topic {topic} may have up to {longest} bytes with this S3_PREFIX and OBJECT_PATH, where each "
                f"value counts as {MOST_VALUE_BYTES}; S3 takes {MOST_KEY_BYTES}"
            )
        return found
