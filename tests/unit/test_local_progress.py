"""What is shown while parts are fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.local.progress import Bar, Lines, for_terminal

if TYPE_CHECKING:
    import pytest


def test_a_pipe_gets_a_line_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    progress = for_terminal(terminal=False)
    for done in range(0, 40_000_001, 1_000_000):
        progress.fetched("Kafka", done, 40_000_000)
    progress.say("done")
    assert capsys.readouterr().err.splitlines() == [
        *(f"  Kafka: {megabytes} of 40 MB" for megabytes in (0, 10, 20, 30, 40)),
        "done",
    ]


def test_a_terminal_gets_its_cursor_back_though_a_fetch_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    progress = for_terminal(terminal=True)
    progress.fetched("Kafka", 1, 40)
    progress.say("[no markup]")
    progress.close()
    shown = capsys.readouterr().err
    assert "[no markup]" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


def test_nobody_who_looks_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("click.echo", broken)
    Lines().say("hello?")
    monkeypatch.setattr("rich.console.Console.print", broken)
    Bar().say("hello?")
