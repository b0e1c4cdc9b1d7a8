"""Measures how costs grow, point by point; `curves` says which points there are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Final

from headrace.archive import survey
from headrace.bench.back import archiver_command, until_durable
from headrace.bench.curves import CURVES, BackPoint, Curve, FrontPoint, Reading, points_of, rate, upload_ms
from headrace.bench.front import SETTLE_SECONDS
from headrace.bench.load import Load, run_load
from headrace.bench.payloads import make_bodies, make_payloads
from headrace.bench.slow_replies import slow_replies
from headrace.bench.subject import (
    LOOPBACK,
    Running,
    free_ports_in_a_row,
    headrace_producer,
    read_metrics,
    running,
    wait_until_ready,
)
from headrace.bench.usage import Meter, read_usage
from headrace.errors import HeadraceError
from headrace.kafka import LATEST, open_cluster
from headrace.s3 import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from headrace.bench.place import Place
    from headrace.bench.workspace import Workspace
    from headrace.kafka import KafkaCluster

FRONT_KEEP_BYTES: Final = 64 * 1024 * 1024
AGE_SECONDS: Final = 1.0
"""CHUNK_MAX_SECONDS: what is left when memory cut a chunk before its end waits no longer."""
DEALT_SECONDS: Final = 60.0
DEALT_LOOK_SECONDS: Final = 0.1
QUIET_SECONDS: Final = 0.5
"""From the last partition dealt out until records appear: time to ask for them."""
_SHORT, _LONG = (1.0, 1.0), (1.0, 3.0)
"""Seconds of warming up and of load, of a quick look and of a full one."""


def chosen_curves(names: Collection[str]) -> list[Curve]:
    """Those of that name, all when there is none."""
    return [curve for curve in CURVES if not names or curve.name in names]


async def measure_scaling(
    place: Place,
    workspace: Workspace,
    *,
    curves: Collection[str] = (),
    rounds: int = 1,
    quick: bool = False,
    say: Callable[[str], None],
) -> AsyncIterator[Reading]:
    """Every point of these curves once a round. A curve that can't be had here is left out, and `say` is told why."""
    numbers = itertools.count(1)
    topic = None
    for round_number in range(1, rounds + 1):
        for curve in chosen_curves(curves):
            if curve.name == "s3-latency" and (problem := why_not_late(place)) is not None:
                say(f"The curve s3-latency is left out: {problem}.")
                continue
            for point in points_of(curve, quick=quick):
                if isinstance(point, BackPoint):
                    yield await measure_back_point(point, place, workspace, round_number, f"at-{next(numbers)}")
                    continue
                if topic is None:
                    topic = await workspace.topic("front", keep_bytes=FRONT_KEEP_BYTES)
                yield await measure_front_point(point, place, topic, round_number, _SHORT if quick else _LONG)


def why_not_late(place: Place) -> str | None:
    """Why replies of this S3 can't be made late; None when they can."""
    assert place.s3 is not None
    target = place.s3.aws_endpoint_url_s3
    if target is None or not target.startswith("http://"):
        return "a proxy before S3 needs a server that is reached by http:// (AWS_ENDPOINT_URL_S3)"
    return None


async def measure_front_point(
    point: FrontPoint, place: Place, topic: str, number: int, lengths: tuple[float, float]
) -> Reading:
    """A fresh `headrace serve` under as much load as it takes."""
    payloads = make_payloads(point.bodies * point.payloads, point.payload_bytes)
    bodies = make_bodies(payloads, point.payloads, point.bodies)
    warmup, seconds = lengths
    async with headrace_producer(place, topic) as endpoint:
        assert endpoint.pid is not None
        start = read_usage(endpoint.pid).cpu_seconds
        await run_load(Load(endpoint.url, bodies, point.connections, warmup))
        await asyncio.sleep(SETTLE_SECONDS)
        meter = Meter({"headrace": endpoint.pid, **place.servers})
        answers = await run_load(Load(endpoint.url, bodies, point.connections, seconds))
        used = meter.read()
        return Reading(
            curve=point.curve,
            at=point.at,
            round=number,
            count=answers.requests,
            bytes_each=point.body_bytes,
            used=used,
            second=answers.requests / answers.seconds,
            start_cpu_seconds=start,
            objects=None,
            upload_ms=None,
            troubles=answers.failures + answers.errors,
            noise=meter.noise(used),
        )


