"""`python -m consumer`: archive with the settings of the environment and headrace.toml."""

from __future__ import annotations

import sys

import click

from consumer.process import run
from consumer.settings import ConsumerSettings
from headrace.errors import HeadraceError
from headrace.settings import load

if __name__ == "__main__":
    try:
        run(load(ConsumerSettings))
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(error.exit_code)
