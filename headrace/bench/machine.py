"""On what, of what, and when it was measured: without that, a figure says little."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from headrace import __version__
from headrace.nearby import configured

PACKAGES: Final = ("aiokafka", "aiobotocore", "httptools", "msgspec", "orjson", "uvicorn", "uvloop", "zstandard")

TUNING: Final = (
    *("CHUNK_MAX_BYTES", "CHUNK_MAX_RECORDS", "COMPRESSION", "COMPRESSION_LEVEL", "FORMAT"),
    *("KAFKA_COMPRESSION", "PARQUET_COLUMNS"),
    *("KAFKA_ISOLATION_LEVEL", "LINGER_MS", "MAX_CLAIMS", "MAX_LENGTH", "MAX_QUEUE", "MAX_WORKERS"),
    *("MEMORY_BUDGET_BYTES", "OBJECT_PATH", "LOG_LEVEL", "KAFKA_SECURITY_PROTOCOL"),
)
"""Settings that figures depend on; none is an address or a secret."""


def chosen_settings() -> dict[str, str]:
    """Those of them that environment or headrace.toml set: without them the run can't be repeated."""
    chosen = {**configured(), **{name: value for name, value in os.environ.items() if value}}
    return {name: str(chosen[name]) for name in TUNING if name in chosen}


def describe() -> dict[str, Any]:
    """Date (UTC), commit, machine and versions, as they are now."""
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "headrace": __version__,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "settings": chosen_settings(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """The commit that this source is of, with -dirty when tracked files differ; None where it is no git work tree."""
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=9", "--exclude=*"],  # noqa: S607 - git of the PATH
            cwd=here,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except OSError:
        return None
    return answer.stdout.strip() or None


def cpu_model() -> str:
    """As the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
