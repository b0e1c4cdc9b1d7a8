"""Programs find the stack of their folder while it runs, and only then."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from headrace.local.discover import discover, read_stack_file

if TYPE_CHECKING:
    from pathlib import Path

TOLD = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "S3_BUCKET": "headrace"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*TOLD, "HEADRACE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".headrace"
    folder.mkdir()
    (folder / "stack.json").write_text(json.dumps({"environment": TOLD}))
    return folder


def test_nothing_is_found_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert discover() is None


def test_a_stack_is_found_as_long_as_its_owner_lives(folder: Path) -> None:
    with (folder / "lock").open("wb") as lock:
        assert discover() is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert discover() == TOLD
    assert discover() is None


@pytest.mark.parametrize("name", TOLD)
def test_what_the_environment_names_is_meant(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "mine")
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert discover() is None


def test_another_folder_may_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("HEADRACE_DATA", "elsewhere")
    with (tmp_path / "elsewhere" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert discover() == TOLD


@pytest.mark.parametrize("content", ["", "[]", "{", '{"environment": 3}'])
def test_a_broken_stack_file_is_none(folder: Path, content: str) -> None:
    (folder / "stack.json").write_text(content)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert discover() is None
    assert isinstance(read_stack_file(folder), dict)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, headrace.local.discover; print({'aiokafka', 'botocore', 'httpx', 'psutil'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
