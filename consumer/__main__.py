"""`python -m consumer`: archive with the settings of the environment and headrace.toml."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Until SIGTERM or Ctrl-C; exits with 1 or 2 where that can't be."""
    gc.disable()  # nothing of what is imported is garbage; looking through it is a tenth of the start
    import click

    from consumer.process import run
    from consumer.settings import ConsumerSettings
    from headrace.errors import HeadraceError
    from headrace.settings import load

    try:
        run(load(ConsumerSettings))
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
