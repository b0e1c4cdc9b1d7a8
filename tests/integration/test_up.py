"""`headrace up`: what it starts is ready, and nothing of it stays when it goes, however it goes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from headrace.local.ports import free_ports
from tests.services import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.stack, pytest.mark.slow]

HERE = Path(__file__).parent
KEPT = (
    *("HOME", "PATH", "XDG_CACHE_HOME", "HEADRACE_CACHE"),
    *("HEADRACE_MAVEN_URL", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY"),  # it may be the first to fetch Kafka
)
HEADRACE = [sys.executable, "-c", "from headrace.cli import main; main()"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


class Running:
    """An `up` as a person has it: started, read, sent signals."""

    def __init__(self, folder: Path, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self.data = folder / ".headrace"
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=quiet_environment() | dict(environment or {}),
        )
        self.text = ""

    def read_until(self, words: str, timeout: float = 60) -> str:
        """What it says, up to the line with these words; they must come."""
        assert self.process.stdout is not None
        end = time.monotonic() + timeout
        while words not in self.text:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {words!r} within {timeout} s, but: {self.text}"
            some = os.read(self.process.stdout.fileno(), 65536)
            assert some, f"ended without {words!r}: {self.text}"
            self.text += some.decode()
        return self.text

    def end(self, timeout: float = 30) -> int:
        """Its exit code, and the rest of what it says."""
        rest, _ = self.process.communicate(timeout=timeout)
        self.text += rest.decode()
        return self.process.returncode

    @property
    def parts(self) -> dict[str, psutil.Process]:
        stack = json.loads((self.data / "stack.json").read_bytes())
        return {part["name"]: psutil.Process(part["pid"]) for part in stack["parts"]}

    def log(self, name: str) -> str:
        return (self.data / "logs" / f"{name}.log").read_text()


def quiet_environment() -> dict[str, str]:
    """Of the developer's own settings only those that tell where things are."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(HERE.parents[1])}


@contextlib.contextmanager
def up(folder: Path, *services: str) -> Iterator[Running]:
    runner = str(HERE / "up_with_stand_ins.py")
    with ended(Running(folder, sys.executable, runner, ".headrace", *services)) as running:
        yield running


@contextlib.contextmanager
def ended(running: Running) -> Iterator[Running]:
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


def gone(processes: Any, timeout: float) -> bool:
    """Whether all of them have ended within so many seconds."""
    _, alive = psutil.wait_procs(list(processes), timeout)
    return not alive


def test_from_nothing_to_a_payload_in_s3_and_again_after_kill_9(folder: Path) -> None:
    ports = ("--http-port", str(free_ports(1)[0]), "--partitions", "2")
    with ended(Running(folder, *HEADRACE, "up", *ports, environment={"CHUNK_MAX_SECONDS": "1"})) as running:
        said = running.read_until("Logs are in")
        first, posting = seconds(said), curl_line(said)
        assert post(posting) == {"accepted": 1}
        verified(running, 1)
        parts = running.parts
        running.process.kill()
        assert gone(parts.values(), 30)
    with ended(Running(folder, *HEADRACE, "up", *ports, environment={"CHUNK_MAX_SECONDS": "1"})) as running:
        again = running.read_until("Logs are in")
        assert seconds(again) < 4 * first, "as quick as the first start, but for the log that Kafka looks through"
        assert curl_line(again) == posting
        assert post(posting) == {"accepted": 1}
        verified(running, 2)
        parts = running.parts
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 0
        assert gone(parts.values(), 0)


def seconds(text: str) -> float:
    """How long it took, as `up` tells."""
    return float(text.split("up after ")[1].split(maxsplit=1)[0])


def curl_line(text: str) -> list[str]:
    """The line that `up` offers for pasting."""
    return next(shlex.split(line) for line in text.splitlines() if line.strip().startswith("curl "))


