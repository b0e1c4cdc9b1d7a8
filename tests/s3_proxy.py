"""A proxy in front of a real S3 server that misbehaves as told: for objects' PUTs by default, markers pass.

It speaks plain HTTP/1.1, a request at a time, and passes the Host header on, so that signatures hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit


class Fault(Enum):
    PASS = "pass"
    UNAVAILABLE = "503, nothing stored"
    FORBIDDEN = "403, nothing stored"
    RESET = "connection reset, nothing stored"
    LOST_REPLY = "stored, connection reset"
    STALL = "no answer, stored much later"
    SLOW = "stored late, then answered"


Choose = Callable[[str, str], tuple[Fault, float]]
"""(method, path) to what happens, and after how many seconds."""


def never(_method: str, _path: str) -> tuple[Fault, float]:
    return Fault.PASS, 0.0


def on_objects(fault: Fault, delay: float = 0.0) -> Choose:
    """The same for each PUT of an object; all else passes."""

    def choose(method: str, path: str) -> tuple[Fault, float]:
        return (fault, delay) if method == "PUT" and "_headrace" not in path else (Fault.PASS, 0.0)

    return choose


def weather(seed: int, *, delay: float, share: float) -> Choose:
    """Replies take up to `delay` seconds; a `share` of the PUTs is lost in one way, the same share in another."""
    dice = random.Random(seed)

    def choose(method: str, path: str) -> tuple[Fault, float]:
        if method != "PUT" or "_headrace" in path:
            return Fault.PASS, 0.0
        fault = dice.choices(
            (Fault.PASS, Fault.LOST_REPLY, Fault.UNAVAILABLE, Fault.RESET, Fault.STALL),
            (1 - 3.5 * share, share, share, share, share / 2),
        )[0]
        return fault, dice.uniform(0, delay)

    return choose


@dataclass
class S3Proxy:
    """`choose` may be changed at any time; `seen` counts what was done. Late landings outlive their connection."""

    target: str
    choose: Choose = never
    stall_seconds: float = 4.0
    seen: Counter[Fault] = field(default_factory=Counter)
    endpoint: str = ""
    most_at_a_time: int = 0
    """PUTs of objects that were under way side by side."""
    _puts: int = 0
    _late: set[asyncio.Task[Any]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled when the test ends: asyncio.streams can't bear a handler that says so.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        kept = [line for line in lines[1:] if line and line.partition(":")[0].lower() not in {"expect", "connection"}]
        request = "\r\n".join([lines[0], *kept, "Connection: close", "", ""]).encode("latin-1") + body
        counted = method == "PUT" and "_headrace" not in path
        self._puts += counted
        self.most_at_a_time = max(self.most_at_a_time, self._puts)
        try:
            return await self._answer(request, method, path, writer)
        finally:
            self._puts -= counted

    async def _answer(self, request: bytes, method: str, path: str, writer: asyncio.StreamWriter) -> bool:
        fault, delay = self.choose(method, path)
        self.seen[fault] += 1
        if fault in {Fault.UNAVAILABLE, Fault.FORBIDDEN}:
            await asyncio.sleep(delay)
            status = "503 Slow Down" if fault is Fault.UNAVAILABLE else "403 Forbidden"
            code = "SlowDown" if fault is Fault.UNAVAILABLE else "AccessDenied"
            xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(xml)}\r\n\r\n".encode()
            writer.write(head + xml)
            await writer.drain()
            return True
        if fault is Fault.RESET:
            writer.transport.abort()
            return False
        if fault is Fault.STALL:
            late = asyncio.create_task(self._land_late(request))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            await asyncio.sleep(self.stall_seconds)
            writer.transport.abort()
            return False
        if fault is Fault.SLOW:
            await asyncio.sleep(delay)
            delay = 0.0
        answer = asyncio.create_task(self._forward(request, method))
        self._late.add(answer)
        answer.add_done_callback(self._late.discard)
        # The store has it at once; its reply takes the rest of the time.
        reply = await asyncio.shield(answer)
        await asyncio.sleep(delay)
        if fault is Fault.LOST_REPLY:
            writer.transport.abort()
            return False
        writer.write(reply)
        await writer.drain()
        return False

    async def _land_late(self, request: bytes) -> None:
        await asyncio.sleep(self.stall_seconds * 0.5)
        with contextlib.suppress(ConnectionError):
            await self._forward(request, "PUT")

    async def _forward(self, request: bytes, method: str) -> bytes:
        del method
        place = urlsplit(self.target)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read(-1)
        finally:
            writer.close()

    async def landed(self) -> None:
        """Until nothing that anybody sent is still on its way to the store."""
        while self._late:
            await asyncio.wait(set(self._late))


@contextlib.asynccontextmanager
async def s3_proxy(target: str, choose: Choose = never, *, stall_seconds: float = 4.0) -> AsyncIterator[S3Proxy]:
    """A proxy on a free port of 127.0.0.1 for as long as the context lasts."""
    proxy = S3Proxy(target, choose, stall_seconds)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0, limit=2**16)
    port = server.sockets[0].getsockname()[1]
    proxy.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for late in list(proxy._late):
            late.cancel()
        await asyncio.gather(*proxy._late, return_exceptions=True)