async def measure_back_point(point: BackPoint, place: Place, workspace: Workspace, number: int, hint: str) -> Reading:
    """Consumers that are up, with their partitions dealt out, when all records appear; until all are durable."""
    assert place.s3 is not None
    space = workspace.of_partitions(point.partitions)
    topic, group, prefix = await space.topic(hint), space.group(hint), f"{space.prefix}/{hint}"
    ports = free_ports_in_a_row(point.consumers)
    settings = {
        "KAFKA_TOPIC": topic,
        "KAFKA_GROUP": group,
        "KAFKA_ISOLATION_LEVEL": "read_committed",
        "S3_PREFIX": prefix,
        "CHUNK_MAX_RECORDS": str(point.chunk_records),
        "CHUNK_MAX_SECONDS": f"{AGE_SECONDS:g}",
        "MANAGEMENT_HOST": LOOPBACK,
        "MANAGEMENT_PORT": str(ports[0]),
    }
    async with contextlib.AsyncExitStack() as stack:
        if point.late_ms is not None:
            assert place.s3.aws_endpoint_url_s3 is not None
            late = slow_replies(place.s3.aws_endpoint_url_s3, point.late_ms / 1000)
            settings["AWS_ENDPOINT_URL_S3"] = await stack.enter_async_context(late)
        payloads = make_payloads(point.different, point.payload_bytes)
        show = await stack.enter_async_context(space.hidden(topic, payloads, point.records))
        cluster = await stack.enter_async_context(open_cluster(place.kafka))
        partitions = (await cluster.topic(topic)).topic_partitions
        ends = await cluster.log_offsets(partitions, LATEST)  # before the transaction's own marks
        command = archiver_command(point.consumers)
        process = await stack.enter_async_context(running(place, f"consumer-{hint}", command, settings))
        for port in ports:
            await wait_until_ready(process, f"http://{LOOPBACK}:{port}/readyz")
        await dealt_out(cluster, process, group, point)
        start = read_usage(process.pid).cpu_seconds
        meter = Meter({"headrace": process.pid, **place.servers})
        began = time.monotonic()
        await show()
        looks = await until_durable(cluster, process, group, ends)
        used = meter.read()
        noise = meter.noise(used)
        told = [await read_metrics(f"http://{LOOPBACK}:{port}/metrics") for port in ports]
    async with open_store(place.s3) as store:
        found = await survey(store, prefix=prefix, topic=topic)
    return Reading(
        curve=point.curve,
        at=point.at,
        round=number,
        count=point.records,
        bytes_each=point.payload_bytes,
        used=used,
        second=rate([(began, 0), *looks]),
        start_cpu_seconds=start,
        objects=sum(coverage.objects for coverage in found.partitions().values()),
        upload_ms=upload_ms(told),
        troubles=0,
        noise=noise,
    )


async def dealt_out(cluster: KafkaCluster, process: Running, group: str, point: BackPoint) -> None:
    """Until the group has all of its members, and they all partitions. Raises HeadraceError when it takes too long."""
    end = time.monotonic() + DEALT_SECONDS
    while True:
        now = await cluster.group(group)
        given = sum(len(member.partitions) for member in now.members)
        if (now.state, len(now.members), given) == ("Stable", point.consumers, point.partitions):
            break
        if not process.alive():
            raise HeadraceError("The archiver ended instead of joining its group.")
        if time.monotonic() > end:
            raise HeadraceError(
                f"Group {group} has {len(now.members)} of {point.consumers} members and {given} of {point.partitions} "
                f"partitions after {DEALT_SECONDS:.0f} s. The archiver's log:\n{process.last_words()}"
            )
        await asyncio.sleep(DEALT_LOOK_SECONDS)
    await asyncio.sleep(QUIET_SECONDS)


def scaling_line(reading: Reading) -> str:
    """One reading in a line, to be read while the next goes on."""
    cost = reading.cpu_us()
    trouble = f", {reading.troubles} NOT TAKEN" if reading.troubles else ""
    return (
        f"scaling {reading.round}: {reading.curve} {reading.at:,}: {0.0 if cost is None else cost:.2f} CPU-µs each, "
        f"{reading.second:,.0f}/s, {reading.rss_mib or 0:.0f} MiB{trouble}"
    )
