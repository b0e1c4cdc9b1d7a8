"""Apache Kafka's own files: fetched once from Maven Central, checked against our list before every start."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from headrace.local.progress import Progress

KAFKA_VERSION: Final = "4.3.1"
BROKER: Final = f"kafka-{KAFKA_VERSION}.sha256"
"""org.apache.kafka:kafka_2.13 with all it needs to run, and Log4j's binding, without which it would be mute."""
TOOLS: Final = f"kafka-tools-{KAFKA_VERSION}.sha256"
"""What Kafka's own command-line tools need beyond that."""

_CENTRAL: Final = "https://repo.maven.apache.org/maven2"
_ATTEMPTS: Final = 3
_ABANDONED_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class JarList:
    """The files that belong together: path in a Maven repository -> SHA-256. The lists are kept in this package."""

    name: str
    bytes: int
    sums: dict[str, str]

    @classmethod
    def load(cls, name: str) -> JarList:
        return cls.parse(name, resources.files("headrace.local").joinpath(name).read_text("ascii"))

    @classmethod
    def parse(cls, name: str, text: str) -> JarList:
        """Lines as sha256sum writes them, after a line `# so-many bytes`."""
        head, *lines = text.splitlines()
        sums = {path: digest for digest, path in (line.split() for line in lines if line and not line.startswith("#"))}
        return cls(name, int(head.split()[1]), sums)


def cache_folder() -> Path:
    """Where fetched files stay, outside any project: HEADRACE_CACHE, or headrace/ in the user's cache folder."""
    if given := os.environ.get("HEADRACE_CACHE"):
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "headrace"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise when the disk that `folder` is (or will be) on has less than `needed` bytes left."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise HeadraceError(
            f"No space for {what}: it needs {needed / 1e6:.0f} MB in {folder}, and that disk has {free / 1e6:.0f} MB "
            "left. Make room there, or choose another place."
        )


def class_path(progress: Progress, *names: str) -> str:
    """The checked jars of these lists, fetched where they are missing, as Java's class path.

    Raises HeadraceError when a file is not what the list says, or can't be had.
    """
    return os.pathsep.join(map(str, provide([JarList.load(name) for name in names], progress)))


def provide(lists: Sequence[JarList], progress: Progress, name: str = f"Apache Kafka {KAFKA_VERSION}") -> list[Path]:
    """The files of these lists in the cache: there, and exactly what the lists say. `name`: what they are together."""
    folder = cache_folder() / "maven"
    sums = {path: digest for each in lists for path, digest in each.sums.items()}
    missing = [path for path in sums if not (folder / path).exists()]
    if missing:
        whole = len(missing) == len(sums)
        total = sum(each.bytes for each in lists) if whole else 0
        require_space(folder, total + 1_000_000, "Kafka's files (HEADRACE_CACHE says where they go)")
        what = name if whole else f"{len(missing)} of {name}'s {len(sums)} files"
        progress.say(f"Fetching {what} into {folder} (once) …")
        _fetch_all(folder, {path: sums[path] for path in missing}, _Meter(total, progress))
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = dict(zip(sums, pool.map(lambda path: sha256(folder / path), sums), strict=True))
    for path, digest in sums.items():
        if found[path] != digest:
            raise HeadraceError(
                f"{folder / path} is not the file that headrace knows: its SHA-256 is {found[path]}, not {digest}. "
                "It was not used. Remove it and start again to fetch it anew."
            )
    return [folder / path for path in sums]


class _Meter:
    """Counts bytes of several downloads together, and tells them to stop once one of them has failed."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self.given_up = False

    def check(self) -> None:
        """Raise when it is of no use to go on."""
        if self.given_up:
            raise HeadraceError("another file could not be fetched")

    def count(self, size: int) -> None:
        self.check()
        with self._lock:
            self._done += size
            if self._total:
                self._progress.fetched("Apache Kafka", min(self._done, self._total - 1), self._total)

    def finish(self) -> None:
        if self._total:
            self._progress.fetched("Apache Kafka", self._total, self._total)


def _fetch_all(folder: Path, sums: dict[str, str], meter: _Meter) -> None:
    """Fetch into a folder of our own, and move each file by one rename once it was checked.

    Whoever fetches at the same time, and whoever is killed meanwhile: the cache holds whole files only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with (
            tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as own,
            ThreadPoolExecutor(max_workers=8) as pool,
        ):
            tasks = [pool.submit(_fetch, Path(own), folder, path, digest, meter) for path, digest in sums.items()]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BaseException:
                meter.given_up = True
                pool.shutdown(cancel_futures=True)
                raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            why = f"The disk of {folder} is full. Make room there"
        else:
            why = f"Kafka's files can't be kept in {folder} ({error}). Mend that"
        raise HeadraceError(f"{why}, or name another place by HEADRACE_CACHE.") from None
    meter.finish()


def _remove_abandoned(folder: Path) -> None:
    """What somebody who was killed while fetching has left."""
    for left in folder.glob(".fetch-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _fetch(own: Path, folder: Path, path: str, digest: str, meter: _Meter) -> None:
    """One file, from the user's Maven repository when it is there, else from Central; tried a few times."""
    fresh = own / path
    local = Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository") / path
    if local.is_file() and sha256(local) == digest:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, fresh)
        meter.count(fresh.stat().st_size)
    else:
        _download(own, path, digest, meter)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    fresh.replace(folder / path)


def _download(own: Path, path: str, digest: str, meter: _Meter) -> None:
    import requests
    from jgo.maven import MavenContext, PythonResolver

    @contextlib.contextmanager
    def watch(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield meter.count

    *group, artifact, version, _ = path.split("/")
    remote = os.environ.get("HEADRACE_MAVEN_URL", _CENTRAL).rstrip("/")
    context = MavenContext(
        PythonResolver(progress_callback=watch), repo_cache=own, remote_repos={"central": remote}, timeout=10
    )
    why = ""
    for _ in range(_ATTEMPTS):
        meter.check()
        (own / path).unlink(missing_ok=True)
        try:
            context.create_dependency(f"{'.'.join(group)}:{artifact}:{version}").artifact.resolve()
        except requests.RequestException as error:
            why = f"{type(error).__name__}, {_root(error)}"
        except RuntimeError:  # jgo's way to say so
            why = "it is not there"
        else:
            if (found := sha256(own / path)) == digest:
                return
            why = f"what came has the SHA-256 {found}, not {digest}"
    raise HeadraceError(
        f"Could not fetch {path.rsplit('/', 1)[-1]} from {remote}: {why}. Is there a network? "
        "HEADRACE_MAVEN_URL names another Maven repository. What was fetched so far is kept."
    )


def _root(error: BaseException) -> BaseException:
    """What an error began with: `Connection refused`, not four layers of pools and retries."""
    while error.__context__ is not None:
        error = error.__context__
    return error
