"""`headrace bench --only formats`: each subject in a process of its own, and a table of them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from headrace.bench import formats
from headrace.bench.formats import SUBJECTS, FormatRun, format_line, format_sheet, measure_formats
from headrace.cli import app
from headrace.errors import HeadraceError


def test_subjects_are_measured_in_processes_of_their_own() -> None:
    chosen = ["raw, zstd", "pyarrow alone: read_json, zstd"]
    assert set(chosen) < set(SUBJECTS)
    runs = list(measure_formats(record_bytes=[220], rounds=1, most_records=1000, subjects=chosen))
    assert [(run.subject, run.round, run.records, run.record_bytes) for run in runs] == [
        (subject, 1, 1000, 220) for subject in chosen
    ]
    for run in runs:
        assert run.cpu_us_record > 0
        assert 0.05 < run.stored_share < 0.6
        assert run.rss_peak_mib > 10


def test_one_that_fails_is_told() -> None:
    with pytest.raises(HeadraceError, match="no such could not be measured"):
        list(measure_formats(record_bytes=[220], rounds=1, most_records=1, subjects=["no such"]))


def test_the_table_has_medians_by_size() -> None:
    runs = [
        FormatRun(
            subject="a",
            round=number,
            records=10,
            record_bytes=size,
            cpu_us_record=cost,
            stored_bytes=size,
            rss_peak_mib=50.0,
        )
        for size in (1024, 220)
        for number, cost in enumerate([3.0, 1.0, 2.0])
    ]
    rows = format_sheet(runs).rows
    assert [row[:4] for row in rows] == [["a", "220 B", "2.00", "1.00-3.00"], ["a", "1,024 B", "2.00", "1.00-3.00"]]
    assert rows[0][4:] == ["22.0", "10.0%", "50"]
    assert format_line(runs[0]) == "formats 0: a, 1024 B: 3.00 CPU-µs a record, 10.0% stored, 50 MiB"
    assert runs[0].as_json()["stored_share"] == 0.1


def test_the_command_needs_no_kafka_and_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FormatRun(
        subject="a", round=1, records=10, record_bytes=220, cpu_us_record=1.0, stored_bytes=9, rss_peak_mib=5.0
    )
    monkeypatch.setattr(formats, "measure_formats", lambda **_: iter([run]))
    result = CliRunner().invoke(app, ["bench", "--only", "formats"])
    assert result.exit_code == 0, result.output
    assert "µs/record" in result.stdout
    result = CliRunner().invoke(app, ["bench", "--only", "formats", "--json", "-"])
    assert '"stored_share"' in result.stdout
    result = CliRunner().invoke(app, ["bench", "--only", "formats", "--only", "back"])
    assert "goes by itself" in str(result.exception)
