"""Processes that are measured: started for it, ready before it, ended after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from headrace.bench.figures import OURS
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from headrace.bench.place import Place

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
BUILD_SECONDS: Final = 300.0
LOOPBACK: Final = "127.0.0.1"
FLOOR: Final = "uvicorn alone"
GO_PEER: Final = "Go peer"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something that takes POST /payloads. `pid` is None where it does not run here."""

    name: str
    url: str
    pid: int | None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """A child process and its log."""

    name: str
    pid: int
    log: Path
    alive: Callable[[], bool]

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]


@contextlib.asynccontextmanager
async def running(
    place: Place, name: str, command: Sequence[str], settings: Mapping[str, str]
) -> AsyncIterator[Running]:
    """A process with these settings beside the environment's; ended, and killed if need be, with the context."""
    try:
        from headrace.local.process import Child
    except ImportError as error:
        raise HeadraceError(
            f"headrace bench looks after processes with {error.name}, which is missing: pip install {error.name}"
        ) from None
    log = place.folder / f"{name}.log"
    # It works in our folder, so that it finds the same headrace.toml.
    child = Child(name, command, log=log, cwd=Path.cwd(), env={**os.environ, **settings})
    try:
        yield Running(name, child.pid, log, lambda: child.running)
        if not child.running:
            raise HeadraceError(f"{name} ended by itself ({child.exit_code}).")
    except HeadraceError as error:
        if child.running:
            raise
        raise HeadraceError(f"{error} The last words of {name}:\n{child.last_lines()}") from error
    finally:
        await asyncio.to_thread(child.stop, STOP_SECONDS)


async def wait_until_ready(process: Running, url: str, status: int = 200, body: bytes | None = None) -> None:
    """Until `url` answers so: to a GET, or to a POST with `body`. Raises HeadraceError with the process' last words."""
    end = time.monotonic() + READY_SECONDS
    said = "no answer"
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        while time.monotonic() < end and process.alive():
            with contextlib.suppress(httpx.HTTPError):
                answer = await (client.get(url) if body is None else client.post(url, content=body))
                if answer.status_code == status:
                    return
                said = f"{answer.status_code} {answer.text[:200]}"
            await asyncio.sleep(0.02)
    if not process.alive():
        raise HeadraceError(f"{process.name} ended instead of coming up.")
    raise HeadraceError(
        f"{process.name} was not ready within {READY_SECONDS:.0f} s ({said}). Its log:\n{process.last_words()}"
    )


async def read_metrics(url: str) -> dict[str, float]:
    """A process' metrics without labels, by name. Raises HeadraceError when there is no answer."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            answer = (await client.get(url)).raise_for_status()
    except httpx.HTTPError as error:
        raise HeadraceError(f"{url} told no metrics: {error!r}") from error
    families = text_string_to_metric_families(answer.text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def free_port() -> int:
    from headrace.local.ports import free_ports

    return free_ports(1)[0]


def free_ports_in_a_row(count: int) -> range:
    """Ports nobody listens on, one after the other."""
    from headrace.local.ports import is_free

    while True:
        first = free_port()
        if all(is_free(port) for port in range(first, first + count)):
            return range(first, first + count)


@contextlib.asynccontextmanager
async def headrace_producer(place: Place, topic: str, *, workers: int = 1) -> AsyncIterator[Endpoint]:
    """`python -m producer`, with the environment's settings."""
    port, *own = free_ports_in_a_row(1 + workers)  # one for each worker: on the shared port nobody knows who answers
    settings = {"KAFKA_TOPIC": topic, "HTTP_HOST": LOOPBACK, "HTTP_PORT": str(port)}
    settings |= {"MANAGEMENT_HOST": LOOPBACK, "MANAGEMENT_PORT": str(own[0]), "WORKERS": str(workers)}
    async with running(place, "producer", [sys.executable, "-m", "producer"], settings) as process:
        for management in own:
            await wait_until_ready(process, f"http://{LOOPBACK}:{management}/readyz")
        await wait_until_ready(process, f"http://{LOOPBACK}:{port}/readyz")
        yield Endpoint(OURS, f"http://{LOOPBACK}:{port}/payloads", process.pid)


@contextlib.asynccontextmanager
async def floor(place: Place) -> AsyncIterator[Endpoint]:
    """An ASGI app that reads the body and answers: what uvicorn costs before anybody does anything."""
    port = free_port()
    command = [sys.executable, "-m", "headrace.bench.floor", "http", str(port)]
    async with running(place, "floor", command, {}) as process:
        url = f"http://{LOOPBACK}:{port}/payloads"
        await wait_until_ready(process, url, body=b"{}")
        yield Endpoint(FLOOR, url, process.pid)


@contextlib.asynccontextmanager
async def go_peer(place: Place, source: Path, topic: str) -> AsyncIterator[Endpoint]:
    """The Go program of that folder, built and started: flags -addr, -brokers and -topic, POST /payloads."""
    program = await build_go_peer(source, place.folder)
    port = free_port()
    brokers = ",".join(place.kafka.kafka_bootstrap_servers)
    command = [str(program), "-addr", f"{LOOPBACK}:{port}", "-brokers", brokers, "-topic", topic]
    async with running(place, "go-peer", command, {}) as process:
        url = f"http://{LOOPBACK}:{port}/payloads"
        await wait_until_ready(process, url, body=b'{"version":"1","token":"bench","data":[]}')
        yield Endpoint(GO_PEER, url, process.pid)


def why_no_go_peer(place: Place, source: Path) -> str | None:
    """A sentence why it can't take part; None when it can."""
    if not (source / "go.mod").is_file():
        return f"there is no Go program in {source}"
    if shutil.which("go") is None:
        return "there is no Go on PATH to build it"
    if place.kafka.kafka_security_protocol != "PLAINTEXT":
        return f"it can't talk {place.kafka.kafka_security_protocol} to Kafka"
    return None


async def build_go_peer(source: Path, folder: Path) -> Path:
    """The program, built into `folder`; the source's own folder is left as it is."""
    program = folder / "go-peer"
    if program.exists():
        return program
    build = await asyncio.create_subprocess_exec(
        "go",
        "build",
        "-o",
        str(program),
        ".",
        cwd=source,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(BUILD_SECONDS):
            said, _ = await build.communicate()
    except TimeoutError:
        raise HeadraceError(f"go build in {source} took more than {BUILD_SECONDS:.0f} s.") from None
    finally:
        if build.returncode is None:
            build.kill()
            await build.wait()
    if build.returncode != 0:
        raise HeadraceError(f"go build in {source} failed:\n{said.decode(errors='replace')[-2000:]}")
    return program
