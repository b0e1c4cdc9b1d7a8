"""What a mutant is, and the register of all."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.simulation.kinds import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class Mutant:
    """`profile`, `kind`: the schedules, and the format and layout, that are to find it. `seeds`: within so many."""

    name: str
    apply: Callable[[], AbstractContextManager[Any]]
    profile: str = "any"
    seeds: int = 2000
    kind: str = OWN


MUTANTS: dict[str, Mutant] = {}


def mutant(
    name: str, profile: str = "any", seeds: int = 2000, kind: str = OWN
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(body: Callable[[], Iterator[None]]) -> Callable[[], Any]:
        MUTANTS[name] = Mutant(name, contextlib.contextmanager(body), profile, seeds, kind)
        return body

    return register


def wrapped(owner: Any, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    original = getattr(owner, name)
    return patch.object(owner, name, wraps(original)(make(original)))
