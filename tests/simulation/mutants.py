"""Deliberate mistakes, each put into the real code for the length of a `with`: the harness must find every one.

DESIGN.md, section 3, names fifteen; the others were really there once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

from tests.simulation import mutants_of_claims, mutants_of_layouts, mutants_of_storage  # noqa: F401 - they register themselves
from tests.simulation.mutant import MUTANTS

__all__ = ["MUTANTS", "mutated"]


def mutated(name: str | None) -> AbstractContextManager[Any]:
    """The mutant of that name; None leaves the code as it is."""
    return ExitStack() if name is None else MUTANTS[name].apply()
