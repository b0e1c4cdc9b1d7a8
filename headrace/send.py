"""`headrace send`: a file's payloads to the producer, in requests of a good size, until each is accepted."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click
import httpx
import orjson
import zstandard

from headrace.collection import Shape, read_collection
from headrace.errors import HeadraceError
from headrace.local.discover import discover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNK_BYTES: Final = 256 * 1024
FIRST_PAUSE_SECONDS: Final = 0.2
LAST_PAUSE_SECONDS: Final = 10.0
_AGAIN: Final = {408, 425, 429, 500, 502, 503, 504}


@dataclass(slots=True)
class Summary:
    """What became of a file. `maybe_doubled` counts payloads sent again after an answer that was lost or unsure."""

    accepted: int = 0
    requests: int = 0
    bytes: int = 0
    retries: int = 0
    maybe_doubled: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.accepted / self.seconds if self.seconds else 0.0
        text = (
            f"{self.accepted:,} payloads ({self.bytes:,} bytes) accepted in {self.requests:,} requests, "
            f"{self.seconds:.1f} s, {rate:,.0f} a second"
        )
        if self.retries:
            text += f"; {self.retries:,} requests were sent again"
        if self.maybe_doubled:
            text += f", {self.maybe_doubled:,} payloads of them after an unsure outcome: they may be there twice"
        return text


@dataclass(frozen=True, slots=True)
class Group:
    """Payloads of one request; `first` is the place of the first one in the file, counted from 0."""

    first: int
    payloads: list[bytes]

    def body(self) -> bytes:
        return b'{"data":[' + b",".join(self.payloads) + b"]}"

    def halves(self) -> tuple[Group, Group]:
        half = len(self.payloads) // 2
        return Group(self.first, self.payloads[:half]), Group(self.first + half, self.payloads[half:])


def groups(payloads: Iterable[bytes], max_bytes: int, max_payloads: int) -> Iterator[Group]:
    """Payloads together as long as they fit; one that is too long for itself goes alone.

    Where reading them fails, those before are still given out.
    """
    first, size = 0, 0
    together: list[bytes] = []
    failed: HeadraceError | None = None
    try:
        for index, payload in enumerate(payloads):
            if together and (size + len(payload) + 1 > max_bytes or len(together) == max_payloads):
                yield Group(first, together)
                first, size, together = index, 0, []
            together.append(payload)
            size += len(payload) + 1
    except HeadraceError as error:
        failed = error
    if together:
        yield Group(first, together)
    if failed is not None:
        raise failed


class _TryAgain(Exception):
    def __init__(self, reason: str, *, unsure: bool, wait: float | None = None) -> None:
        super().__init__(reason)
        self.unsure = unsure
        self.wait = wait


class Sender:
    """Sends groups, a few at a time. Each is accepted, or `send` raises HeadraceError that names its payloads."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, patience: float, token: str | None = None) -> None:
        self._client = client
        self._who = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._url = url
        self._patience = patience
        self._run = uuid.uuid4().hex
        self._failed: HeadraceError | None = None
        self.summary = Summary()

    async def send_all(self, found: Iterable[Group], concurrency: int) -> None:
        """Reads no further ahead than there are requests in flight, and sees through what is, come what may."""
        slots = asyncio.Semaphore(concurrency)
        async with asyncio.TaskGroup() as tasks:
            try:
                for group in found:
                    await slots.acquire()
                    if self._failed is not None:
                        break
                    tasks.create_task(self._see_through(group)).add_done_callback(lambda _: slots.release())
            except HeadraceError as error:
                self._failed = self._failed or error
        if self._failed is not None:
            raise self._failed

    async def _see_through(self, group: Group) -> None:
        try:
            await self._send(group)
        except HeadraceError as error:
            self._failed = self._failed or error

    async def _send(self, group: Group) -> None:
        body = group.body()
        key = f"{self._run}-{group.first}-{len(group.payloads)}"
        give_up = time.monotonic() + self._patience
        pause, unsure = FIRST_PAUSE_SECONDS, False
        while True:
            try:
                accepted = await self._post(group, body, key)
            except _TryAgain as again:
                wait = again.wait or pause
                if self._failed is not None or time.monotonic() + wait > give_up:
                    raise HeadraceError(f"{_named(group)}: given up: {again}") from None
                unsure = unsure or again.unsure
                self.summary.retries += 1
                await asyncio.sleep(wait * random.uniform(1.0, 1.2))  # noqa: S311 - only to spread the load
                pause = min(pause * 2, LAST_PAUSE_SECONDS)
            else:
                break
        if not accepted:
            for half in group.halves():
                await self._send(half)
            return
        self.summary.accepted += len(group.payloads)
        self.summary.requests += 1
        self.summary.bytes += sum(map(len, group.payloads))
        if unsure:
            self.summary.maybe_doubled += len(group.payloads)

    async def _post(self, group: Group, body: bytes, key: str) -> bool:
        """Accepted, or (False) too long for one request. Raises _TryAgain, or HeadraceError when that is no use."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, **self._who}
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except httpx.ConnectError as error:
            raise _TryAgain(f"no connection to {self._url} ({error})", unsure=False) from error
        except httpx.TransportError as error:
            raise _TryAgain(f"{self._url} gave no answer ({type(error).__name__} {error})", unsure=True) from error
        if answer.status_code == 200:
            return True
        if answer.status_code == 413 and len(group.payloads) > 1:
            return False
        reason = f"{self._url} answered {answer.status_code}: {_told(answer)}"
        if answer.status_code not in _AGAIN:
            raise HeadraceError(f"{_named(group, answer)}: {reason}")
        kind = str(_problem(answer).get("type", ""))
        surely_not = answer.status_code in {408, 425, 429} or (kind and not kind.endswith("outcome-unknown"))
        raise _TryAgain(reason, unsure=not surely_not, wait=_asked_wait(answer))


def _named(group: Group, answer: httpx.Response | None = None) -> str:
    index = _problem(answer).get("index") if answer is not None else None
    if isinstance(index, int):
        return f"Payload {group.first + index} (counted from 0)"
    if len(group.payloads) == 1:
        return f"Payload {group.first} (counted from 0)"
    return f"Payloads {group.first} to {group.first + len(group.payloads) - 1} (counted from 0)"


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _told(answer: httpx.Response) -> str:
    return str(_problem(answer).get("detail") or answer.text[:200] or answer.reason_phrase)


def _asked_wait(answer: httpx.Response) -> float | None:
    with contextlib.suppress(ValueError):
        return min(float(answer.headers.get("retry-after", "")), LAST_PAUSE_SECONDS)
    return None


@contextlib.contextmanager
def open_source(name: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file as it lies there, to see how far it is read, and its content, unpacked where it is gzip or zstd."""
    with contextlib.ExitStack() as stack:
        try:
            raw: Any = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))
            magic = raw.peek(4)[:4]
        except OSError as error:
            raise HeadraceError(f"{name} can't be read: {error.strerror}") from error
        if magic[:2] == b"\x1f\x8b":
            content: Any = gzip.GzipFile(fileobj=raw)
            yield raw, stack.enter_context(content)
        elif magic == b"\x28\xb5\x2f\xfd":
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
            yield raw, stack.enter_context(reader)
        else:
            yield raw, raw


