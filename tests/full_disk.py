"""A small disk for a server's data, to be filled and cleared: a file system of its own where this machine lets us
mount one, else a limit on the size of files that is laid upon the running server."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.local.server import Server

SIZE_MEGABYTES = 160
"""A server wants 100 MB to begin with."""


class Disk(Protocol):
    folder: Path
    kind: str

    def fill(self, server: Server) -> None:
        """From now on the server can't write any more."""
        ...

    def clear(self, server: Server) -> None:
        """There is space again."""
        ...


class Mounted:
    """A tmpfs: what it says is ENOSPC, as any full disk does."""

    kind = "tmpfs"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: Server) -> None:
        with (self.folder / "ballast").open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while ballast.write(b"\0" * size):
                        pass

    def clear(self, server: Server) -> None:
        (self.folder / "ballast").unlink()


class Limited:
    """No file of the server's may grow beyond 64 KiB: EFBIG instead of ENOSPC, and it does the same."""

    kind = "limit"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: Server) -> None:
        resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))

    def clear(self, server: Server) -> None:
        if server.running:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, unlimited)


@contextlib.contextmanager
def small_disk(*, mounted: bool = True) -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="headrace-disk-") as name:
        folder = Path(name)
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        owner = f"uid={os.geteuid()},size={SIZE_MEGABYTES}m"
        try:
            command = [*prefix, "mount", "-t", "tmpfs", "-o", owner, "tmpfs", name]
            there = mounted and subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            there = False
        if not there:
            yield Limited(folder)
            return
        try:
            yield Mounted(folder)
        finally:
            subprocess.run([*prefix, "umount", "-l", name], check=True)
