"""Kafka and S3 together, in one folder: started side by side, found by others, stopped in order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import IO, TYPE_CHECKING, Any, Final

import psutil

from headrace.errors import HeadraceError
from headrace.local.discover import LOCK_FILE, STACK_FILE, read_stack_file
from headrace.local.kafka import Kafka
from headrace.local.ports import TWIN, PortTakenError, free_ports, is_free
from headrace.local.process import end_leftover
from headrace.local.progress import Checked, Progress, Silent
from headrace.local.s3 import BUCKET, S3

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from headrace.local.process import Child

KAFKA_PORT: Final = 9092
S3_PORT: Final = 8333
_LOCK_SECONDS: Final = 2.0
_STARTS: Final = 3


class Stack:
    """Owns a folder, and a Kafka and an S3 server whose data stays there between runs.

    Only one process owns a folder at a time. stack.json there tells programs where everything listens and what runs;
    whatever an owner that was killed left running is ended by the next one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kafka_port: int | None = None,
        s3_port: int | None = None,
        bucket: str = BUCKET,
        kafka_properties: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Ports that are not given are the last run's, else Kafka's and S3's usual ones, else any that are free."""
        self.folder = folder.absolute()
        self._kafka_port = kafka_port
        self._s3_port = s3_port
        self._bucket = bucket
        self._kafka_properties = kafka_properties
        self._progress = progress or Silent()
        self._lock: IO[bytes] | None = None
        self._children: list[Child] = []
        self._told: dict[str, str] = {}
        self.check: Callable[[], None] = lambda: None
        """Called now and then while `start` waits; raises to give up. A signal's handler had better not raise itself:
        in the middle of anything, it would leave behind what nobody has hold of."""
        self._ports: Any = None
        self.kafka: Kafka
        self.s3: S3

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def children(self) -> Sequence[Child]:
        """All that runs, in the order of starting."""
        return tuple(self._children)

    @property
    def environment(self) -> dict[str, str]:
        """Where Kafka and S3 are, as environment variables."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap, **self.s3.environment}

    def start(self) -> None:
        """Take the folder, clean up after an earlier owner, and start both. Raises HeadraceError; nothing runs then."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise HeadraceError(f"{self.folder} can't be used ({error}). Choose another folder by --data.") from None
        try:
            earlier = read_stack_file(self.folder)
            self._ports = earlier.get("ports")
            self._clean_up(earlier)
            self._make(self._ports)
            self._progress.say("Starting Kafka and S3 …")
            for _ in range(_STARTS - 1):
                try:
                    self._start_both()
                except PortTakenError:
                    # Free when we looked, taken when the server came to it: others, but for those we were told to take.
                    self._end_both()
                    if not all(port is None or is_free(port) for port in (self._kafka_port, self._s3_port)):
                        raise
                    self._make({})
                else:
                    return
            self._start_both()
        except BaseException:
            self.kill()
            raise

    def _start_both(self) -> None:
        self.s3.spawn()
        self.add(self.s3.child)
        self.kafka.spawn()
        self.add(self.kafka.child)
        self.s3.wait_ready()
        self.kafka.wait_ready()

    def _end_both(self) -> None:
        for child in reversed(self._children):
            child.kill()
        self._children.clear()

    def add(self, child: Child) -> None:
        """Write down one more process that must not be left behind."""
        self._children.append(child)
        self._write()

    def tell(self, environment: Mapping[str, str]) -> None:
        """Settings that programs run later in this folder need too."""
        self._told.update(environment)
        self._write()

    def stop(self) -> None:
        """S3 first, then Kafka; then the folder is free for another owner."""
        if hasattr(self, "s3"):
            self.s3.stop()
            self.kafka.stop()
        self._let_go()

    def kill(self) -> None:
        """End everything that was started or added, at once."""
        for child in reversed(self._children):
            child.kill()
        if hasattr(self, "s3"):
            self.kafka.kill()
            self.s3.kill()
        self._let_go()

    def hurry(self) -> None:
        """SIGKILL for all that was added, without waiting; may be called from a signal handler."""
        for child in self._children:
            child.kill_soon()

    def trouble(self) -> str:
        """What keeps a server from doing its work, and what to do about it; empty when nothing is known."""
        return "\n".join(told for told in (self.s3.trouble(), self.kafka.trouble()) if told)

    def _make(self, earlier: Any) -> None:
        ports: dict[str, Any] = earlier if isinstance(earlier, dict) else {}

        def preferred(name: str, usual: int, *, twin: bool) -> int | None:
            for port in (ports.get(name), usual):
                if isinstance(port, int) and 0 < port <= 65535 - TWIN and is_free(port):
                    if twin and not is_free(port + TWIN):
                        continue
                    return port
            return None

        s3 = S3(
            self.folder / "s3",
            port=self._s3_port or preferred("s3", S3_PORT, twin=True),
            bucket=self._bucket,
            log=self.logs / "s3.log",
        )
        spare, spare_controller = free_ports(2, but=s3.ports)
        self.kafka = Kafka(
            self.folder / "kafka",
            port=self._kafka_port or preferred("kafka", KAFKA_PORT, twin=False) or spare,
            controller_port=preferred("kafka_controller", spare_controller, twin=False),
            properties=self._kafka_properties,
            log=self.logs / "kafka.log",
            progress=Checked(self._progress, self.check),
        )
        self.s3 = s3
        self.s3.check = self.kafka.check = self.check

    def _take(self) -> None:
        lock = (self.folder / LOCK_FILE).open("ab")
        end = time.monotonic() + _LOCK_SECONDS  # `discover` touches it for a moment, too
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.05)
                    continue
                lock.close()
                owner = (read_stack_file(self.folder).get("owner") or {}).get("pid", "unknown")
                raise HeadraceError(
                    f"headrace up runs in {self.folder} already (pid {owner}). "
                    "Stop that one, or start this one in another folder: headrace up --data DIR."
                ) from None
            self._lock = lock
            return

    def _clean_up(self, earlier: Mapping[str, Any]) -> None:
        """End what an owner that was killed left behind. Asked of those very processes only, never of strangers."""
        parts = earlier.get("parts")
        for part in reversed(parts if isinstance(parts, list) else []):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                if end_leftover(int(part["pid"]), float(part["started"])):
                    self._progress.say(f"Ended {part['name']} (pid {part['pid']}), left over from an earlier run.")

    def _let_go(self) -> None:
        if self._lock is not None:
            self._children.clear()
            with contextlib.suppress(OSError):  # a full disk must not keep us from stopping
                self._write()
            self._lock.close()
            self._lock = None

    def _write(self) -> None:
        running = bool(self._children)
        content: dict[str, Any] = {
            "owner": {"pid": os.getpid(), "started": psutil.Process().create_time()} if running else None,
            "ports": self._ports,
            "parts": [{"name": each.name, "pid": each.pid, "started": each.started} for each in self._children],
        }
        if hasattr(self, "kafka"):
            content |= {
                "ports": {"kafka": self.kafka.port, "kafka_controller": self.kafka.controller_port, "s3": self.s3.port},
                "urls": {"kafka": self.kafka.bootstrap, "s3": self.s3.endpoint},
                "bucket": self.s3.bucket,
                "environment": {**self.environment, **self._told},
            }
        fresh = self.folder / f"{STACK_FILE}.new"
        fresh.write_text(json.dumps(content, indent=2) + "\n")
        fresh.replace(self.folder / STACK_FILE)
