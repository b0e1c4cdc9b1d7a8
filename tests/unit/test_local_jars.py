"""Kafka's files: only the very ones that our lists name are ever used."""

from __future__ import annotations

import errno
import hashlib
import http.server
import threading
from collections import namedtuple
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from headrace.errors import HeadraceError
from headrace.local import jars
from headrace.local.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = "org/example/one/1.0/one-1.0.jar"
TWO = "org/example/two/2.1/two-2.1.jar"
FILES = {ONE: b"first" * 5000, TWO: b"second"}
LIST = jars.JarList("example", 25_006, {path: hashlib.sha256(body).hexdigest() for path, body in FILES.items()})


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.bytes: list[tuple[int, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def fetched(self, what: str, done: int, total: int) -> None:
        self.bytes.append((done, total))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    return tmp_path / "cache" / "maven"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository that serves our two files."""
    folder = tmp_path / "repository"
    for path, body in FILES.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(body)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("HEADRACE_MAVEN_URL", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", [jars.BROKER, jars.TOOLS])
def test_our_lists_are_whole(name: str) -> None:
    found = jars.JarList.load(name)
    assert found.bytes > 500_000
    assert all(path.endswith(".jar") and len(digest) == 64 for path, digest in found.sums.items())
    versions = {path.split("/")[-2] for path in found.sums if path.startswith("org/apache/kafka/")}
    assert versions == {jars.KAFKA_VERSION}


def test_files_are_fetched_once_and_progress_is_told(cache: Path, repository: Path) -> None:
    told = Told()
    assert jars.provide([LIST], told) == [cache / ONE, cache / TWO]
    assert {path: (cache / path).read_bytes() for path in FILES} == FILES
    assert told.bytes[-1] == (25_006, 25_006)
    assert sorted(told.bytes) == told.bytes
    for path in FILES:
        (repository / path).unlink()
    again = Told()
    jars.provide([LIST], again)
    assert (again.said, again.bytes) == ([], [])
    assert not list(cache.glob(".fetch-*"))


def test_a_changed_file_is_never_used(cache: Path, repository: Path) -> None:
    jars.provide([LIST], Silent())
    (cache / TWO).write_bytes(b"s3cond")
    with pytest.raises(HeadraceError, match=r"two-2.1.jar is not the file that headrace knows.*Remove it"):
        jars.provide([LIST], Silent())


def test_what_a_repository_forges_is_not_kept(cache: Path, repository: Path) -> None:
    (repository / TWO).write_bytes(b"forged")
    with pytest.raises(HeadraceError, match=r"Could not fetch two-2.1.jar .*what came has the SHA-256"):
        jars.provide([LIST], Silent())
    assert not (cache / TWO).exists()
    (repository / TWO).write_bytes(FILES[TWO])
    assert len(jars.provide([LIST], Silent())) == 2


def test_without_a_network_the_message_asks_for_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MAVEN_URL", "http://127.0.0.1:9")
    with pytest.raises(HeadraceError, match=r"from http://127.0.0.1:9: .*Connection refused. Is there a network\?"):
        jars.provide([LIST], Silent())


def test_a_file_that_is_not_there_is_told(cache: Path, repository: Path) -> None:
    (repository / ONE).unlink()
    with pytest.raises(HeadraceError, match=r"Could not fetch one-1.0.jar .*: it is not there"):
        jars.provide([LIST], Silent())


def test_the_users_maven_repository_spares_the_network(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_MAVEN_URL", "http://127.0.0.1:9")
    for path, body in FILES.items():
        (tmp_path / "m2" / path).parent.mkdir(parents=True)
        (tmp_path / "m2" / path).write_bytes(body)
    jars.provide([LIST], Silent())
    assert (cache / ONE).read_bytes() == FILES[ONE]


def test_no_space_is_told_before_anything_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - as shutil has it
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(HeadraceError, match=r"No space for Kafka's files .*HEADRACE_CACHE"):
        jars.provide([LIST], Silent())


def test_a_disk_that_runs_full_meanwhile_is_told(
    cache: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(HeadraceError, match=r"The disk of .* is full"):
        jars.provide([LIST], Silent())


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADRACE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.cache_folder() == tmp_path / "headrace"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jars.cache_folder() == tmp_path / ".cache" / "headrace"
