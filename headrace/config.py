"""`headrace config`: which settings are in force, and where each one comes from."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.errors import SettingsError
from headrace.nearby import configured
from headrace.settings import Base, config_file, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

SETTINGS: Final = {
    # Named, not imported: headrace depends on neither side, and this module is read when the command is called only.
    "serve": ("producer.settings", "ProducerSettings"),
    "consume": ("consumer.settings", "ConsumerSettings"),
}
MASK: Final = "********"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is now. `value` can be printed: secrets are masked. `source` is where it was told."""

    name: str
    value: Any
    source: str
    description: str


def settings_class(command: str) -> type[Base]:
    module, name = SETTINGS[command]
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Base)
    return found  # type: ignore[no-any-return]


def in_force(kind: type[Base], file: Mapping[str, Any]) -> tuple[list[Setting], str]:
    """Each setting, and what is wrong with them, if anything: then the values are those that were told."""
    problem = ""
    valid: Base | None = None
    try:
        valid = load(kind)
    except SettingsError as error:
        problem = str(error)
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    found = []
    for field_name, field in kind.model_fields.items():
        name = field_name.upper()
        told: Any
        if name in environment:
            source, told = "environment", environment[name]
        elif name in file:
            source, told = config_file().name, file[name]
        else:
            source, told = ("not set", None) if field.is_required() else ("default", field.get_default())
        value = told if valid is None else getattr(valid, field_name)
        found.append(Setting(name, _printable(field, value), source, field.description or ""))
    return found, problem


def unknown_keys(file: Mapping[str, Any], kinds: list[type[Base]]) -> list[str]:
    """A sentence for each key of headrace.toml that no command reads."""
    known = {name.upper() for kind in kinds for name in kind.model_fields}
    sentences = []
    for key in sorted(set(file) - known):
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Do you mean {near[0].lower()}?" if near else ""
        sentences.append(f"{config_file()}: nothing reads {key.lower()!r}.{hint}")
    return sentences


def _printable(field: FieldInfo, value: Any) -> Any:
    if field.annotation is SecretStr:
        secret = value.get_secret_value() if isinstance(value, SecretStr) else value
        return MASK if secret else ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is None or value is PydanticUndefined:
        return None
    return value if isinstance(value, bool | int | float) else str(value)


def _show(console: Console, command: str, found: list[Setting]) -> None:
    table = Table("setting", "value", "from", "what it is", title=f"headrace {command}", title_justify="left")
    for setting in found:
        style = {"default": "dim", "not set": "red"}.get(setting.source, "bold")
        value = "" if setting.value is None else str(setting.value)
        table.add_row(*(Text(cell) for cell in (setting.name, value, setting.source, setting.description)), style=style)
    console.print(table)


@click.command()
@click.argument("command", required=False, type=click.Choice(list(SETTINGS)))
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def config(command: str | None, as_json: bool) -> None:
    """Show the settings that are in force for `serve` and `consume`, and where each comes from.

    The environment comes first, then headrace.toml (or the file that HEADRACE_CONFIG names), then defaults. Secrets
    are masked. AWS credentials come by the AWS chain: environment, profiles, roles.

    Exit code 2 when a command could not start with them.
    """
    file = configured()
    commands = list(SETTINGS) if command is None else [command]
    kinds = {name: settings_class(name) for name in SETTINGS}
    found = {name: in_force(kinds[name], file) for name in commands}
    unknown = unknown_keys(file, list(kinds.values()))
    problems = {name: problem for name, (_, problem) in found.items() if problem}
    if as_json:
        answer = {
            "file": str(config_file()) if config_file().is_file() else None,
            "settings": {
                name: {
                    setting.name: {"value": setting.value, "source": setting.source, "description": setting.description}
                    for setting in settings
                }
                for name, (settings, _) in found.items()
            },
            "unknown": unknown,
            "problems": problems,
        }
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    else:
        console = Console()
        for name, (settings, _) in found.items():
            _show(console, name, settings)
        if not config_file().is_file():
            console.print(Text(f"There is no {config_file()} here.", "dim"))
        for sentence in unknown:
            click.echo(sentence, err=True)
        for name, problem in problems.items():
            click.echo(f"headrace {name} can't start. {problem}", err=True)
    if problems:
        sys.exit(SettingsError.exit_code)
