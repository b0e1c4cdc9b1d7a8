"""A process that dies while it is measured is said, with its last words, and at once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from headrace.bench.place import Place
from headrace.bench.subject import LOOPBACK, build_go_peer, floor, running, wait_until_ready, why_no_go_peer
from headrace.bench.usage import read_usage
from headrace.errors import HeadraceError
from headrace.local.ports import free_ports
from headrace.settings import KafkaSettings

if TYPE_CHECKING:
    from pathlib import Path

DIES = [sys.executable, "-c", "import sys; sys.exit('no such luck')"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(KafkaSettings(), None, own=False, folder=tmp_path)


async def test_one_that_ends_instead_of_coming_up_is_not_waited_for(place: Place) -> None:
    began = time.monotonic()
    with pytest.raises(HeadraceError, match=r"(?s)dying ended instead of coming up.*no such luck"):
        async with running(place, "dying", DIES, {}) as process:
            await wait_until_ready(process, f"http://{LOOPBACK}:{free_ports(1)[0]}/readyz")
    assert time.monotonic() - began < 10


async def test_one_that_is_killed_meanwhile_is_said(place: Place) -> None:
    async def measure() -> None:
        async with running(place, "killed", [sys.executable, "-c", "import time; time.sleep(60)"], {}) as process:
            psutil.Process(process.pid).kill()
            while process.alive():
                time.sleep(0.01)  # the kernel's business, a moment

    with pytest.raises(HeadraceError, match=r"ended by itself \(-9\)"):
        await measure()


async def test_the_floor_answers_and_is_gone_afterwards(place: Place) -> None:
    async with floor(place) as endpoint:
        assert endpoint.pid is not None
        assert read_usage(endpoint.pid).cpu_seconds > 0
    assert not psutil.pid_exists(endpoint.pid)


def test_why_the_go_peer_does_not_take_part(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no Go program" in (why_no_go_peer(place, tmp_path) or "")
    (tmp_path / "go.mod").write_text("module peer\n")
    monkeypatch.setenv("PATH", "")
    assert "no Go on PATH" in (why_no_go_peer(place, tmp_path) or "")


async def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, source = tmp_path / "tools", tmp_path / "source"
    tools.mkdir()
    source.mkdir()
    (tools / "go").write_text("#!/bin/sh\necho 'main.go:1: no such thing'; exit 1\n")
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(HeadraceError, match="no such thing"):
        await build_go_peer(source, tmp_path)
