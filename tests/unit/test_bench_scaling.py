"""The scaling curves: which points they have, what is worked out of readings, the late proxy, the plots."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.curves import CURVES, BackPoint, FrontPoint, Reading, amounts, line_of, points_of, rate, upload_ms
from headrace.bench.figures import Figures
from headrace.bench.plots import decades, draw, short
from headrace.bench.report import noise, sheets
from headrace.bench.scaling import chosen_curves
from headrace.bench.slow_replies import slow_replies
from headrace.bench.usage import Usage
from headrace.cli import app
from headrace.errors import HeadraceError
from producer.settings import ProducerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BY_NAME = {curve.name: curve for curve in CURVES}


def reading(
    curve: str, at: int, cpu_seconds: float = 1.0, *, count: int = 1_000_000, number: int = 1, troubles: int = 0
) -> Reading:
    used = {"headrace": Usage(cpu_seconds, None, 150.0, 1), "kafka": Usage(0.5, None, 800.0, 1)}
    return Reading(
        curve=curve,
        at=at,
        round=number,
        count=count,
        bytes_each=220,
        used=used,
        second=500_000.0,
        start_cpu_seconds=0.6,
        objects=12,
        upload_ms=31.4,
        troubles=troubles,
        noise=0.25,
    )


def test_an_upload_takes_what_all_consumers_say() -> None:
    names = ("headrace_consumer_upload_seconds_sum", "headrace_consumer_upload_seconds_count")
    told = [dict(zip(names, each, strict=True)) for each in ((3.0, 10.0), (0.0, 0.0), (1.0, 6.0))]
    assert upload_ms(told) == 250
    assert upload_ms(told[1:2]) is None


def test_the_points_are_those_that_are_asked_for() -> None:
    points = {name: [(point.at, point) for point in points_of(curve, quick=False)] for name, curve in BY_NAME.items()}
    assert [point.partitions for _, point in points["partitions"] if isinstance(point, BackPoint)] == [1, 10, 100, 1000]
    assert [point.consumers for _, point in points["consumers"] if isinstance(point, BackPoint)] == [1, 2, 4, 8]
    assert [point.late_ms for _, point in points["s3-latency"] if isinstance(point, BackPoint)] == [0, 50, 200, 500]
    assert [point.payloads for _, point in points["payloads-a-request"] if isinstance(point, FrontPoint)] == [
        1,
        10,
        100,
        1000,
    ]
    sizes = [100, 220, 1_000, 10_000, 100_000, 900_000]
    for name in ("payload-size-back", "payload-size-front"):
        assert [point.payload_bytes for _, point in points[name]] == sizes
    for name, all_points in points.items():
        assert [at for at, _ in all_points] == list(BY_NAME[name].points)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_no_point_waits_for_its_chunks_age_or_asks_for_what_is_refused(name: str, *, quick: bool) -> None:
    for point in points_of(BY_NAME[name], quick=quick):
        if isinstance(point, BackPoint):
            share, rest = divmod(point.records, point.partitions)
            assert rest == 0, "partitions are equal"
            assert share % point.chunk_records == 0, "the last chunk of a partition is full"
            assert point.chunk_records <= 100_000, "no chunk is larger than by default"
            assert math.gcd(point.different, point.partitions) == 1, "each partition gets different records"
            assert point.different * point.payload_bytes <= 17 * 2**20, "they are made in memory"
            assert point.partitions >= point.consumers, "nobody is idle"
        else:
            assert point.body_bytes + 3 * point.payloads + 100 < ProducerSettings(kafka_topic="t").max_length
            assert point.connections * point.body_bytes <= ProducerSettings(kafka_topic="t").memory_budget_bytes / 2


@given(st.lists(st.tuples(st.floats(0.01, 10), st.integers(1, 10_000)), min_size=1, max_size=30))
def test_a_rate_lies_between_the_slowest_and_the_fastest_stretch(steps: list[tuple[float, int]]) -> None:
    looks = [(100.0, 0)]
    for seconds, records in steps:
        looks.append((looks[-1][0] + seconds, looks[-1][1] + records))
    stretches = [records / seconds for seconds, records in steps]
    assert min(stretches) * 0.999 <= rate(looks) <= max(stretches) * 1.001


def test_the_last_tenth_does_not_count_for_the_rate() -> None:
    assert rate([(0.0, 0), (1.0, 450), (2.0, 900), (60.0, 1000)]) == pytest.approx(450)
    assert rate([(0.0, 0)]) == 0.0


def test_costs_are_told_a_record_and_a_byte() -> None:
    one = reading("partitions", 10, cpu_seconds=2.2)
    assert one.cpu_us() == pytest.approx(2.2)
    assert one.cpu_ns_byte() == pytest.approx(10.0)
    assert one.cpu_us("kafka") == pytest.approx(0.5)
    assert one.cpu_us("s3") is None
    assert one.megabytes_second == pytest.approx(110)
    assert one.as_json()["cpu_us"] == {"headrace": pytest.approx(2.2), "kafka": pytest.approx(0.5)}
    assert reading("partitions", 10, count=0).cpu_us() is None


def test_a_line_has_the_median_of_all_rounds() -> None:
    found = [reading("partitions", 1, cost, number=number) for number, cost in enumerate([9.0, 1.0, 2.0], 1)]
    found += [reading("partitions", 10, 3.0), reading("consumers", 1, 7.0)]
    (cost, *_) = amounts(BY_NAME["partitions"])
    assert dict(line_of(BY_NAME["partitions"], found, cost)) == pytest.approx({1: 2.0, 10: 3.0})


def test_tables_tell_each_point_and_what_was_not_taken() -> None:
    figures = Figures(scaling=[reading("payloads-a-request", at, troubles=at) for at in (10, 1)])
    (sheet,) = sheets(figures)
    assert [row[0] for row in sheet.rows] == ["1", "10"]
    assert [row[-1] for row in sheet.rows] == ["1", "10"]
    assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    assert noise(figures) == 0.25
    assert [each["at"] for each in figures.as_json()["scaling"]] == [10, 1]


def test_a_plot_a_curve_is_drawn_and_no_other(tmp_path: Path) -> None:
    found = [reading("s3-latency", at) for at in (0, 50)] + [reading("consumers", 1)]
    files = draw(found, tmp_path / "plots")
    assert sorted(file.name for file in files) == ["scaling-consumers.png", "scaling-s3-latency.png"]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert int.from_bytes(file.read_bytes()[20:24]) == 600


def test_an_axis_spans_a_decade_so_that_noise_is_no_slope() -> None:
    low, high = decades([1.0, 1.1])
    assert high / low == pytest.approx(10)
    low, high = decades([1.0, 1000.0])
    assert low < 1.0 < 1000.0 < high


@pytest.mark.parametrize(
    ("value", "told"), [(0.5, "0.5"), (0, "0"), (220, "220"), (10_000, "10k"), (10_240, "10.2k"), (2e6, "2M")]
)
def test_numbers_on_an_axis_are_short(value: float, told: str) -> None:
    assert short(value) == told


def test_curves_are_chosen_by_name_and_all_without_one() -> None:
    assert chosen_curves(()) == list(CURVES)
    assert [curve.name for curve in chosen_curves({"partitions"})] == ["partitions"]


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that sends everything back, and ends with its caller."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def test_a_late_reply_is_whole_and_not_early() -> None:
    body = bytes(range(256)) * 8192
    async with echo() as server, slow_replies(server, 0.05) as late:
        reader, writer = await connect(late)
        began = time.monotonic()
        writer.write(body)
        first = await reader.readexactly(1)
        assert time.monotonic() - began >= 0.05
        writer.write_eof()
        assert first + await reader.read() == body
        writer.close()


async def test_replies_on_their_way_do_not_wait_for_each_other() -> None:
    async with echo() as server, slow_replies(server, 0.2) as late:
        reader, writer = await connect(late)
        began = time.monotonic()
        for number in range(50):
            writer.write(bytes([number]))
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readexactly(50) == bytes(range(50))
        took = time.monotonic() - began
        writer.close()
    assert 0.2 <= took < 25 * 0.2, "one delay, not fifty"


async def test_callers_that_hold_on_do_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with echo() as server:
        async with asyncio.timeout(10):
            async with slow_replies(server, 60) as late:
                _, writer = await connect(late)
                writer.write(b"x")
                await writer.drain()
        writer.close()
    assert not caplog.records


async def test_a_server_that_is_gone_closes_its_callers() -> None:
    async with echo() as server:
        pass
    async with slow_replies(server, 0) as late:
        reader, writer = await connect(late)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("options", [["--quick"], ["--curve", "partitions"], ["--plots", "somewhere"]])
def test_what_is_about_curves_alone_is_refused_without_them(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", "--only", "front", *options])
    assert isinstance(result.exception, HeadraceError)
    assert "--only scaling" in str(result.exception)


def test_the_thousand_partitions_are_told_before_they_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("S3_BUCKET", "no-such-bucket")
    result = CliRunner().invoke(app, ["bench", "--only", "scaling"], input="n\n")
    assert result.exit_code == 1
    assert "up to 1,000 partitions" in result.stderr
    assert "Topics for the scaling curves: 18," in result.stderr, "each point once"
    assert "s3://no-such-bucket/headrace-bench-" in result.stderr
