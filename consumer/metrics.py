"""The archiver's metrics. Names are public: dashboards use them."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RECORDS: Final = Counter("headrace_consumer_records_total", "Records taken from Kafka", ["topic"])
STORED_OBJECTS: Final = Counter("headrace_consumer_objects_total", "Objects stored in S3", ["topic"])
STORED_BYTES: Final = Counter("headrace_consumer_object_bytes_total", "Bytes of objects stored in S3", ["topic"])
STORED_RECORDS: Final = Counter("headrace_consumer_stored_records_total", "Records stored in S3", ["topic"])
ODD_RECORDS: Final = Counter(
    "headrace_consumer_odd_records_total",
    "Records kept beside the lines, which can't hold them (FORMAT=raw)",
    ["topic"],
)
UPLOAD_SECONDS: Final = Histogram(
    "headrace_consumer_upload_seconds",
    "A chunk's way to S3, retries too",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300),
)
UPLOAD_FAILURES: Final = Counter(
    "headrace_consumer_upload_failures_total", "Attempts that failed and are repeated", ["kind"]
)
UPLOADS: Final = Gauge("headrace_consumer_uploads", "Uploads under way")
HELD_BYTES: Final = Gauge("headrace_consumer_held_bytes", "Bytes on their way from Kafka to S3")
FAILED: Final = Gauge("headrace_consumer_partitions_failed", "Partitions that stopped and need a person")
LOST_OFFSETS: Final = Counter(
    "headrace_consumer_lost_offsets_total", "Offsets that Kafka dropped before they were stored", ["topic"]
)
COMMITS: Final = Counter("headrace_consumer_commits_total", "Offset commits, by outcome", ["outcome"])
REJOINS: Final = Counter("headrace_consumer_rejoins_total", "Memberships given up and begun anew")