def read_chunks(name: str, content: IO[bytes], progress: Callable[[], None]) -> Iterator[bytes]:
    try:
        while chunk := content.read(CHUNK_BYTES):
            progress()
            yield chunk
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise HeadraceError(f"{name} can't be read to its end: {error}") from error


def default_url() -> str:
    """Where `headrace up` listens in this folder, else the producer's default."""
    told = discover() or {}
    return f"http://{told.get('HTTP_HOST', '127.0.0.1')}:{told.get('HTTP_PORT', '8000')}/payloads"


@contextlib.contextmanager
def _progress(name: str, raw: IO[bytes], summary: Summary) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    total = None if name == "-" else Path(name).stat().st_size
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending", total=total)
        read = 0

        def show() -> None:
            nonlocal read
            read += CHUNK_BYTES
            done = read if total is None else raw.tell()
            bar.update(task, completed=done, description=f"{summary.accepted:,} accepted")

        yield show


@click.command()
@click.argument("file")
@click.option("--url", help="The producer's endpoint. [default: the running `headrace up`, or 127.0.0.1:8000]")
@click.option(
    "--values", "shape", flag_value=Shape.VALUES, type=Shape, help="FILE is one object; its values are the payloads."
)
@click.option(
    "--lines", "shape", flag_value=Shape.LINES, type=Shape, help="One payload a line, even if the first begins with [."
)
@click.option(
    "--batch-bytes", type=click.IntRange(1), default=256 * 1024, show_default=True, help="Bytes of a request."
)
@click.option("--batch-payloads", type=click.IntRange(1), default=500, show_default=True, help="Payloads of a request.")
@click.option("--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Requests in flight.")
@click.option("--retry-seconds", type=float, default=60, show_default=True, help="How long a request is tried again.")
@click.option("--token", envvar="HTTP_TOKEN", help="Says who sends; better told by the environment: HTTP_TOKEN.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def send(
    file: str,
    url: str | None,
    shape: Shape | None,
    batch_bytes: int,
    batch_payloads: int,
    concurrency: int,
    retry_seconds: float,
    token: str | None,
    as_json: bool,
) -> None:
    """Send the payloads of FILE (- is standard input) to the producer.

    FILE is a JSON array or has one JSON value a line; it may be packed with gzip or zstd. Payloads arrive byte for byte
    as they stand there. The exit code is 0 only when all were accepted.
    """
    target = url or default_url()
    summary = asyncio.run(
        _send_file(
            file,
            target,
            shape or Shape.AUTO,
            batch_bytes=batch_bytes,
            batch_payloads=batch_payloads,
            concurrency=concurrency,
            patience=retry_seconds,
            token=token,
        )
    )
    click.echo(orjson.dumps(asdict(summary)) if as_json else str(summary))


async def _send_file(
    file: str,
    url: str,
    shape: Shape,
    *,
    batch_bytes: int,
    batch_payloads: int,
    concurrency: int,
    patience: float,
    token: str | None,
) -> Summary:
    began = time.monotonic()
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
        sender = Sender(client, url, patience=patience, token=token)
        with open_source(file) as (raw, content), _progress(file, raw, sender.summary) as progress:
            payloads = read_collection(read_chunks(file, content, progress), shape)
            try:
                await sender.send_all(groups(payloads, batch_bytes, batch_payloads), concurrency)
            except HeadraceError as error:
                accepted = sender.summary.accepted
                name = "standard input" if file == "-" else file
                raise HeadraceError(f"{name}: {error}\n{accepted:,} payloads were accepted before.") from error
        sender.summary.seconds = time.monotonic() - began
        return sender.summary
