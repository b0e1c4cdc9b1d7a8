"""The load generators count every answer, keep their rate, and let no stall of the server hide."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from headrace.bench import load
from headrace.bench.load import Load, run_load, tool_for
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOOLS = ["own generator", *(["wrk"] if shutil.which("wrk") else [])]
NASTY = b'{"data":["]]","]=]",{"a":"\\\\n%d"}]}'


@dataclass
class Server:
    """Answers POSTs as it is told, and remembers what came."""

    status: bytes = b"200 OK"
    close: bool = False
    stall_once_seconds: float = 0
    bodies: Counter[bytes] = field(default_factory=Counter)
    heads: list[bytes] = field(default_factory=list)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.bodies[await reader.readexactly(length)] += 1
                self.heads.append(head)
                if self.stall_once_seconds:
                    pause, self.stall_once_seconds = self.stall_once_seconds, 0
                    await asyncio.sleep(pause)
                extra = b"Connection: close\r\n" if self.close else b""
                writer.write(b"HTTP/1.1 %b\r\n%bContent-Length: 2\r\n\r\nok" % (self.status, extra))
                await writer.drain()
                if self.close:
                    break
        writer.close()


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/payloads?a=b"
    try:
        yield server
    finally:
        listening.close()


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each generator that can be had here."""
    if request.param == "own generator":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    assert isinstance(request.param, str)
    return request.param


async def test_as_fast_as_answers_come(tool: str) -> None:
    async with serving(Server()) as server:
        asked = Load(server.url, [b"one", NASTY], 4, 1, headers={"X-Own": "a]]b"})
        answers = await run_load(asked)
    assert answers.tool == tool_for(asked) == tool
    assert (answers.failures, answers.errors) == (0, 0)
    # What is in flight at the end may be counted on one side only.
    assert answers.requests == pytest.approx(server.bodies.total(), abs=4)
    assert answers.requests > 50
    assert server.bodies.keys() == {b"one", NASTY}
    assert server.bodies[b"one"] == pytest.approx(server.bodies[NASTY], abs=4)
    assert 0 < answers.p50_ms <= answers.p99_ms <= answers.p999_ms <= answers.max_ms
    assert answers.seconds > 0.9
    assert server.heads[0].startswith(b"POST /payloads?a=b HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in server.heads[0]
    assert b"X-Own: a]]b\r\n" in server.heads[0]


async def test_refusals_are_counted(tool: str) -> None:
    async with serving(Server(status=b"503 Service Unavailable")) as server:
        answers = await run_load(Load(server.url, [b"x"], 2, 1))
    assert answers.tool == tool
    assert answers.failures == answers.requests > 0


async def test_a_rate_is_kept() -> None:
    async with serving(Server()) as server:
        answers = await run_load(Load(server.url, [b"x"], 4, 0.5, rate=400))
    assert answers.tool == "own generator"
    assert answers.requests == server.bodies.total() == pytest.approx(200, abs=3)


async def test_a_stall_shows_in_all_requests_that_were_due_meanwhile() -> None:
    async with serving(Server(stall_once_seconds=0.4)) as server:
        answers = await run_load(Load(server.url, [b"x"], 1, 0.5, rate=100))
    assert answers.requests == pytest.approx(50, abs=2)
    assert answers.max_ms >= 390
    assert answers.p50_ms > 50  # a generator that waited for the answer would see one slow request


async def test_a_server_that_closes_connections_gets_new_ones() -> None:
    async with serving(Server(close=True)) as server:
        answers = await run_load(Load(server.url, [b"x"], 2, 0.5, rate=100))
    assert answers.requests == pytest.approx(50, abs=2)
    assert answers.errors == 0


async def test_nobody_there_is_said(tool: str) -> None:
    async with serving(Server()) as server:
        url = server.url
    with pytest.raises(HeadraceError, match=r"The load generator .* failed"):
        await run_load(Load(url, [b"x"], 2, 1))
    del tool


def test_the_script_for_wrk_holds_bodies_whatever_is_in_them() -> None:
    script = load.wrk_script(Load("http://x", [b"plain", b"a]]b", b"ends]"], 1, 1))
    assert "[[plain]]" in script
    assert "[=[a]]b]=]" in script
    assert "[=[ends]]=]" in script
