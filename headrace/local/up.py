"""`headrace up`: the whole chain on this machine, watched, and stopped in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import psutil

from headrace.errors import HeadraceError
from headrace.lifecycle import ending_signals
from headrace.local.follow import Follower
from headrace.local.process import Child, Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from headrace.local.progress import Progress
    from headrace.local.stack import Stack

READY_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.25
_PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """A child of `up` beside Kafka and S3."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_url: str
    drain_seconds: float
    """How long it may take to end when asked."""


class _AskedToStopError(Exception):
    """A signal came while things were being started."""


class Up:
    """Starts the stack, then its services side by side, and watches them until a signal or a death.

    The services are stopped in the order in which they are given, then S3, then Kafka: each one still has what it
    needs to finish. A second signal ends everything at once.
    """

    def __init__(self, stack: Stack, progress: Progress) -> None:
        self._stack = stack
        self._progress = progress
        self._services: list[tuple[Service, Child, Follower]] = []
        self._signals = 0
        self._trouble = ""
        stack.check = self._check
        self._wake = threading.Event()

    def run(self, services: Callable[[], Sequence[Service]], announce: Callable[[float], None]) -> None:
        """Until asked to stop. `services` is called when the stack runs, `announce` when all are ready, with seconds.

        Raises HeadraceError when something does not come up or dies by itself; all is stopped then, too.
        """
        began = time.monotonic()
        with self._handling_signals():
            try:
                self._stack.start()
                self._start(services())
                self._check()
                announce(time.monotonic() - began)
                self._watch()
            except _AskedToStopError:
                pass
            finally:
                self._progress.close()
                self._stop()

    def _start(self, services: Sequence[Service]) -> None:
        if services:
            self._progress.say(f"Starting {' and '.join(service.name for service in services)} …")
        for service in services:
            child = Child(
                service.name,
                service.command,
                log=self._log(service),
                cwd=Path.cwd(),
                env=service.environment,
            )
            self._services.append((service, child, Follower(child.log, child.log_start)))
            self._stack.add(child)
        deadline, patience = Deadline(READY_SECONDS), Deadline(_PATIENCE_SECONDS)
        for service, child, _ in self._services:
            while (problem := _not_ready(service.ready_url)) is not None:
                self._check()
                self._look(show=patience.passed)
                if deadline.passed:
                    raise HeadraceError(
                        f"The {service.name} was not ready within {READY_SECONDS:.0f} s: {problem}. "
                        f"The end of its log ({child.log}):\n{child.last_lines()}"
                    )
                time.sleep(0.05)
        if not patience.passed:
            self._complaints()  # of a start that went well: no news

    def _log(self, service: Service) -> Path:
        return self._stack.logs / f"{service.name}.log"

    def _watch(self) -> None:
        while not self._signals:
            self._wake.wait(_LOOK_SECONDS)
            self._look(show=True)
            trouble = self._stack.trouble()
            if trouble != self._trouble:
                self._progress.say(trouble or "There is space again.")
                self._trouble = trouble

    def _look(self, *, show: bool) -> None:
        """Show what the services complain of; raise when a part is dead."""
        if show:
            self._show_complaints()
        if self._signals:
            return
        for child in self._stack.children:
            if not child.running:
                why = f"{self._stack.trouble()}\n".lstrip()
                raise HeadraceError(
                    f"{child.name} ended by itself ({_ending(child.exit_code)}), so everything is being stopped. {why}"
                    f"The end of its log ({child.log}):\n{child.last_lines()}"
                )

    def _show_complaints(self) -> None:
        for line in self._complaints():
            self._progress.say(line)

    def _complaints(self) -> list[str]:
        return [
            f"{service.name}: {line}" for service, _, follower in self._services for line in follower.severe_lines()
        ]

    def _stop(self) -> None:
        for service, child, _ in self._services:
            if not child.running:
                continue
            self._progress.say(f"Stopping the {service.name} …")
            child.terminate()
            deadline = Deadline(service.drain_seconds)
            while not child.wait(0.1):
                self._show_complaints()
                if deadline.passed:
                    self._progress.say(f"The {service.name} did not end within {service.drain_seconds:.0f} s: killed.")
                    break
            child.kill()
        self._show_complaints()
        if self._stack.children:
            self._progress.say("Stopping S3 and Kafka …")
        self._stack.stop()

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in ending_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._wake.set()
        if self._signals > 1:
            self._stack.hurry()

    def _check(self) -> None:
        if self._signals:
            raise _AskedToStopError


def _not_ready(url: str) -> str | None:
    """What a service's /readyz says, None when it is ready."""
    try:
        answer = httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError as error:
        return f"{url} does not answer ({type(error).__name__})"
    return None if answer.status_code == 200 else f"{url} says {answer.status_code} {answer.text[:500]}"


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def stop_with_make() -> None:
    """When `make` runs us, its death is a wish to stop: `kill -9` of make must leave nothing behind either."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent is not None and parent.name() in {"make", "gmake"}:
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != parent.pid:
                os.kill(os.getpid(), signal.SIGTERM)
