"""Sends a case over a socket of its own and reads what is answered, strictly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.fuzz.cases import Ending

if TYPE_CHECKING:
    import ssl

    from tests.fuzz.cases import Case

ANSWER_SECONDS: Final = 30.0
"""A well-formed request that is not answered by then hangs."""
QUIET_SECONDS: Final = 3.0
"""What is no HTTP may leave a connection that waits for more; then the client ends it."""
_HEAD: Final = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*\r\n((?:[!-9;-~]+: ?[^\r\n\0]*\r\n)*)\r\n")


class Violation(AssertionError):
    """Something that must never happen."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    accepted: int | None
    closes: bool
    problem: str
    """The last word of its type, `outcome-unknown` or so; empty with 200."""
    places: tuple[tuple[int, int | None], ...] = ()
    """Partition and offset of each record, where the answer tells."""


def take_answer(received: bytes) -> tuple[Answer | None, bytes]:
    """The first whole answer, None while it isn't whole, and what follows. Raises Violation for what is none."""
    while True:
        found = _HEAD.match(received)
        if found is None:
            if b"\r\n\r\n" in received or not b"HTTP/1.1 ".startswith(received[:9]):
                raise Violation(f"no answer of HTTP: {received[:300]!r}")
            return None, received
        if not found[1].startswith(b"1"):
            break
        received = received[found.end() :]
    status = int(found[1])
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in found[2].split(b"\r\n") if line)
    }
    if b"content-length" not in headers:
        raise Violation(f"an answer without a length: {received[:300]!r}")
    end = found.end() + int(headers[b"content-length"])
    if len(received) < end:
        return None, received
    body = received[found.end() : end]
    return _read(status, headers, body), received[end:]


def _read(status: int, headers: dict[bytes, bytes], body: bytes) -> Answer:
    closes = headers.get(b"connection", b"").lower() == b"close"
    try:
        content: dict[str, Any] = json.loads(body)
    except ValueError:
        raise Violation(f"an answer that is no JSON: {status} {body[:300]!r}") from None
    if headers.get(b"content-type") == b"application/vnd.kafka.v2+json":
        return _read_proxys(status, headers, content)
    if status == 200:
        if content.keys() != {"accepted"}:
            raise Violation(f"200 with {body[:300]!r}")
        return Answer(status, content["accepted"], closes, "")
    if not (400 <= status < 500 or status == 503):
        raise Violation(f"{status} with {body[:300]!r}")
    if headers.get(b"content-type") != b"application/problem+json" or content.get("status") != status:
        raise Violation(f"{status} that is no problem of ours: {headers} {body[:300]!r}")
    if status in {429, 503} and b"retry-after" not in headers:
        raise Violation(f"{status} without Retry-After")
    return Answer(status, None, closes, content["type"].rpartition(":")[2])


def _read_proxys(status: int, headers: dict[bytes, bytes], content: dict[str, Any]) -> Answer:
    """As Kafka's REST proxy answers."""
    closes = headers.get(b"connection", b"").lower() == b"close"
    if status == 200:
        rows = content["offsets"]
        if any(row["error_code"] is not None or row["error"] is not None for row in rows):
            raise Violation(f"a failure inside a 200: {rows}")
        return Answer(status, len(rows), closes, "", tuple((row["partition"], row["offset"]) for row in rows))
    if not (400 <= status < 500 or status == 503) or content.keys() != {"error_code", "message"}:
        raise Violation(f"{status} with {content}")
    if status in {429, 503} and b"retry-after" not in headers:
        raise Violation(f"{status} without Retry-After")
    return Answer(
        status, None, closes, "outcome-unknown" if content["error_code"] == 50002 else str(content["error_code"])
    )


async def send(host: str, port: int, case: Case, tls: ssl.SSLContext | None = None) -> tuple[list[Answer], float]:
    """All answers, in their order, and the seconds until the last byte was sent: on a busy machine that may take long.

    They begin where the server's do: before the handshake of TLS. Raises Violation where a well-formed request has no
    answer, or an answer is none.
    """
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    if case.ending is Ending.RESET:
        linger = writer.get_extra_info("socket")
        linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answers: list[Answer] = []
    writing = asyncio.create_task(_write(writer, case))
    try:
        await _receive(reader, writing, case, answers)
    finally:
        writing.cancel()
        await asyncio.wait([writing])
        ended = time.monotonic() if writing.cancelled() else writing.result()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if case.is_http and len(answers) < len(case.expected) and not (answers and answers[-1].closes):
        raise Violation(f"{len(case.expected)} requests, and only {len(answers)} answers: {answers}")
    if len(answers) > len(case.expected) and case.is_http:
        raise Violation(f"{len(case.expected)} requests, and {len(answers)} answers: {answers}")
    return answers, ended - began


async def _write(writer: asyncio.StreamWriter, case: Case) -> float:
    """When all was sent, or nobody took any more."""
    with contextlib.suppress(OSError):
        at = 0
        for cut in [*case.cuts, len(case.stream)]:
            writer.write(case.stream[at:cut])
            await writer.drain()
            await asyncio.sleep(0)
            at = cut
        if case.ending is Ending.HALF_CLOSE and writer.can_write_eof():
            writer.write_eof()
        elif case.ending is Ending.RESET:
            writer.transport.abort()
        elif case.ending is not Ending.WAIT:  # in TLS nobody closes a half
            writer.close()
    return time.monotonic()


async def _receive(
    reader: asyncio.StreamReader, writing: asyncio.Task[float], case: Case, answers: list[Answer]
) -> None:
    received = b""
    goes = case.ending not in {Ending.WAIT, Ending.HALF_CLOSE}
    while not (case.is_http and len(answers) == len(case.expected)):
        try:
            async with asyncio.timeout(ANSWER_SECONDS if case.is_http else QUIET_SECONDS):
                chunk = await reader.read(65_536)
        except TimeoutError:
            if case.is_http:
                raise Violation(f"no answer for {ANSWER_SECONDS:g} s after {answers}") from None
            if writing.done():
                return
            continue
        except OSError:
            return
        if not chunk:
            if received and not goes:
                raise Violation(f"half an answer: {received[:300]!r}")
            return
        received += chunk
        while received:
            answer, received = take_answer(received)
            if answer is None:
                break
            answers.append(answer)
