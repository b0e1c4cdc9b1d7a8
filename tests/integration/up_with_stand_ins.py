"""`headrace up` with stand-ins for its services: python up_with_stand_ins.py FOLDER NAME:CHOICE,CHOICE …"""

import os
import sys
from pathlib import Path

import click

from headrace.errors import HeadraceError
from headrace.local.ports import free_ports
from headrace.local.progress import Lines
from headrace.local.stack import Stack
from headrace.local.up import Service, Up

STAND_IN = str(Path(__file__).with_name("stand_in.py"))
folder, *wanted = sys.argv[1:]


def services() -> list[Service]:
    found = []
    for (name, _, choices), port in zip((each.partition(":") for each in wanted), free_ports(len(wanted)), strict=True):
        command = [sys.executable, STAND_IN, str(port), *choices.split(",")]
        found.append(Service(name, command, dict(os.environ), f"http://127.0.0.1:{port}/readyz", 5))
    return found


try:
    Up(Stack(Path(folder), progress=Lines()), Lines()).run(
        services, lambda seconds: click.echo(f"up after {seconds:.1f} s")
    )
except HeadraceError as error:
    click.echo(f"headrace: {error}", err=True)
    sys.exit(error.exit_code)
