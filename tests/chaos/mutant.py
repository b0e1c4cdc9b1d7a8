"""`python -m tests.chaos.mutant ignore-claims`: a consumer with one of the simulation's mistakes in it."""

from __future__ import annotations

import runpy
import sys

from tests.simulation.mutants import mutated

if __name__ == "__main__":
    with mutated(sys.argv.pop(1)):
        runpy.run_module("consumer", run_name="__main__")
