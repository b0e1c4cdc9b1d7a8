"""What a mutant is, and the register of all."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class Mutant:
    """`profile`: the kind of schedules that is to find it. `seeds`: within so many."""

    name: str
    apply: Callable[[], AbstractContextManager[Any]]
    profile: str = "any"
    seeds: int = 2000


MUTANTS: dict[str, Mutant] = {}


def mutant(name: str, profile: str = "any", seeds: int = 2000) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(body: Callable[[], Iterator[None]]) -> Callable[[], Any]:
        MUTANTS[name] = Mutant(name, contextlib.contextmanager(body), profile, seeds)
        return body

    return register


def wrapped(owner: Any, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    original = getattr(owner, name)
    return patch.object(owner, name, wraps(original)(make(original)))
