"""Stand-ins for what is slow or can't be made to fail on demand. Each keeps the contract of the real thing, tested."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

from consumer.encode.lines import Lines
from headrace.s3 import ListedObject, S3Refused, S3Unavailable, StoredObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from consumer.encode import Coder


CODER_BYTES = 100


class PressedLines(Lines):
    """FORMAT=jsonl whose coders count as small, so that a few records are worth one."""

    @property
    def press_bytes(self) -> int:
        return 2 * CODER_BYTES

    def coder(self) -> Coder:
        coder = super().coder()
        coder._idle = CODER_BYTES
        return coder


@dataclass(slots=True)
class Fault:
    """What one call of the store meets. `call`: put, head, get or list; `key`: only keys that contain it.

    `error` is raised instead of an answer. With `stored`, a put has landed all the same; with `lands_later`, it
    lands when the test says `store.land()`. `gate`: the call waits for it before anything else; `asked` is set then.
    """

    call: str
    error: Exception | None = None
    key: str = ""
    stored: bool = False
    lands_later: bool = False
    gate: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Put:
    """An object as it was put."""

    key: str
    body: bytes
    metadata: Mapping[str, str]
    content_type: str


class MemoryStore:
    """headrace.s3.ObjectStore without a server: what is put is listed at once. Faults are met in their order."""

    def __init__(self) -> None:
        self.objects: dict[str, Put] = {}
        self.landed: list[Put] = []
        """Every put that was stored, repeated ones too, in order."""
        self.in_the_air: list[Put] = []
        self.calls: list[tuple[str, str]] = []
        self.faults: deque[Fault] = deque()

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        put = Put(key, body, {name.lower(): value for name, value in metadata.items()}, content_type)
        if not all(value.isascii() for value in metadata.values()):
            raise S3Refused(f"PUT {key}: metadata is not ASCII")
        fault = await self._meet("put", key)
        if fault is None or fault.stored or fault.error is None:
            self._store(put)
        elif fault.lands_later:
            self.in_the_air.append(put)
        if fault is not None and fault.error is not None:
            raise fault.error

    async def head(self, key: str) -> StoredObject | None:
        await self._ask("head", key)
        found = self.objects.get(key)
        return None if found is None else StoredObject(key, len(found.body), datetime.now(UTC), dict(found.metadata))

    async def get(self, key: str) -> bytes | None:
        await self._ask("get", key)
        found = self.objects.get(key)
        return None if found is None else found.body

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        await self._ask("list", prefix)
        for key in sorted(self.objects, key=str.encode):
            if key.startswith(prefix):
                yield ListedObject(key, len(self.objects[key].body), datetime.now(UTC))

    def land(self) -> None:
        """Puts that were given up reach the store after all."""
        while self.in_the_air:
            self._store(self.in_the_air.pop(0))

    def _store(self, put: Put) -> None:
        self.objects[put.key] = put
        self.landed.append(put)

    async def _ask(self, call: str, key: str) -> None:
        fault = await self._meet(call, key)
        if fault is not None and fault.error is not None:
            raise fault.error

    async def _meet(self, call: str, key: str) -> Fault | None:
        self.calls.append((call, key))
        for fault in self.faults:
            if fault.call == call and fault.key in key:
                self.faults.remove(fault)
                fault.asked.set()
                if fault.gate is not None:
                    await fault.gate.wait()
                return fault
        return None


def unavailable(count: int) -> list[Fault]:
    """So many puts fail."""
    return [Fault("put", S3Unavailable("503 SlowDown")) for _ in range(count)]


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, says that its time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Sleeps take no time: when there is nothing to do, the clock jumps to the next timer. `time()` starts at 0.

    What goes to a thread is done at once: no clock could tell how long to wait for it.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to who awaits
            done.set_exception(error)
        return done


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on a loop of its own whose sleeps take no time."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
