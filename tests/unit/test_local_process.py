"""Children never outlive their parent, and only what is ours is ended."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from headrace.local.process import MAX_LOG_BYTES, Child, Deadline, end_leftover, last_lines

if TYPE_CHECKING:
    from pathlib import Path

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]


def make(tmp_path: Path, *code: str) -> Child:
    return Child("it", [sys.executable, "-c", *code] if code else SLEEP, log=tmp_path / "it.log", cwd=tmp_path)


def wait_for(log: Path, words: str) -> None:
    end = time.monotonic() + 10
    while words not in last_lines(log, 100):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux'")
def test_a_child_dies_with_its_parent_by_kill_9(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from headrace.local.process import Child
here = Path({str(tmp_path)!r})
print(Child("it", {SLEEP!r}, log=here / "it.log", cwd=here).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(tmp_path / "it.log", "here")
        assert child.is_running()
        parent.kill()
    child.wait(5)


def test_a_child_stays_when_the_thread_that_asked_for_it_ends(tmp_path: Path) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        child = pool.submit(make, tmp_path).result()
        wait_for(child.log, "here")  # from now on it would notice
    try:
        assert not child.wait(0.3)
    finally:
        child.kill()
    assert child.exit_code == -9


def test_stopping_waits_for_an_orderly_end_and_kills_the_stubborn(tmp_path: Path) -> None:
    polite = make(tmp_path)
    wait_for(polite.log, "here")
    assert polite.stop(10)
    assert polite.exit_code == -15
    stubborn = make(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    wait_for(stubborn.log, "deaf")
    assert not stubborn.stop(0.2)
    assert stubborn.exit_code == -9


def test_a_paused_child_goes_on(tmp_path: Path) -> None:
    child = make(tmp_path)
    try:
        wait_for(child.log, "here")
        child.pause()
        process = psutil.Process(child.pid)
        end = time.monotonic() + 5
        while process.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end
        child.resume()
        while process.status() == psutil.STATUS_STOPPED:
            assert time.monotonic() < end
    finally:
        child.kill()


def test_the_log_shows_this_run_only_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    log.write_text("of the run before\n")
    child = make(tmp_path, "print('one'); print('two')")
    assert child.wait(10)
    assert child.last_lines() == "one\ntwo"
    assert child.last_lines(1) == "two"
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    child = make(tmp_path, "print('three')")
    assert child.wait(10)
    assert log.read_text() == "three\n"
    assert (tmp_path / "it.1.log").stat().st_size > MAX_LOG_BYTES
    assert last_lines(tmp_path / "none.log", 5) == ""


def test_a_leftover_is_ended_a_stranger_with_its_number_is_not(tmp_path: Path) -> None:
    child = make(tmp_path)
    try:
        wait_for(child.log, "here")
        assert not end_leftover(child.pid, child.started - 60)
        assert child.running
        assert end_leftover(child.pid, child.started)
        assert child.wait(5)
        assert not end_leftover(child.pid, child.started)
    finally:
        child.kill()


def test_a_paused_and_a_stubborn_leftover_are_ended_too(tmp_path: Path) -> None:
    child = make(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    try:
        wait_for(child.log, "deaf")
        child.pause()
        assert end_leftover(child.pid, child.started, timeout=0.2)
        assert child.wait(5)
    finally:
        child.kill()


def test_a_deadline_is_shared() -> None:
    assert Deadline(0).passed
    assert 0 < Deadline(60).remaining <= 60
