from __future__ import annotations

import sys

import click

from headrace.errors import HeadraceError
from producer.cli import serve

try:
    serve(prog_name="python -m producer")
except HeadraceError as error:
    click.echo(f"headrace: {error}", err=True)
    sys.exit(error.exit_code)
