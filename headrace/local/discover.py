"""Find the stack that `headrace up` runs in this folder. Imports nothing heavy."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Final

FOLDER_VARIABLE: Final = "HEADRACE_DATA"
STACK_FILE: Final = "stack.json"
LOCK_FILE: Final = "lock"


def stack_folder() -> Path:
    """.headrace/ here, or the folder that HEADRACE_DATA names."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ".headrace")


def read_stack_file(folder: Path) -> dict[str, Any]:
    """What stack.json says; nothing when there is none that can be read."""
    try:
        content = json.loads((folder / STACK_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def discover() -> dict[str, str] | None:
    """The settings of the stack that runs in this folder, by their names in the environment; None when none runs.

    None too when the environment names a Kafka or a bucket itself: then that is meant.
    """
    if "KAFKA_BOOTSTRAP_SERVERS" in os.environ or "S3_BUCKET" in os.environ:
        return None
    folder = stack_folder()
    if not _is_held(folder / LOCK_FILE):
        return None
    environment = read_stack_file(folder).get("environment")
    if not isinstance(environment, dict):
        return None
    return {str(name): str(value) for name, value in environment.items()}


def _is_held(lock: Path) -> bool:
    """Whether somebody holds the stack's lock. The kernel lets go of it when its holder dies, however it dies."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
