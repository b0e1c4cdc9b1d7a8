"""What is freed goes back, but not at every turn."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from consumer import memory

if TYPE_CHECKING:
    import pytest


def test_now_and_then() -> None:
    now = 100.0
    trimmed: list[int] = []
    trimmer = memory.Trimmer(lambda: now)
    trimmer._trim = trimmed.append
    trimmer()
    trimmer()
    assert trimmed == [0]
    now += memory.PAUSE_SECONDS
    trimmer()
    assert trimmed == [0, 0]


def test_without_the_gnu_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(_: Any) -> Any:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    memory.Trimmer()()
