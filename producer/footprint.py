"""What a serving process asks of the system and of Python: descriptors, and how memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from typing import Final

M_MMAP_THRESHOLD: Final = -3  # malloc.h
LONG_BUFFER_BYTES: Final = 256 * 1024
SPARE_DESCRIPTORS: Final = 64  # for Kafka, logs, the management port


def allow_descriptors(count: int) -> None:
    """As many open files as connections need, where the system lets us have them (many shells allow 1,024)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def quiet_garbage_collection() -> None:
    """What is there now stays; requests leave no cycles behind, so looking for them often is wasted."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def keep_no_long_buffers() -> None:
    """Long bodies and batches go back to the system when they are freed, where the C library is GNU's.

    By itself it would keep such buffers for the next ones once the first is freed, and hold half as much again.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LONG_BUFFER_BYTES)