def post(curl: list[str]) -> Any:
    """What pasting the line would do; not every machine has curl."""
    _, _, url, option, header, data, body = curl
    assert (option, data) == ("-H", "-d")
    name, _, value = header.partition(": ")
    answer = httpx.post(url, headers={name: value}, content=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def verified(running: Running, records: int) -> None:
    """Waits until `headrace verify`, in the same folder and without any setting, finds so many records in order."""
    end = time.monotonic() + 30
    while True:
        answer = subprocess.run(
            [*HEADRACE, "verify", "--json"],
            cwd=running.data.parent,
            env=quiet_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(answer.stdout) if answer.stdout.strip() else {}
        partitions = [partition for topic in found.get("topics", ()) for partition in topic["partitions"]]
        if answer.returncode == 0 and sum(each["end"] - each["start"] for each in partitions) == records:
            return
        if running.process.poll() is not None or time.monotonic() > end:
            running.process.kill()
            running.end()
            pytest.fail(f"{answer.stdout}{answer.stderr}\n`up` ({running.process.returncode}) said: {running.text}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_parts_in_order(folder: Path, number: signal.Signals) -> None:
    with up(folder, "producer", "consumer") as running:
        running.read_until("up after")
        parts = running.parts
        assert list(parts) == ["S3", "Kafka", "producer", "consumer"]

        running.process.send_signal(number)
        assert running.end() == 0
        assert gone(parts.values(), 0)
        steps = [line for line in running.text.splitlines() if line.startswith("Stopping")]
        assert steps == ["Stopping the producer …", "Stopping the consumer …", "Stopping S3 and Kafka …"]
        drained = [float(running.log(name).rsplit(maxsplit=1)[1]) for name in ("producer", "consumer")]
        assert drained == sorted(drained)
        assert json.loads((running.data / "stack.json").read_bytes())["parts"] == []


def test_kill_9_leaves_nothing_and_the_next_up_is_ready_soon(folder: Path) -> None:
    with up(folder, "producer", "consumer:stubborn") as running:
        running.read_until("up after")
        parts = running.parts
        running.process.kill()
        assert gone(parts.values(), 30)
    with up(folder, "producer") as running:
        seconds = float(running.read_until("up after").rsplit("up after ", 1)[1].split()[0])
        assert seconds < 10
        assert list(running.parts) == ["S3", "Kafka", "producer"]


def test_what_an_owner_left_behind_is_ended_and_strangers_are_not(folder: Path) -> None:
    data = folder / ".headrace"
    data.mkdir()
    left, stranger = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2))
    try:
        parts = [
            {"name": "Kafka", "pid": left.pid, "started": psutil.Process(left.pid).create_time()},
            {"name": "S3", "pid": stranger.pid, "started": psutil.Process(stranger.pid).create_time() - 60},
        ]
        (data / "stack.json").write_text(json.dumps({"parts": parts}))
        with up(folder) as running:
            running.read_until("up after")
            assert f"Ended Kafka (pid {left.pid}), left over from an earlier run." in running.text
            assert left.wait(5) == -signal.SIGTERM
            assert stranger.poll() is None
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()


def test_a_second_signal_does_not_wait(folder: Path) -> None:
    with up(folder, "consumer:stubborn") as running:
        running.read_until("up after")
        parts = running.parts
        running.process.send_signal(signal.SIGINT)
        running.read_until("Stopping the consumer")
        running.process.send_signal(signal.SIGINT)
        assert running.end(timeout=3) == 0
        assert gone(parts.values(), 0)


def test_a_part_that_does_not_end_in_time_is_killed(folder: Path) -> None:
    with up(folder, "consumer:stubborn") as running:
        running.read_until("up after")
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 0
        assert "The consumer did not end within 5 s: killed." in running.text


def test_a_part_that_dies_is_named_and_the_rest_is_stopped(folder: Path) -> None:
    with up(folder, "producer:dies", "consumer") as running:
        assert running.end() == 1
        assert "headrace: producer ended by itself (exit code 7)" in running.text
        assert "I had enough" in running.text
        assert str(running.data / "logs" / "producer.log") in running.text


def test_kafka_dying_is_told_and_the_rest_is_stopped(folder: Path) -> None:
    with up(folder, "producer") as running:
        running.read_until("up after")
        parts = running.parts
        parts["Kafka"].kill()
        assert running.end() == 1
        assert "headrace: Kafka ended by itself (killed by SIGKILL)" in running.text
        assert gone(parts.values(), 0)


def test_complaints_of_services_are_shown_and_no_more(folder: Path) -> None:
    with up(folder, "producer:complains") as running:
        assert "the well is low" not in running.read_until("up after")  # a start that went well has nothing to tell
        running.read_until("the well is low")
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 0, running.text
        assert "nobody needs to know" not in running.text


def test_one_folder_has_one_owner(folder: Path) -> None:
    with up(folder) as running:
        running.read_until("up after")
        with up(folder) as second:
            assert second.end() == 1
        assert f"runs in {running.data} already (pid {running.process.pid})" in second.text
        assert all(part.is_running() for part in running.parts.values())


def test_a_taken_port_is_told_before_anything_is_started(folder: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        answer = subprocess.run(
            [*HEADRACE, "up", "--http-port", str(port)],
            cwd=folder,
            env=quiet_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert f"The producer can't listen on 127.0.0.1:{port}" in answer.stderr
    assert f"(pid {os.getpid()}) has it" in answer.stderr
    assert f"--http-port {port + 1}" in answer.stderr
    assert not (folder / ".headrace").exists()


def test_stopping_while_kafka_starts_leaves_nothing(folder: Path) -> None:
    with up(folder) as running:
        running.read_until("Starting Kafka and S3")
        children = psutil.Process(running.process.pid).children()
        running.process.send_signal(signal.SIGINT)
        assert running.end(timeout=60) == 0
        assert "up after" not in running.text
        assert gone(children, 0)
