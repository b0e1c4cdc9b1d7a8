"""`python -m headrace.bench.generator`: POSTs at a rate, or as fast as answers come. The task is JSON on stdin."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import httptools
import uvloop

from headrace.bench.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TICK_SECONDS: Final = 0.001
LAST_ANSWERS_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Task:
    url: str
    bodies: Sequence[bytes]
    connections: int
    seconds: float
    rate: float | None
    headers: Mapping[str, str]


class Connection(asyncio.Protocol):
    """One request at a time on one connection."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._due = 0.0
        self._busy = False

    def send(self, request: bytes, due: float) -> None:
        assert self._transport is not None
        self._due = due
        self._busy = True
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own kind
        self._generator.free(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            assert self._transport is not None
            self._transport.abort()

    def on_message_complete(self) -> None:
        self._busy = False
        ok = 200 <= self._parser.get_status_code() < 300
        self._generator.answered(time.perf_counter() - self._due, ok=ok)
        if self._parser.should_keep_alive():
            self._generator.free(self)
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None
        self._generator.lost(self, busy=self._busy)


class Generator:
    """Gives requests to free connections, and counts. A request that finds none free waits, and its clock runs."""

    def __init__(self, task: Task) -> None:
        parts = urlsplit(task.url)
        self._host, self._tls = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in task.headers.items()]
        head = "\r\n".join(lines)
        self._requests = [f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body for body in task.bodies]
        self._task = task
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._turn = 0
        self._open = False
        self._opening: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        self.latencies = array("d")
        self.failures = 0
        self.errors = 0

    async def run(self) -> dict[str, Any]:
        """Until the time is over and what is in flight is answered."""
        task = self._task
        await asyncio.gather(*(self._connect() for _ in range(task.connections)))
        self._open = True
        began = time.perf_counter()
        if task.rate is None:
            while self._free:
                self._give(self._free.popleft(), time.perf_counter())
            await asyncio.sleep(task.seconds)
        else:
            sent = 0
            while (now := time.perf_counter()) < began + task.seconds:
                while began + sent / task.rate <= now:
                    self._offer(began + sent / task.rate)
                    sent += 1
                await asyncio.sleep(TICK_SECONDS)
        seconds = time.perf_counter() - began
        self._open = False
        end = time.perf_counter() + LAST_ANSWERS_SECONDS
        while (self.in_flight or self._waiting) and time.perf_counter() < end:  # noqa: ASYNC110 - off the clock
            await asyncio.sleep(TICK_SECONDS)
        self.errors += self.in_flight + len(self._waiting)
        for opening in self._opening:
            opening.cancel()
        return {"seconds": seconds, "requests": len(self.latencies), **self._told()}

    def _told(self) -> dict[str, Any]:
        ordered = sorted(self.latencies)
        shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
        told = {name: round(percentile(ordered, share) * 1000, 3) for name, share in shares.items()}
        longest = round(ordered[-1] * 1000, 3) if ordered else 0.0
        return {"failures": self.failures, "errors": self.errors, **told, "max_ms": longest}

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Connection(self), self._host, self._port, ssl=self._tls or None)

    def _offer(self, due: float) -> None:
        if self._free:
            self._give(self._free.popleft(), due)
        else:
            self._waiting.append(due)

    def _give(self, connection: Connection, due: float) -> None:
        self._turn = (self._turn + 1) % len(self._requests)
        self.in_flight += 1
        connection.send(self._requests[self._turn], due)

    def free(self, connection: Connection) -> None:
        """A connection can take the next request."""
        if self._waiting:
            self._give(connection, self._waiting.popleft())
        elif self._open and self._task.rate is None:
            self._give(connection, time.perf_counter())
        else:
            self._free.append(connection)

    def answered(self, seconds: float, *, ok: bool) -> None:
        self.in_flight -= 1
        self.latencies.append(seconds)
        self.failures += not ok

    def lost(self, connection: Connection, *, busy: bool) -> None:
        """The server closed a connection: another one takes its place."""
        if connection in self._free:
            self._free.remove(connection)
        if busy:
            self.in_flight -= 1
            self.errors += 1
        if self._open:
            opening = asyncio.get_running_loop().create_task(self._connect_again())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _connect_again(self) -> None:
        while self._open:
            try:
                await self._connect()
            except OSError:
                self.errors += 1
                await asyncio.sleep(0.1)
            else:
                return


def main() -> None:
    told = json.load(sys.stdin)
    told["bodies"] = [base64.b64decode(body) for body in told["bodies"]]
    generator = Generator(Task(**told))
    sys.stdout.write(json.dumps(uvloop.run(generator.run())) + "\n")


if __name__ == "__main__":
    main()
