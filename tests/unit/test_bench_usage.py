"""CPU time counts for a process and all of its children, those that have ended too."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from headrace.bench.usage import Meter, read_usage
from headrace.errors import HeadraceError

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def parent_of(children: str) -> subprocess.Popen[bytes]:
    """A process that does so, says so, and stays until its standard input is closed."""
    program = f"import subprocess, sys\nburn = {BURN!r}\n{children}\nprint('done', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.communicate()


def test_children_that_have_ended_count() -> None:
    process = parent_of("subprocess.run([sys.executable, '-c', burn], check=True)")
    usage = read_usage(process.pid)
    end(process)
    assert usage.cpu_seconds > 0.28
    assert usage.processes == 1


def test_children_that_run_count_with_their_memory() -> None:
    big = "data = bytearray(60_000_000)\\nprint(1, flush=True)\\nimport sys\\nsys.stdin.read()"
    process = parent_of(
        f"child = subprocess.Popen([sys.executable, '-c', burn + '{big}'], stdin=subprocess.PIPE, "
        "stdout=subprocess.PIPE)\nchild.stdout.readline()"
    )
    usage = read_usage(process.pid)
    end(process)
    assert usage.cpu_seconds > 0.28
    assert usage.processes == 2
    assert usage.rss_peak_mib is None or usage.rss_peak_mib > 57


def test_threads_count() -> None:
    process = parent_of(
        "import threading\nthread = threading.Thread(target=exec, args=(burn,))\nthread.start(); thread.join()"
    )
    usage = read_usage(process.pid)
    end(process)
    assert usage.cpu_seconds > 0.28


def test_a_process_that_is_gone_is_said() -> None:
    process = parent_of("")
    end(process)
    with pytest.raises(HeadraceError, match="ended while it was measured"):
        read_usage(process.pid)


def test_a_meter_counts_from_its_making_and_leaves_out_what_is_elsewhere() -> None:
    process = parent_of("exec(burn)")
    meter = Meter({"busy": process.pid, "elsewhere": None})
    used = meter.read()
    end(process)
    assert used.keys() == {"busy"}
    assert used["busy"].cpu_seconds < 0.1


def test_a_meter_tells_what_ended_children_took_and_that_this_is_no_noise() -> None:
    meter = Meter({})
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert meter.children_seconds() > 0.28
    assert time.monotonic() >= began
    assert 0 <= meter.noise({}) <= 1.1
