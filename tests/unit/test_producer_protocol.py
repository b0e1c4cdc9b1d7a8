"""Answers leave in one piece, and nothing of them is kept back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
import uvicorn
from uvicorn.server import ServerState

from producer.protocol import (
    HEAD_BYTES,
    LEFTOVER_BYTES,
    READ_BYTES,
    Joined,
    bounded_protocol,
    close_idle,
    end_slow_heads,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
CHUNKED = {"type": "http.response.start", "status": 200, "headers": []}


class Wire:
    """A transport that keeps each write apart, as the kernel would get it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = self.aborted = self.paused = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else None

    def set_protocol(self, protocol: asyncio.BufferedProtocol) -> None:
        self.reader = protocol

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Line:
    """One connection to an app, byte by byte."""

    def __init__(self, app: Callable[..., Any], most: int = 10, state: ServerState | None = None) -> None:
        config = uvicorn.Config(cast("Any", app), lifespan="off", log_config=None, access_log=False, ws="none")
        self.wire = Wire()
        self.protocol = bounded_protocol(most)(config, state or ServerState(), {}, asyncio.get_running_loop())
        self.protocol.connection_made(cast("Any", self.wire))

    async def ask(self, request: bytes) -> list[bytes]:
        before = len(self.wire.writes)
        self.protocol.data_received(request)
        await asyncio.gather(*self.protocol.tasks)
        return self.wire.writes[before:]

    def read(self, content: bytes) -> bytes:
        """What the loop does: reads on until it is paused. Returns what stays with the kernel."""
        while content and not self.wire.paused:
            buffer = cast("memoryview", self.wire.reader.get_buffer(-1))
            count = min(len(content), len(buffer))
            buffer[:count] = content[:count]
            self.wire.reader.buffer_updated(count)
            content = content[count:]
        return content

    def hang_up(self) -> None:
        self.protocol.connection_lost(None)


def answering(*messages: dict[str, Any]) -> Any:
    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in messages:
            await send(message)

    return app


