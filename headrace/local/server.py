"""What a Kafka and an S3 server of our own have in common: one process, a folder, a log, and when it is ready."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError
from headrace.local.ports import PortTakenError
from headrace.local.process import Child, last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
RESTARTS: Final = 4
FULL_BELOW_BYTES: Final = 1_000_000


class Server(ABC):
    """A server of our own: its data stays in `data`, its ports stay the same over restarts.

    Not for use from two threads at a time. Methods block; from async code call them by `asyncio.to_thread`.
    """

    name: str

    def __init__(self, data: Path, log: Path) -> None:
        self.data = data
        self.log = log
        self._child: Child | None = None
        self.check: Callable[[], None] = lambda: None
        """Called now and then while it is waited for; raises to give up."""

    def _run(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start the server's process in its folder."""
        self._child = Child(name, command, log=self.log, cwd=self.data, env=env)

    @abstractmethod
    def spawn(self) -> None:
        """Start without waiting. Raises HeadraceError."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves clients; an open port alone does not count."""

    @property
    def child(self) -> Child:
        """The running process. Only after `spawn`."""
        assert self._child is not None, f"{self.name} was not started"
        return self._child

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> None:
        """Fetch what is missing, start, and wait until it answers clients. Raises HeadraceError."""
        self.spawn()
        self.wait_ready()

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Until it answers clients. On failure it is ended.

        Raises HeadraceError with the end of its log; PortTakenError where another program was quicker to a port.
        """
        end = time.monotonic() + timeout
        while not self.answers():
            self.check()
            if not self.running:
                raise self._failed(f"ended with code {self.child.exit_code} instead of coming up")
            if time.monotonic() > end:
                self.kill()
                raise self._failed(f"did not answer within {timeout:.0f} s")
            time.sleep(0.05)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop it in order; after `timeout` seconds the hard way."""
        if self._child is not None:
            self._child.stop(timeout)

    def kill(self) -> None:
        """SIGKILL it; returns when it is gone."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> None:
        """Stop, and start again with the same data and ports.

        While it is down, its port may go for a moment to an outgoing connection of somebody else's: so it tries again.
        """
        self.stop()
        for _ in range(RESTARTS - 1):
            try:
                self.start()
            except HeadraceError:
                self.kill()
                time.sleep(1)
            else:
                return
        self.start()

    def trouble(self) -> str:
        """What keeps it from doing its work, and what to do about it; empty when nothing is known."""
        full = shutil.disk_usage(self.data).free < FULL_BELOW_BYTES
        if not full and self._child is not None and not self.running:
            # The disk may have room again by now. A log on the same disk may say nothing of it.
            tail = self.child.last_lines(200).lower()
            full = any(words in tail for words in ("no space left on device", "file too large", "disk quota exceeded"))
        if not full:
            return ""
        return (
            f"{self.name} has no space left: the disk of {self.data} is full. Make room there, and start again what "
            "has ended. What was acknowledged stays."
        )

    def _failed(self, what: str) -> HeadraceError:
        tail = self.child.last_lines() or last_lines(self.log, 15)
        told = f"{self.name} {what}. {self.trouble()}".rstrip()
        taken = any("address already in use" in text.lower() for text in (tail, self.child.last_lines(200)))
        kind = PortTakenError if taken else HeadraceError
        return kind(f"{told} The end of its log ({self.log}):\n{tail}")
