"""Which log lines of a service a person gets to see at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.local.follow import Follower, SevereLines

if TYPE_CHECKING:
    from pathlib import Path


def shown(*lines: str) -> list[str]:
    severe = SevereLines()
    return [line for line in lines if severe.wants(line)]


def test_warnings_and_worse() -> None:
    info = "2026-11-22 15:00:00,000 INFO    consumer.runner: ERROR is only a word here"
    warning = "2026-11-22 15:00:00,000 WARNING consumer.lane: slow"
    assert shown(info, warning, info) == [warning]


def test_a_traceback_goes_with_its_line() -> None:
    error = "2026-11-22 15:00:00,000 ERROR   producer: broken"
    trace = ["Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: no"]
    info = "2026-11-22 15:00:00,000 INFO    producer: going on"
    assert shown(info, "of the info", error, *trace, "", info, "of the info") == [error, *trace]


def test_json_lines() -> None:
    error = '{"time":"2026-11-22T15:00:00","level":"error","message":"broken"}'
    info = '{"time":"2026-11-22T15:00:00","level":"info","message":"level: error"}'
    assert shown(info, error, info) == [error]


def test_a_crash_before_any_log_line_is_shown() -> None:
    assert shown("headrace: Settings that can't be started with") == ["headrace: Settings that can't be started with"]


def test_following_takes_up_where_it_was_and_waits_for_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = Follower(log, 0)
    assert follower.severe_lines() == []
    log.write_text("one\ntw")
    assert follower.severe_lines() == ["one"]
    assert follower.severe_lines() == []
    with log.open("a") as file:
        file.write("o\n")
    assert follower.severe_lines() == ["two"]
    log.write_text("new\n")  # turned over
    assert follower.severe_lines() == ["new"]