def answering_at_once(*messages: dict[str, Any]) -> Any:
    """It looks at no body."""

    async def app(_: Any, __: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def test_head_and_body_are_one_write_each_time() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    for _ in range(2):
        (answer,) = await line.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok")
    line.hang_up()


async def test_an_answer_without_a_body_does_not_wait() -> None:
    line = Line(answering(HEAD, body(b"")))
    (answer,) = await line.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    line.hang_up()


async def test_an_answer_in_pieces_comes_in_order_and_whole() -> None:
    pieces = [b"one", b"HTTP/1.1 200 OK\r\n\r\n", b"three"]
    line = Line(answering(CHUNKED, *[body(piece, more=True) for piece in pieces], body(b"")))
    written = b"".join(await line.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert [written.count(piece) for piece in pieces] == [1, 1, 1]
    assert written.endswith(b"0\r\n\r\n")
    line.hang_up()


async def test_continue_is_said_at_once() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    line.protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    while not line.wire.writes:
        await asyncio.sleep(0)
    assert line.wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    (answer,) = await line.ask(b"x")
    assert answer.endswith(b"ok")
    line.hang_up()


async def test_the_last_answer_is_out_before_the_connection_ends() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    (answer,) = await line.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"ok")
    assert line.wire.closed
    line.hang_up()


async def test_an_app_that_breaks_after_the_head_has_it_sent_before_the_end(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(answering(HEAD))
    (answer,) = await line.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert line.wire.closed
    line.hang_up()


async def test_one_connection_too_many_is_cut() -> None:
    state = ServerState()
    lines = [Line(answering(HEAD, body(b"ok")), most=2, state=state) for _ in range(3)]
    assert [line.wire.aborted for line in lines] == [False, False, True]
    for line in lines:
        line.hang_up()


async def test_no_more_of_a_body_is_read_than_the_app_asks_for() -> None:
    go_on = asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        content = b"%d" % size
        await send({**HEAD, "headers": [(b"content-length", b"%d" % len(content))]})
        await send(body(content))

    line = Line(app)
    left = line.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    assert len(left) > 1_000_000 - READ_BYTES
    await asyncio.sleep(0)
    assert line.wire.paused, "nobody has asked"
    go_on.set()
    while left:
        await asyncio.sleep(0)
        left = line.read(left)
    await asyncio.gather(*line.protocol.tasks)
    assert line.wire.writes[-1].endswith(b"\r\n\r\n1000000")
    line.hang_up()


async def test_the_rest_of_a_refused_body_is_read_and_forgotten_and_the_next_request_is_answered() -> None:
    line = Line(answering_at_once(HEAD, body(b"no")))
    left = line.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    await asyncio.gather(*line.protocol.tasks)
    assert line.wire.writes[-1].endswith(b"no")
    assert line.read(left) == b""
    line.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    await asyncio.gather(*line.protocol.tasks)
    assert len(line.wire.writes) == 2
    line.hang_up()


async def test_a_head_longer_than_what_is_read_at_a_time() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    assert line.read(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 3 * READ_BYTES + b"\r\n\r\n") == b""
    await asyncio.gather(*line.protocol.tasks)
    assert line.wire.writes[-1].endswith(b"ok")
    line.hang_up()


async def test_requests_that_come_all_at_once_are_answered_in_turn() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    left = line.read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
    while left or line.protocol.tasks:
        await asyncio.gather(*line.protocol.tasks)
        left = line.read(left)
    assert len(line.wire.writes) == 2000
    line.hang_up()


async def test_a_connection_that_asks_no_more_is_closed_after_a_while_and_no_other() -> None:
    state, now = ServerState(), asyncio.get_running_loop().time()
    idle, fresh, asking, busy = (Line(answering(HEAD, body(b"ok")), state=state) for _ in range(4))
    for line in (idle, asking):
        line.read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.gather(*line.protocol.tasks)
    asking.read(b"GET / HTTP/1.1\r\nHo")
    busy.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
    lines = (idle, fresh, asking, busy)
    close_idle(state.connections, now + 4)
    assert not any(line.wire.closed for line in lines)
    close_idle(state.connections, now + 1000)
    assert [line.wire.closed for line in lines] == [True, False, False, False]
    busy.read(b"x")
    await asyncio.gather(*busy.protocol.tasks)
    for line in lines:
        line.hang_up()


async def test_an_answer_starts_no_timer() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    await line.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert line.protocol.timeout_keep_alive_task is None
    assert line.protocol.server_state.total_requests == 1
    line.hang_up()


def problem_of(line: Line) -> str:
    """The name of the problem that was written last."""
    head, _, content = line.wire.writes[-1].partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    told = orjson.loads(content)
    assert head.startswith(b"HTTP/1.1 %d " % told["status"])
    return str(told["type"]).rpartition(":")[2]


async def test_a_head_that_does_not_come_is_408_and_one_that_never_began_is_closed() -> None:
    state = ServerState()
    begun, silent, later, busy = (Line(answering(HEAD, body(b"ok")), state=state) for _ in range(4))
    for line in (later, busy):
        line.read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.gather(*line.protocol.tasks)
    begun.read(b"GET / HTTP/1.1\r\nHo")
    later.read(b"GET /")
    busy.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
    lines = (begun, silent, later, busy)
    for now in (100.0, 101.0, 109.9):
        end_slow_heads(state.connections, now, 10)
        for line in (begun, later):
            line.read(b"x")  # a byte at a time is no help
        assert not any(line.wire.closed for line in lines)
    end_slow_heads(state.connections, 110.0, 10)
    assert [line.wire.closed for line in lines] == [True, True, True, False]
    assert (problem_of(begun), problem_of(later), silent.wire.writes) == ("head-timeout", "head-timeout", [])
    busy.read(b"x")
    await asyncio.gather(*busy.protocol.tasks)
    for line in lines:
        line.hang_up()


async def test_who_asks_again_and_again_is_never_taken_for_slow() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    for second in range(40):
        line.read(b"GET / HTTP/1.1\r\n")
        end_slow_heads([line.protocol], 100.0 + second, 10)
        line.read(b"Host: x\r\n\r\n")
        await asyncio.gather(*line.protocol.tasks)
    assert not line.wire.closed
    line.hang_up()


async def test_the_rest_of_a_refused_body_has_its_time_and_its_bytes() -> None:
    for slowly in (True, False):
        line = Line(answering_at_once(HEAD, body(b"no")))
        line.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nx")
        await asyncio.gather(*line.protocol.tasks)
        assert len(line.wire.writes) == 1
        if slowly:
            for now in (100.0, 105.0, 110.0):
                line.read(b"x")
                end_slow_heads([line.protocol], now, 10)
        else:
            line.read(b"x" * LEFTOVER_BYTES)
            assert not line.wire.closed
            line.read(b"x")
        assert line.wire.closed
        assert len(line.wire.writes) == 1, "it has its answer already"
        line.hang_up()


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"HELO there\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_what_is_no_http_is_told_so(garbage: bytes) -> None:
    line = Line(answering(HEAD, body(b"ok")))
    line.read(garbage)
    assert problem_of(line) == "bad-request"
    assert line.wire.closed
    line.hang_up()


async def test_what_is_no_http_behind_a_request_takes_nothing_of_its_answer() -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await answering(HEAD, body(b"ok"))(scope, receive, send)

    line = Line(app)
    line.read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    line.read(b"garbage\r\n\r\n")
    assert line.wire.writes == []
    assert line.wire.paused
    go_on.set()
    await asyncio.gather(*line.protocol.tasks)
    (written,) = line.wire.writes
    assert written.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in written
    assert line.wire.closed
    line.hang_up()


async def test_a_body_whose_pieces_are_broken_is_400() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    line.read(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n")
    await asyncio.sleep(0)
    line.read(b"zz\r\n")
    assert problem_of(line) == "bad-request"
    line.hang_up()


@pytest.mark.parametrize("begin", [b"", b"X-A: ", b"X: y\r\n"])
async def test_a_head_has_so_many_bytes_and_no_more(begin: bytes) -> None:
    line = Line(answering(HEAD, body(b"ok")))
    line.read(b"GET / HTTP/1.1\r\n" if begin else b"GET /")
    while not line.wire.closed:
        line.read(begin * 100 or b"x" * 100)
        assert line.protocol.came < HEAD_BYTES + 2000
    assert problem_of(line) == "head-too-long"
    line.hang_up()


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"y"])
async def test_trailers_have_no_more_either(piece: bytes) -> None:
    line = Line(answering(HEAD, body(b"ok")))
    line.read(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\nX: ")
    await asyncio.sleep(0)
    while not line.wire.closed:
        line.read(piece * 100)
        assert line.protocol.came < HEAD_BYTES + 2000
    assert problem_of(line) == "head-too-long"
    line.hang_up()


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_comes_after_a_long_body_has_no_more_for_that(chunked: bool) -> None:
    line = Line(answering(HEAD, body(b"ok")))
    if chunked:
        line.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n")
    else:
        line.read(b"POST / HTTP/1.1\r\nContent-Length: 200001\r\n\r\n")
    for _ in range(25):
        assert line.read(b"x" * 8000) == b""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if chunked:
        line.read(b"\r\n0\r\n")
    else:
        line.read(b"xPOST / HTTP/1.1\r\n")
    sent = 0
    while not (line.wire.closed or line.wire.paused):
        line.read(b"X: y\r\n" * 1000)
        sent += 6000
        assert sent < HEAD_BYTES + 10_000
    line.hang_up()


async def test_a_long_body_in_pieces_of_one_byte_is_no_head() -> None:
    line = Line(answering(HEAD, body(b"ok")))
    left = line.read(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000)
    while left:
        await asyncio.sleep(0)
        left = line.read(left)
    line.read(b"0\r\n\r\n")
    await asyncio.gather(*line.protocol.tasks)
    assert line.wire.writes[-1].endswith(b"ok")
    line.hang_up()


def test_an_answer_to_a_client_that_is_gone_is_written_nowhere() -> None:
    """uvloop raises for a closed handle, where asyncio is silent."""

    class Gone(asyncio.Transport):
        def is_closing(self) -> bool:
            return True

        def write(self, data: object) -> None:
            raise RuntimeError("the handle is closed")

        def close(self) -> None:
            self.closed = True

    joined = Joined(Gone())
    joined.write(b"HTTP/1.1 200 OK\r\n\r\n")
    joined.write(b"body")
    joined.close()
