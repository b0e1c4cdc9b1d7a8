"""The arithmetic on what was measured, and the tables made of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import orjson
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.figures import OURS, BackRun, Figures, FrontRun, WholeRun, middle, percentile
from headrace.bench.load import Answers
from headrace.bench.report import markdown, noise, sheets
from headrace.bench.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

MACHINE = {
    "date": "2026-11-22 01:02 UTC",
    "commit": "abc123",
    "headrace": "0.1.0",
    "cpu": "A Processor",
    "cores": 2,
    "memory_gib": 4,
    "system": "Linux 6",
    "python": "3.11.7",
    "settings": {"KAFKA_COMPRESSION": "none"},
    "packages": {"uvicorn": "1", "absent": None},
}


def answers(requests: int = 1000, seconds: float = 2.0, failures: int = 0) -> Answers:
    return Answers("wrk", seconds, requests, failures, 0, 1.0, 5.0, 9.0, 12.0)


def front(subject: str, number: int, cpu_seconds: float, *, payloads: int = 10, failures: int = 0) -> FrontRun:
    used = {"server": Usage(cpu_seconds, 50_000, 40.0 + number, 1), "kafka": Usage(0.02, None, 300.0, 1)}
    return FrontRun(
        subject=subject,
        round=number,
        payloads=payloads,
        payload_bytes=220,
        connections=64,
        answers=answers(failures=failures),
        used=used,
        generator_cpu_seconds=0.01,
        noise=0.25,
    )


def back(subject: str, number: int, cpu_seconds: float) -> BackRun:
    return BackRun(
        subject=subject,
        round=number,
        records=100_000,
        record_bytes=220,
        partitions=12,
        seconds=4.0,
        used={"consumer": Usage(cpu_seconds, None, 100.0, 1)},
        start_cpu_seconds=0.5,
        stored_bytes=2_200_000,
        noise=0.0,
    )


def whole(to_s3: Sequence[float], unseen: int = 0) -> WholeRun:
    return WholeRun(
        round=1,
        rate=500.0,
        payloads=10,
        payload_bytes=220,
        flush_seconds=2.0,
        answers=answers(),
        to_s3=list(to_s3),
        unseen=unseen,
        carried=20_000,
        used={"server": Usage(0.2, None, 50.0, 1), "consumer": Usage(0.1, None, 90.0, 1)},
        generator_cpu_seconds=0.05,
        noise=0.5,
    )


@given(values=st.lists(st.floats(0, 1e6), min_size=1), share=st.sampled_from([0.0, 0.5, 0.99, 0.999, 1.0]))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    needed = math.ceil(share * len(values))
    naive = next(value for value in ordered if sum(each <= value for each in ordered) >= needed)
    assert percentile(ordered, share) == naive


def test_of_nothing_there_is_no_percentile_and_no_middle() -> None:
    assert percentile([], 0.99) == 0.0
    assert middle([None, None]) is None
    assert middle([3.0, None, 1.0]) == 2.0


def test_costs_are_microseconds_for_each() -> None:
    run = front(OURS, 1, 0.05)
    assert run.cpu_us_request() == 50.0
    assert run.cpu_us_payload() == 5.0
    assert run.cpu_us_request("kafka") == 20.0
    assert run.cpu_us_request("s3") is None
    assert run.requests_second == 500.0
    archived = back(OURS, 1, 0.75)
    assert archived.cpu_us_record() == 7.5
    assert archived.cpu_us_record_running == 2.5
    assert whole([1.0]).cpu_us_payload("server") == 10.0


def test_ratios_are_taken_within_a_round() -> None:
    figures = Figures(front=[front(OURS, 1, 0.04), front("peer", 1, 0.05), front("peer", 2, 0.1), front(OURS, 2, 0.12)])
    assert figures.ratios() == [("front", 10, "peer", 1.0, [0.8, 1.2])]


def test_ratios_keep_sizes_apart_and_leave_out_rounds_without_both() -> None:
    runs = [front(OURS, 1, 0.04, payloads=1), front("peer", 1, 0.08, payloads=10), front("peer", 1, 0.08, payloads=1)]
    figures = Figures(front=runs, back=[back(OURS, 1, 0.3), back("reader", 1, 0.6), back("reader", 2, 0.6)])
    assert figures.ratios() == [("front", 1, "peer", 0.5, [0.5]), ("back", 220, "reader", 0.5, [0.5])]


def test_json_holds_every_run() -> None:
    figures = Figures(
        front=[front(OURS, 1, 0.05), front(OURS, 2, 0.05)], back=[back(OURS, 1, 0.3)], whole=[whole([1.0, 2.5])]
    )
    told = orjson.loads(orjson.dumps(figures.as_json()))
    assert [run["round"] for run in told["front"]] == [1, 2]
    assert told["front"][0]["cpu_us_request"] == {"server": 50.0, "kafka": 20.0}
    assert told["front"][0]["answers"]["p99_ms"] == 5.0
    assert told["back"][0]["records_second"] == 25_000
    assert told["together"][0]["post_to_s3_seconds"]["p99"] == 2.5


def test_tables_show_medians_the_worst_memory_and_every_failure() -> None:
    runs = [front(OURS, 1, 0.04, failures=3), front(OURS, 2, 0.08), front(OURS, 3, 0.05, failures=4)]
    speed, costs = sheets(Figures(front=runs))
    assert speed.rows == [[OURS, "10", "500", "5,000", "1.0", "5.0", "9.0", "7", "0"]]
    assert costs.rows == [[OURS, "10", "50.0", "40.0-80.0", "5.00", "20.0", "10.0", "43", "5"]]


def test_every_table_has_a_cell_for_each_column() -> None:
    figures = Figures(
        front=[front(OURS, 1, 0.05), front("peer", 1, 0.1)], back=[back(OURS, 1, 0.3)], whole=[whole([], unseen=2)]
    )
    found = sheets(figures)
    assert len(found) == 6
    for sheet in found:
        assert {len(row) for row in sheet.rows} == {len(sheet.columns)}


def test_a_section_says_when_on_what_and_how() -> None:
    figures = Figures(front=[front(OURS, 1, 0.05)], whole=[whole([1.0])])
    text = markdown(figures, MACHINE, "Apache Kafka 4.3.1 on the same machine", "headrace bench")
    assert text.startswith(
        "## 2026-11-22 01:02 UTC, commit abc123\n\n`KAFKA_COMPRESSION=none headrace bench`. A Processor, 2 cores"
    )
    assert "Python 3.11.7; uvicorn 1. Apache Kafka 4.3.1 on the same machine. Others took 38%" in text
    assert "| headrace | 10 | 500 | 5,000 |" in text
    assert noise(figures) == 0.375
