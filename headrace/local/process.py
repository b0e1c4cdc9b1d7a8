"""Child processes that never outlive this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAX_LOG_BYTES: Final = 8 * 1024 * 1024
_SAME_START_SECONDS: Final = 2.0  # the kernel tells it since boot, and the time of boot moves with the clock

# Runs in the child between fork and exec: ask the kernel for SIGKILL at the parent's death, and leave at once when
# the parent died before that was asked. It survives exec, so it holds for the program itself.
_LAUNCHER: Final = """
import os, sys
parent, program, *rest = sys.argv[1:]
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(parent):
    os._exit(1)
os.execv(program, [program, *rest])
"""

# The kernel's "parent" is the thread that forked, so all children come from one that lives as long as the process.
_spawner: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class Child:
    """A process started here: its output goes to a log file, and it dies when this process dies, even by SIGKILL.

    It has a session of its own, so that a Ctrl-C on the terminal reaches only this process, which stops its children
    in order. (Outside Linux, the death of the parent is only noticed by the next start, see `end_leftover`.)
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".1.log"))
        argv = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
        with log.open("ab") as output:
            self.log_start = output.tell()

            def spawn() -> subprocess.Popen[bytes]:
                return subprocess.Popen(  # noqa: S603 - our own commands
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=None if env is None else dict(env),
                    start_new_session=True,
                )

            self._process = _spawner.submit(spawn).result()
        try:
            self.started = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            self.started = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), without waiting."""
        self._signal(signal.SIGTERM)

    def wait(self, timeout: float) -> bool:
        """Whether it ended within so many seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout: float) -> bool:
        """Ask it to end; kill it after so many seconds. Whether it ended by itself."""
        self.terminate()
        ended = self.wait(timeout)
        self.kill()
        return ended

    def kill(self) -> None:
        """SIGKILL to it and to whatever it has started; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def kill_soon(self) -> None:
        """SIGKILL without waiting; may be called from a signal handler."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def last_lines(self, count: int = 15) -> str:
        """The end of what this run has logged."""
        return last_lines(self.log, count, start=self.log_start)

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)


def last_lines(log: Path, count: int, *, start: int = 0) -> str:
    """The last lines of a log file, from byte `start` on; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, min(start, size), size - 65536))
            lines = deque(file.read().decode(errors="replace").splitlines(), maxlen=count)
    except FileNotFoundError:
        return ""
    return "\n".join(lines)


def end_leftover(pid: int, started: float, *, timeout: float = 5) -> bool:
    """End a process that an earlier run left behind. Only the very same one: by number *and* start time.

    Returns whether there was one.
    """
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return False
    try:
        if abs(process.create_time() - started) > _SAME_START_SECONDS or _is_over(process):
            return False
        process.terminate()
        process.resume()  # a paused one couldn't end
        for deadline in (Deadline(timeout), Deadline(timeout)):
            while not (_is_over(process) or deadline.passed):
                time.sleep(0.02)
            if _is_over(process):
                break
            process.kill()
    except psutil.NoSuchProcess:
        pass
    return True


def _is_over(process: psutil.Process) -> bool:
    """Ended, though perhaps nobody has asked for its exit code."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Deadline:
    """So many seconds from now, shared by all that has to happen before."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.remaining == 0.0
