"""How costs grow: which points are measured, and what was read there. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from headrace.bench.figures import MICRO, middle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from headrace.bench.usage import Usage

KIB: Final = 1024
SMALL: Final = 220
"""Bytes of a payload wherever another amount grows."""
PARTITIONS: Final = 12
"""Partitions of a topic wherever another amount grows."""
CHUNK_RECORDS: Final = 100_000
"""CHUNK_MAX_RECORDS by default."""
RATE_SHARE: Final = 0.9
"""Records a second are those of this share: the last ones wait for their chunk's age."""
SIZES: Final = (100, SMALL, 1_000, 10_000, 100_000, 900_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One amount that grows. `half`: "back" counts records, "front" requests. `quick`: the points of a quick look."""

    name: str
    half: str
    axis: str
    points: tuple[int, ...]
    quick: tuple[int, ...]


CURVES: Final = (
    Curve(
        name="payload-size-front",
        half="front",
        axis="bytes of a payload, one a request",
        points=SIZES,
        quick=SIZES,
    ),
    Curve(
        name="payloads-a-request",
        half="front",
        axis=f"payloads of {SMALL} bytes in a request",
        points=(1, 10, 100, 1000),
        quick=(1, 10, 100, 1000),
    ),
    Curve(name="payload-size-back", half="back", axis="bytes of a payload", points=SIZES, quick=SIZES),
    Curve(name="consumers", half="back", axis="consumers in the group", points=(1, 2, 4, 8), quick=(1, 2)),
    Curve(
        name="s3-latency",
        half="back",
        axis="ms that each reply of S3 is late",
        points=(0, 50, 200, 500),
        quick=(0, 200),
    ),
    # The last, because a broker has its work with a thousand partitions even when they rest.
    Curve(
        name="partitions", half="back", axis="partitions of the topic", points=(1, 10, 100, 1000), quick=(1, 10, 100)
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A load on `headrace serve`."""

    curve: str
    at: int
    payloads: int
    payload_bytes: int

    @property
    def body_bytes(self) -> int:
        return self.payloads * self.payload_bytes

    @property
    def connections(self) -> int:
        """Fewer of long bodies: they must find room in the endpoint's memory budget together."""
        return max(4, min(64, 8 * KIB * KIB // self.body_bytes))

    @property
    def bodies(self) -> int:
        """Different requests that take turns."""
        return max(5, min(256, 16 * KIB * KIB // self.body_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackPoint:
    """A full topic for `headrace consume`. `late_ms` is None where S3 is asked directly."""

    curve: str
    at: int
    records: int
    payload_bytes: int = SMALL
    partitions: int = PARTITIONS
    consumers: int = 1
    late_ms: int | None = None
    chunks_a_partition: int = 1

    @property
    def chunk_records(self) -> int:
        """Chunks close when the last of a partition's records is there: nobody waits for their age."""
        return min(CHUNK_RECORDS, -(-self.records // (self.partitions * self.chunks_a_partition)))

    @property
    def different(self) -> int:
        """Records that differ; then they begin again, each partition with all of them, too far apart to be packed."""
        count = max(5, min(20_011, 16 * KIB * KIB // self.payload_bytes))
        while math.gcd(count, self.partitions) > 1:
            count -= 1
        return count


def points_of(curve: Curve, *, quick: bool) -> Iterator[FrontPoint | BackPoint]:
    """What is measured for a curve, in order. A quick look takes less of all."""
    for at in curve.quick if quick else curve.points:
        match curve.name:
            case "payload-size-front":
                yield FrontPoint(curve=curve.name, at=at, payloads=1, payload_bytes=at)
            case "payloads-a-request":
                yield FrontPoint(curve=curve.name, at=at, payloads=at, payload_bytes=SMALL)
            case "payload-size-back":
                most, volume = (60_000, 32_000_000) if quick else (600_000, 256_000_000)
                records = _even(min(most, volume // at), PARTITIONS)
                yield BackPoint(curve=curve.name, at=at, records=records, payload_bytes=at)
            case "consumers":
                records = 120_000 if quick else 1_200_000
                yield BackPoint(curve=curve.name, at=at, records=records, consumers=at, chunks_a_partition=10)
            case "s3-latency":
                records = 120_000 if quick else 1_200_000
                yield BackPoint(curve=curve.name, at=at, records=records, late_ms=at, chunks_a_partition=10)
            case "partitions":
                yield BackPoint(curve=curve.name, at=at, records=60_000 if quick else 600_000, partitions=at)
            case _:
                raise AssertionError(curve.name)


def _even(records: int, partitions: int) -> int:
    """So many that each partition has the same, one at least."""
    return max(1, records // partitions) * partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One point, measured once.

    `count` records or requests took `used`: "headrace" is the endpoint or all consumers together, beside it "kafka" and
    "s3" where they run for us. What it took to start is not in it, but in `start_cpu_seconds`; memory is the largest
    process', from its start. `second` is records or requests a second, `upload_ms` a chunk's way to S3 on average,
    `troubles` requests that were not taken.
    """

    curve: str
    at: int
    round: int
    count: int
    bytes_each: int
    used: dict[str, Usage]
    second: float
    start_cpu_seconds: float
    objects: int | None
    upload_ms: float | None
    troubles: int
    noise: float

    def cpu_us(self, process: str = "headrace") -> float | None:
        """CPU time a record or request."""
        usage = self.used.get(process)
        return usage.cpu_seconds * MICRO / self.count if usage is not None and self.count else None

    def cpu_ns_byte(self) -> float | None:
        """CPU time a byte of payload."""
        each = self.cpu_us()
        return None if each is None else each * 1000 / self.bytes_each

    @property
    def megabytes_second(self) -> float:
        """Payloads, in millions of bytes a second."""
        return self.second * self.bytes_each / 1e6

    @property
    def rss_mib(self) -> float | None:
        return self.used["headrace"].rss_peak_mib

    def as_json(self) -> dict[str, Any]:
        """As it was measured, with what was worked out from it beside."""
        return asdict(self) | {
            "cpu_us": {name: self.cpu_us(name) for name in self.used},
            "cpu_ns_byte": self.cpu_ns_byte(),
            "megabytes_second": self.megabytes_second,
        }


def rate(looks: Sequence[tuple[float, int]]) -> float:
    """Records a second until RATE_SHARE of them was durable, between two looks on a straight line; 0 for none."""
    (began, _), goal = looks[0], looks[-1][1] * RATE_SHARE
    for (before, less), (now, more) in itertools.pairwise(looks):
        if more >= goal > less:
            reached = before + (now - before) * (goal - less) / (more - less)
            return goal / (reached - began)
    return 0.0


def upload_ms(told: Iterable[Mapping[str, float]]) -> float | None:
    """What a chunk's way to S3 took on average, from all consumers' metrics; None where nothing was stored."""
    sums = [
        (each["headrace_consumer_upload_seconds_sum"], each["headrace_consumer_upload_seconds_count"]) for each in told
    ]
    count = sum(count for _, count in sums)
    return sum(seconds for seconds, _ in sums) * 1000 / count if count else None


Amount = tuple[str, "Callable[[Reading], float | None]", int]
"""A column's name, what stands in it, and its digits behind the point."""


def amounts(curve: Curve) -> list[Amount]:
    """What is told of each of a curve's points, in medians over the rounds."""
    each = "record" if curve.half == "back" else "request"
    told: list[Amount] = [
        (f"CPU-µs a {each}", Reading.cpu_us, 2),
        ("ns a byte", Reading.cpu_ns_byte, 2),
        ("Kafka µs", lambda reading: reading.cpu_us("kafka"), 2),
        ("S3 µs", lambda reading: reading.cpu_us("s3"), 2),
        (f"{each}s/s", lambda reading: reading.second, 0),
        ("MB/s", lambda reading: reading.megabytes_second, 1),
        ("RSS MiB", lambda reading: reading.rss_mib, 0),
        ("start CPU s", lambda reading: reading.start_cpu_seconds, 2),
        ("objects", lambda reading: reading.objects, 0),
        ("upload ms", lambda reading: reading.upload_ms, 0),
    ]
    return (
        told
        if curve.half == "back"
        else [amount for amount in told if amount[0] not in {"S3 µs", "objects", "upload ms"}]
    )


def line_of(curve: Curve, readings: Iterable[Reading], amount: Amount) -> list[tuple[int, float]]:
    """One amount along a curve, where it is known: (at, median)."""
    _, read, _ = amount
    held = [reading for reading in readings if reading.curve == curve.name]
    line = []
    for at in sorted({reading.at for reading in held}):
        value = middle(read(reading) for reading in held if reading.at == at)
        if value is not None:
            line.append((at, value))
    return line
