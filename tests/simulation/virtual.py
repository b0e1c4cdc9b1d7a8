"""An event loop whose clock jumps to the next timer, and processes in it that can be paused and killed.

A process is whatever runs in a context that names it. Each callback is asked for its process right before it runs:
that of a paused or dead process is put aside instead. So a kill drops tasks where they stand, without any cleanup, and
a pause lets timers run out, just as SIGKILL and SIGSTOP do.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

OWNER: contextvars.ContextVar[Process | None] = contextvars.ContextVar("OWNER", default=None)


@dataclass(eq=False)
class Process:
    """One operating-system process of the simulation. `stopped`: SIGSTOP or SIGKILL."""

    name: str
    stopped: bool = False
    dead: bool = False
    cut: bool = False
    """Kafka can't be reached from it, while S3 can."""
    aside: list[asyncio.Handle] = field(default_factory=list)
    stopping: bool = False
    """It was told to end, and all of it will be gone soon."""
    fuse: int | None = None
    """Steps of it until `at_fuse` is called."""
    at_fuse: Callable[[], None] = lambda: None

    @property
    def running(self) -> bool:
        return not self.stopped and not self.dead

    def burn(self, steps: int, at_fuse: Callable[[], None]) -> None:
        """Call it right before the process's step after so many more."""
        self.fuse, self.at_fuse = steps, at_fuse


class Stuck(Exception):
    """Nothing can ever happen any more."""


class _Task(asyncio.Task[Any]):
    """Sets of tasks are walked in the order of their making, not of their addresses: a seed replays exactly."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, context: contextvars.Context | None = None, **kwargs: Any) -> None:
        self._number = next(self._numbers)
        self.owner = OWNER.get() if context is None else context.get(OWNER)
        super().__init__(*args, context=context, **kwargs)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


class VirtualLoop(asyncio.BaseEventLoop):
    """Seconds that nobody waits for. `time()` starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self.most_steps = 300_000
        self.tasks: list[_Task] = []
        """All there ever were: those of a dead process must not be collected while the run lasts."""
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        _Task._numbers = itertools.count()
        self.set_task_factory(_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        del handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """A thread's work is done at once, and its result arrives a moment later."""
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - as an executor does
            self.call_later(0.001, _settle, future, None, error)
        else:
            self.call_later(0.001, _settle, future, result, None)
        return future

    def _run_once(self) -> None:
        queue = self._queue
        if self.steps > self.most_steps:
            raise Stuck(f"{self.steps} steps and no end")
        if not queue:
            timers = self._timers
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise Stuck("nothing will ever happen any more")
            self.now = max(self.now, timers[0][0])
            while timers and timers[0][0] <= self.now:
                handle: asyncio.Handle = heapq.heappop(timers)[2]
                if not handle.cancelled():
                    queue.append(handle)
        for _ in range(len(queue)):
            handle = queue.popleft()
            if handle._cancelled:
                continue
            owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
            if owner is not None and owner.stopped:
                owner.aside.append(handle)
                continue
            if owner is not None and owner.fuse is not None:
                self._burn(owner)
            self.steps += 1
            handle._run()

    def _burn(self, process: Process) -> None:
        assert process.fuse is not None
        process.fuse -= 1
        if process.fuse < 0:
            process.fuse = None
            process.at_fuse()

    def tasks_of(self, process: Process) -> list[asyncio.Task[Any]]:
        """Those that have not ended."""
        return [task for task in self.tasks if task.owner is process and not task.done()]

    def resume(self, process: Process) -> None:
        """SIGCONT: all that came due meanwhile happens now, in its order."""
        process.stopped = False
        self._queue.extend(process.aside)
        process.aside.clear()

    def start(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it as the process's main task."""
        context = contextvars.copy_context()
        context.run(OWNER.set, process)
        return self.create_task(work, context=context)

    def _process_events(self, event_list: Any) -> None:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        pass


def _task(
    loop: VirtualLoop, work: Coroutine[Any, Any, Any], context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    task = _Task(work, loop=loop, context=context)
    loop.tasks.append(task)
    return task


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
