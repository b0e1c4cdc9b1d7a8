"""The command line. Each command's work stands in a module of its own, imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from headrace import __version__
from headrace.errors import HeadraceError

COMMANDS: Final = {
    # name: (module, attribute), in the order in which a newcomer meets them
    "up": ("headrace.local.cli", "up"),
    "send": ("headrace.send", "send"),
    "serve": ("producer.cli", "serve"),
    "consume": ("consumer.cli", "consume"),
    "status": ("headrace.status", "status"),
    "verify": ("headrace.verify", "verify"),
    "replay": ("consumer.cli", "replay"),
    "restore": ("headrace.restore", "restore"),
    "claims": ("consumer.cli", "claims"),
    "token": ("producer.cli", "token"),
    "bench": ("headrace.bench.cli", "bench"),
    "config": ("headrace.config", "config"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def app() -> None:
    """HTTP producers → Kafka → S3, with nothing lost and nothing twice.

    \b
    Try it here:      headrace up, then paste the curl line that it shows
    In production:    headrace serve    takes payloads by HTTP and publishes them to a Kafka topic
                      headrace consume  archives topics to S3, exactly once per offset
    Is it all there?  headrace status, headrace verify

    Settings come from the environment, then headrace.toml, then defaults; `headrace config` shows them.
    Exit codes: 0 all well, 1 something failed (the message says what), 2 wrong usage or settings.
    """  # noqa: D301 - click knows its mark only as a character


def main() -> None:
    """Entry point of the `headrace` command."""
    try:
        app()
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(error.exit_code)
